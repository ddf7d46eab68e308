"""Sessions of ONNX Runtime on the CPU, and what can be seen inside a model with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autoprune.runtimes.runtime import batches_of


def session(model: bytes, threads: int = 1) -> Any:
    """Load a model, with all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that spin after a pass would take the processor from whoever runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Exact 8-bit products where the processor has none (x86 without VNNI); slower only there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ranges_of(
    model: bytes, tensors: Sequence[str], samples: Tensor
) -> Mapping[str, tuple[float, float]]:
    """Return the least and the greatest value of tensors of a model over samples (n, ...)."""
    import onnx

    proto = onnx.load_from_string(model)
    seen = list(tensors)
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(each) for each in seen)
    loaded = session(proto.SerializeToString())
    (given,) = loaded.get_inputs()
    size = given.shape[0] if isinstance(given.shape[0], int) else len(samples)
    lows, highs = [], []
    for batch, _ in batches_of(samples.cpu(), size):
        found = loaded.run(seen, {given.name: batch.contiguous().numpy()})
        lows.append([each.min() for each in found])
        highs.append([each.max() for each in found])
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return {name: (float(low[x]), float(high[x])) for x, name in enumerate(seen)}
