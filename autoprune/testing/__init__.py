"""Contract suites for plug-ins, stores and executors, as pytest classes to inherit from."""

from .criterion import CriterionContract
from .data import DataSourceContract
from .executor import ExecutorContract
from .exporter import ExporterContract
from .objective import ObjectiveContract
from .searcher import SearcherContract
from .space import SpaceContract
from .store import StoreContract

__all__ = [
    "CriterionContract",
    "DataSourceContract",
    "ExecutorContract",
    "ExporterContract",
    "ObjectiveContract",
    "SearcherContract",
    "SpaceContract",
    "StoreContract",
]
