"""What exported Python files define, run without an import, for tests that look into them."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.contracts.exporter import Candidate
from autoprune.exporters.python_exporter import Python


def namespace(path: Path) -> dict[str, Any]:
    """Return what a written file defines."""
    module = types.ModuleType("written")
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), module.__dict__)
    return module.__dict__


def code_of(path: Path) -> str:
    """Return a written file without what it says about its origin."""
    return path.read_text(encoding="utf-8").partition("PROVENANCE = ")[0]


def exported(network: nn.Module, inputs: Tensor, folder: Path, **said: Any) -> tuple[Any, str]:
    """Return the network of a written file and its code, once outputs and state were compared."""
    path = folder / "network.py"
    Python().export(Candidate(network.eval(), inputs, said), path)
    written = namespace(path)["load"]()
    assert list(written.state_dict()) == list(network.state_dict())
    with torch.inference_mode():
        for count in (1, len(inputs)):
            torch.testing.assert_close(written(inputs[:count]), network(inputs[:count]))
    return written, code_of(path)
