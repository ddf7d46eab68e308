"""Reading arrays from files, and the one check that all labelled data must pass."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoprune.contracts.data import RawData
from autoprune.errors import DataError

# Training inputs and labels, test inputs and labels.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Parts:
    """Return x_train, y_train, x_test and y_test of an .npz file.

    Pickled objects are never loaded. Raises `DataError` for a file that is missing, is
    not an .npz file, or lacks an array.
    """
    expected = f"expected an .npz file, as numpy.savez writes it, with {', '.join(_KEYS)}"
    if not path.is_file():
        raise DataError(f"no data file at {path} (looked for it at {path.absolute()}); {expected}")
    try:
        # numpy takes any other file for a pickle, which is not what is wrong with it.
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an .npz archive")
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive.files]
            if not missing:
                x_train, y_train, x_test, y_test = (np.asarray(archive[key]) for key in _KEYS)
                return x_train, y_train, x_test, y_test
            found = ", ".join(archive.files) or "nothing"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read: {error}; {expected}, none of them of type object"
        ) from error
    raise DataError(f"{path} lacks {', '.join(missing)}; {expected}, found: {found}")


def checked(raw: RawData, where: object) -> RawData:
    """Return `raw` with int64 labels once it keeps the contract of `RawData`.

    Raises `DataError` that names `where` (a file, or who made the data) and says what
    was found and what is expected.
    """
    train_labels = _checked_part(raw.train_inputs, raw.train_labels, f"{where}: training part")
    test_labels = _checked_part(raw.test_inputs, raw.test_labels, f"{where}: test part")
    train, test = raw.train_inputs, raw.test_inputs
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DataError(
            f"{where}: training and test inputs must be alike, given {_described(train)} "
            f"and {_described(test)}"
        )
    _check_statistics(raw, where)
    return replace(raw, train_labels=train_labels, test_labels=test_labels)


def _checked_part(inputs: np.ndarray, labels: np.ndarray, where: str) -> np.ndarray:
    _check_inputs(inputs, where)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels must be whole numbers of shape (n,), given {_described(labels)}"
        )
    if len(labels) != len(inputs):
        raise DataError(
            f"{where}: {len(inputs)} inputs but {len(labels)} labels; expected one label each"
        )
    if labels.min() < 0:
        raise DataError(
            f"{where}: labels must be classes counted from 0, given the label {labels.min()}"
        )
    return labels.astype(np.int64, copy=False)


def _check_inputs(inputs: np.ndarray, where: str) -> None:
    is_image = inputs.dtype == np.uint8 and inputs.ndim == 4 and inputs.shape[-1] in (1, 3)
    is_float = inputs.dtype == np.float32 and inputs.ndim >= 2
    if not (is_image or is_float):
        raise DataError(
            f"{where}: inputs must be uint8 images of shape (n, height, width, 1 or 3 "
            f"channels) or float32 of shape (n, ...), given {_described(inputs)}; convert "
            "them with .astype(numpy.float32), add the channel axis with [..., None], or put "
            "channels last with .transpose(0, 2, 3, 1)"
        )
    if inputs.size == 0:
        raise DataError(f"{where}: inputs are empty, given {_described(inputs)}")


def _check_statistics(raw: RawData, where: object) -> None:
    if not raw.mean and not raw.std:
        return
    if raw.train_inputs.dtype != np.uint8:
        raise DataError(
            f"{where}: 'mean' and 'std' are for uint8 images; float32 inputs are used as they "
            "are: leave both out and normalise the array itself"
        )
    channels = raw.train_inputs.shape[-1]
    if len(raw.mean) != channels or len(raw.std) != channels or min(raw.std) <= 0:
        raise DataError(
            f"{where}: 'mean' and 'std' need one number for each of {channels} channel(s), "
            f"with every 'std' above 0, given mean {list(raw.mean)} and std {list(raw.std)}"
        )


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
