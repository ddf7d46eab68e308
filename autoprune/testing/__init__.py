"""Contract suites for plug-ins, stores and executors, as pytest classes to inherit from.

Suites are imported on first use: evaluators for tests run in workers, where neither pytest
nor torch need be there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .criterion import CriterionContract, WeightCriterionContract
    from .data import DataSourceContract
    from .executor import ExecutorContract
    from .exporter import ExporterContract, NetworkExporterContract
    from .objective import ObjectiveContract
    from .recovery import RecoveryContract
    from .run import RunContract
    from .searcher import SearcherContract
    from .space import SpaceContract
    from .store import StoreContract

__all__ = [
    "CriterionContract",
    "DataSourceContract",
    "ExecutorContract",
    "ExporterContract",
    "NetworkExporterContract",
    "ObjectiveContract",
    "RecoveryContract",
    "RunContract",
    "SearcherContract",
    "SpaceContract",
    "StoreContract",
    "WeightCriterionContract",
]

_HOMES = {
    "CriterionContract": "criterion",
    "DataSourceContract": "data",
    "ExecutorContract": "executor",
    "ExporterContract": "exporter",
    "NetworkExporterContract": "exporter",
    "ObjectiveContract": "objective",
    "RecoveryContract": "recovery",
    "RunContract": "run",
    "SearcherContract": "searcher",
    "SpaceContract": "space",
    "StoreContract": "store",
    "WeightCriterionContract": "criterion",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"autoprune.testing.{_HOMES[name]}"), name)
