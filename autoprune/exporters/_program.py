"""Networks as `torch.export` traces them, for exporters whose target is PyTorch itself.

    traced = traced_of(candidate)     # Traced(network, program)

A program is in PyTorch's training form: one node for what a layer calls, not for what that is
composed of, and batches of any size.
"""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from autoprune.contracts.exporter import Candidate
from autoprune.errors import ExportError
from autoprune.quantization.form import quantised_layers

# What PyTorch notes about nodes beyond what they compute: lines of code, and where they lie.
_ORIGINS = ("stack_trace", "source_fn_stack", "torch_fn", "from_node", "custom")


@dataclass(frozen=True)
class Traced:
    """A copy of a candidate's network, and the program that it runs; both in eval mode."""

    network: nn.Module
    program: ExportedProgram


def traced_of(candidate: Candidate) -> Traced:
    """Return a candidate's network as a program for inputs (n, ...), n ≥ 1.

    The program names the tensors of the copy. Raises `ExportError`, which says what to use
    instead, for a quantised network and for one that PyTorch cannot trace.
    """
    if quantised_layers(candidate.network):
        raise ExportError("this network is quantised; use --to onnx_int8")
    twin = copy.deepcopy(candidate.network).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    twin.eval()
    for each in twin.parameters():
        # Attention that cannot learn takes a path of its own, fused and for inference alone.
        each.requires_grad_(each.is_floating_point() or each.is_complex())
    program = _exported(twin, candidate.example)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for key in _ORIGINS:
                node.meta.pop(key, None)
    return Traced(twin, program)


def _exported(network: nn.Module, example: torch.Tensor) -> ExportedProgram:
    # A program keeps what it was traced with, and no user's data is to leave: zeros will do.
    # Two of them, since a size of one in a trace stands for one alone.
    blank = torch.zeros((2, *example.shape[1:]), dtype=example.dtype)
    level = logging.getLogger("torch").level
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch").setLevel(logging.ERROR)
        try:
            return torch.export.export(network, (blank,), dynamic_shapes=({0: Dim("n", min=1)},))
        except Exception as error:  # whatever the network and PyTorch's tracing say
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(
                f"torch.export cannot trace this network: {why}; use --to torch"
            ) from error
        finally:
            logging.getLogger("torch").setLevel(level)
