"""The in-process executor keeps the contract."""

from __future__ import annotations

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.executor.local import LocalExecutor
from autoprune.testing import ExecutorContract


class TestLocalExecutor(ExecutorContract):
    runs_aside = False

    def make(self, spec: EvaluatorSpec) -> LocalExecutor:
        return LocalExecutor(spec)
