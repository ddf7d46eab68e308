"""torchvision beside a CPU-only torch."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys

import torch
from torch.library import Library

# `import torchvision` registers shape functions for these two; without their schemas it fails.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def ensure_torchvision() -> None:
    """Make `import torchvision` work beside a CPU-only torch.

    torchvision's wheel carries a binary, `_C.so`, that needs CUDA libraries. Beside a
    CPU-only torch it does not load, the operators it defines are missing, and the import
    fails with "operator torchvision::nms does not exist". Classification models,
    transforms and data sets need none of these operators, so their declarations are
    enough. Call this before any import of torchvision or timm, in every process.

    Where the binary loads, nothing is changed. Further calls do nothing. JPEG decoding
    by torchvision and detection models stay unavailable where the binary does not load.
    """
    if "torchvision" not in sys.modules:
        _declared_operators()


@functools.cache
def _declared_operators() -> Library | None:
    """Declare the missing operators, once; None where torchvision's own are there.

    The cache keeps the library alive: its declarations vanish when it is collected.
    """
    # Finding the package must not import it: the import is what fails.
    package = importlib.util.find_spec("torchvision")
    if package is None or package.submodule_search_locations is None:
        return None  # not installed: `import torchvision` says so itself
    places = list(package.submodule_search_locations)
    binary = importlib.machinery.PathFinder.find_spec("_C", places)
    try:
        if binary is not None and binary.origin is not None:
            torch.ops.load_library(binary.origin)
            return None
    except OSError:
        pass
    library = Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
