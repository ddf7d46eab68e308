"""The runtimes by name; none is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from autoprune.errors import InputError, suggestion
from autoprune.runtimes.runtime import Runtime

RUNTIMES = {
    "torch": "torch_runtime:TorchEager",
    "torch_compile": "torch_compile:TorchCompile",
    "torch_sparse": "torch_sparse:TorchSparse",
    "onnx": "onnx_runtime:OnnxRuntime",
    "openvino": "openvino_runtime:OpenVino",
    "torchao": "torchao_runtime:TorchAo",
    "cuda_graph": "cuda_graph:CudaGraph",
}


def create(name: str, *, threads: int = 1) -> Runtime:
    """Return the runtime called `name`; raises `InputError` for an unknown name."""
    if name not in RUNTIMES:
        raise InputError(f"unknown runtime {name!r}; {suggestion(name, RUNTIMES)}")
    module, _, kind = RUNTIMES[name].partition(":")
    made: Any = getattr(importlib.import_module(f"autoprune.runtimes.{module}"), kind)
    runtime: Runtime = made(threads)
    return runtime
