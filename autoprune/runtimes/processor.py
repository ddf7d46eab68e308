"""What this processor does with products of 8-bit whole numbers."""

from __future__ import annotations

import torch


def saturates() -> bool:
    """Say whether pairs of 8-bit products are added in 16 bits, as on x86 without VNNI.

    The fastest instructions there cut sums off at 2^15. OpenVINO uses them; ONNX Runtime too,
    unless it is told otherwise (`autoprune.runtimes.onnx_session`).
    """
    found = torch.cpu.get_capabilities()
    exact = found.get("avx512_vnni") or found.get("avx_vnni")
    return str(found["architecture"]).startswith("x86") and not exact
