"""The embedded data source keeps the contract."""

from __future__ import annotations

from autoprune.data.digits import Digits
from autoprune.testing import DataSourceContract


class TestDigits(DataSourceContract):
    def make(self) -> Digits:
        return Digits()
