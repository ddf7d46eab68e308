"""UCI Adult: who earns more than 50,000 dollars a year, by sex and race."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked
from autoprune.errors import DataError

_NUMBERS = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
_COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
)
# Of the census, not of the person; and the same as education-num in words.
_UNUSED = frozenset({"fnlwgt", "education"})


class Adult(DataSource):
    """UCI Adult (Kohavi, 1996): census rows, 2 classes; every column is an attribute.

    Class 1 earns more than 50,000 dollars. Inputs are float32 (n, features): numbers with the
    training part's mean 0 and deviation 1 (gains and losses as logarithms), and one column
    for each value of a word, `?` included.

    Args:
        path: the directory that holds `adult.data` and `adult.test`.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path).expanduser()

    def load(self) -> RawData:
        """Read both parts; raises `DataError` for a missing file or an unfit row."""
        train, train_labels = self._rows("adult.data")
        test, test_labels = self._rows("adult.test")
        inputs = _encoded(train, train), _encoded(test, train)
        raw = RawData(
            inputs[0],
            train_labels,
            inputs[1],
            test_labels,
            train_attributes=train,
            test_attributes=test,
        )
        return checked(raw, self.path)

    def _rows(self, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the columns as text, and the classes."""
        path = self.path / name
        if not path.is_file():
            raise DataError(
                f"no {name} in {self.path.absolute()}; expected adult.data and adult.test"
            )
        with path.open(encoding="ascii", errors="replace", newline="") as file:
            # The test part begins with a remark, and ends its rows with a full stop.
            rows = [row for row in csv.reader(file, skipinitialspace=True) if len(row) > 1]
        wrong = next((row for row in rows if len(row) != len(_COLUMNS) + 1), None)
        if wrong is not None or not rows:
            raise DataError(f"{path}: expected {len(_COLUMNS) + 1} columns, found the row {wrong}")
        *columns, earnings = zip(*rows, strict=True)
        labels = np.array([each.startswith(">") for each in earnings], dtype=np.int64)
        return {name: np.array(each) for name, each in zip(_COLUMNS, columns, strict=True)}, labels


def _encoded(part: dict[str, np.ndarray], train: dict[str, np.ndarray]) -> np.ndarray:
    """Return inputs (n, features) float32 in the scale and the vocabulary of `train`."""
    columns = []
    for name in _COLUMNS:
        if name in _UNUSED:
            continue
        if name in _NUMBERS:
            values, base = (_numbers(name, each[name]) for each in (part, train))
            columns.append(((values - base.mean()) / (base.std() or 1.0))[:, None])
        else:
            vocabulary = np.unique(train[name])
            columns.append(part[name][:, None] == vocabulary)
    return np.concatenate(columns, axis=1).astype(np.float32)


def _numbers(name: str, text: np.ndarray) -> np.ndarray:
    try:
        values = text.astype(np.float64)
    except ValueError as error:
        raise DataError(
            f"column {name} of Adult holds something that is no number: {error}"
        ) from None
    return np.log1p(values) if name.startswith("capital") else values
