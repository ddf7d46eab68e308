"""What sparse kernels save in PyTorch on the CPU: layers, and a whole vision transformer.

    python -m benchmarks.sparse_kernels              # both parts, about two minutes on one core
    python -m benchmarks.sparse_kernels layers       # dense against sparse, layer by layer
    python -m benchmarks.sparse_kernels network      # `torch` against `torch_sparse`

Kernels are random, and the weights of the largest magnitude stay. Two runners are timed in turn
(sparse, dense, dense, sparse); milliseconds are medians of a pass, `share` is the time without
zeros over that with them and its 95 % interval. One thread. Each line is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from autoprune.evaluation.workbench import processor_name
from autoprune.policy import LayerDecision
from autoprune.runtimes import timing
from autoprune.runtimes.catalog import create
from autoprune.runtimes.runtime import Runner
from autoprune.runtimes.sparse_product import forms
from autoprune.runtimes.torch_runtime import TorchRunner
from autoprune.surgery.sparsify import mask_of

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
PATTERNS = ("2:4", "4x1@0.2", "8x8@0.5", "8x8@0.2", "8x8@0.1")
WIDTHS = ((768, 3072), (3072, 768))
ROWS = (1, 64)
SECONDS = 1.0  # of timing at most, for each pair


def main() -> None:
    """Run the parts named on the command line, or both."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps({"processor": processor_name(), "torch": torch.__version__}), flush=True)
    parts = {"layers": layers, "network": network}
    for name in sys.argv[1:] or list(parts):
        for line in parts[name]():
            print(json.dumps({"part": name, **line}, ensure_ascii=False), flush=True)


def layers() -> Iterator[dict[str, Any]]:
    """Yield a line per layer, rows of inputs, share or pattern, and layout of the kernel."""
    for inputs, outputs in WIDTHS:
        for rows in ROWS:
            for text in (*map(str, SHARES), *PATTERNS):
                layer = sparse(nn.Linear(inputs, outputs), decision(text))
                example = torch.randn(rows, inputs)
                dense = TorchRunner(layer, layer, example, 1)
                for place, form in enumerate(forms(layer, in_half=False)):
                    what = {"layer": f"{inputs}→{outputs}", "rows": rows, "kept": text}
                    what["stored_in"] = ("rows", "blocks")[place]
                    yield {**what, **compared(TorchRunner(layer, form, example, 1), dense)}


def network() -> Iterator[dict[str, Any]]:
    """Yield a line per share or pattern of all linear layers, at batch 1."""
    for text in (*map(str, SHARES[:-1]), "2:4", "8x8@0.2"):
        model, example = sparse(VisionTransformer(), decision(text)), torch.randn(1, 3, 128, 128)
        runner = create("torch_sparse").build(model, example)
        found = compared(runner, create("torch").build(model, example))
        yield {"kept": text, **found, "notes": runner.notes}


class Attention(nn.Module):
    """Self-attention of six heads whose projections are linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (n, places, width)."""
        heads = self.qkv(tokens).unflatten(-1, (3, 6, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*heads.unbind(0))
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class VisionTransformer(nn.Module):
    """64 patches of 16×16 pixels, six blocks of ViT-S's width: 10.6 million weights."""

    def __init__(self, width: int = 384, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.places = nn.Parameter(torch.zeros(1, 64, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "attention": Attention(width),
                    "norm2": nn.LayerNorm(width),
                    "mlp": nn.Sequential(
                        nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
                    ),
                }
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, 1000) of images (n, 3, 128, 128)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            parts: Any = block
            tokens = tokens + parts["attention"](parts["norm1"](tokens))
            tokens = tokens + parts["mlp"](parts["norm2"](tokens))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def decision(text: str) -> LayerDecision:
    """Read a share, a pattern N:M, or a pattern and the share of its blocks."""
    pattern, _, share = text.rpartition("@")
    if ":" in text:
        kept, many = map(int, text.split(":"))
        return LayerDecision(keep_ratio=kept / many, pattern=text)
    return LayerDecision(keep_ratio=float(share), pattern=pattern or None)


@torch.no_grad()
def sparse(model: nn.Module, kept: LayerDecision) -> nn.Module:
    """Return a network in eval mode whose linear layers lost their smallest weights, in place."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(mask_of(layer.weight.abs(), kept))
    return model.eval().requires_grad_(False)


def compared(runner: Runner, dense: Runner) -> dict[str, Any]:
    """Return milliseconds of both, and the share of the first in the second."""
    with dense, runner:
        found = timing.compare(runner, dense, precision=0.02, seconds=SECONDS)
    ratio = found.ratio
    return {
        "dense_ms": round(found.reference_ms.value, 3),
        "sparse_ms": round(found.candidate_ms.value, 3),
        "share": [round(each, 3) for each in (ratio.value, ratio.low or 0, ratio.high or 0)],
    }


if __name__ == "__main__":
    main()
