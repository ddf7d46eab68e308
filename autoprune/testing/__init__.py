"""Contract suites for plug-ins, as pytest classes to inherit from."""

from .searcher import SearcherContract
from .space import SpaceContract
from .store import StoreContract

__all__ = ["SearcherContract", "SpaceContract", "StoreContract"]
