"""Groups of samples: by class, by an attribute, or by several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from autoprune.contracts.objective import Grouping
from autoprune.errors import DataError, suggestion
from autoprune.job.spec import DataSpec

CLASS = "class"


def read_attributes(spec: DataSpec) -> dict[str, np.ndarray]:
    """Return the job's own attributes as text (n,); raises `DataError` that names the file."""
    found = {}
    for name, text in spec.attributes.items():
        path = Path(text).expanduser()
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"data.attributes.{name}: {path} cannot be read ({error}); expected an .npy file, "
                "as numpy.save writes it, with one value for each sample"
            ) from error
        if not isinstance(values, np.ndarray) or values.ndim != 1:
            shape = getattr(values, "shape", "several arrays")
            raise DataError(
                f"data.attributes.{name}: {path} must hold one array of shape (n,), found {shape}"
            )
        found[name] = values.astype(str)
    return found


def grouped(
    titles: Sequence[str], attributes: Mapping[str, np.ndarray], labels: np.ndarray, part: str
) -> tuple[Grouping, ...]:
    """Return a grouping of all samples for every title; by class if there is none.

    `labels` is (n,), `part` says in words whose attributes these are. Raises `DataError` for
    an attribute that is unknown or of another length.
    """
    known = {CLASS: labels.astype(str), **attributes}
    return tuple(_grouping(title, known, len(labels), part) for title in titles or (CLASS,))


def _grouping(title: str, known: Mapping[str, np.ndarray], count: int, part: str) -> Grouping:
    columns = []
    for name in (each.strip() for each in title.split("&")):
        if name not in known:
            raise DataError(
                f"data.groups: {title!r} needs the attribute {name!r}; {suggestion(name, known)}; "
                "add one of your own with data.attributes"
            )
        if known[name].shape != (count,):
            raise DataError(
                f"attribute {name!r} has {len(known[name]):,} values, but the {part} part has "
                f"{count:,} samples; give one value for each, in their order"
            )
        columns.append(np.array([f"{name}={value}" for value in known[name]]))
    joined = columns[0]
    for other in columns[1:]:
        joined = np.char.add(np.char.add(joined, " & "), other)
    names, codes = np.unique(joined, return_inverse=True)
    return Grouping(title, tuple(map(str, names)), torch.from_numpy(codes.astype(np.int64)))


def require_members(groupings: Sequence[Grouping], split: str, count: int) -> None:
    """Raise `DataError` for a group without a sample among the `count` of a split."""
    for each in groupings:
        present = set(each.codes.tolist())
        empty = [name for code, name in enumerate(each.names) if code not in present]
        if empty:
            raise DataError(
                f"no sample of {', '.join(empty)} among the {count:,} of data.splits.{split}; "
                f"enlarge that split, or leave {each.title!r} out of data.groups"
            )
