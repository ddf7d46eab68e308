"""What discovery and proof find in every network of the test catalog, as docs/models.md.

python -m benchmarks.models           # all networks; names as arguments choose some
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.graph.cost import Costs
from autoprune.policy import Policy
from autoprune.surgery.examination import Examination, examine
from autoprune.tracing.discovery import discover
from tests.zoo import ENTRIES, Entry

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "models.md"
HEAD = """# Networks that are pruned

Made by `python -m benchmarks.models`: random weights, small inputs, one thread. A group is
*frozen* when tracing shows that it must stay (the outputs, what is counted by a mean or a
softmax), and *quarantined* when cutting it broke the network or its outputs. *Reached* is
the share of all macs that lies in layers with a prunable group, *lowest* the share that is
left with one unit in every group and without the blocks. *Error* is the largest difference
between a carved network and its masked form, relative to the largest output. The
*examination* is discovery and proof, twice where groups failed at first.

"""
COLUMNS = (
    "network", "family", "groups", "prunable", "frozen", "quarantined", "blocks", "reached",
    "lowest", "error", "discovery", "examination",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What was found in one network."""

    entry: Entry
    found: Examination
    discovery_s: float
    examination_s: float

    def cells(self) -> Iterator[str]:
        """Yield the cells of the table."""
        costs, groups = self.found.graph.costs, self.found.graph.groups
        dense, parts = costs.costs(Policy()), costs.by_module(Policy())
        layers = {layer for group in groups.prunable for layer in group.layers}
        reached = sum(parts.get(layer, Costs(0, 0, 0)).macs for layer in layers)
        quarantined = len(self.found.quarantined)
        yield self.entry.name
        yield self.entry.family
        yield str(len(groups))
        yield str(len(groups.prunable))
        yield str(len(groups) - len(groups.prunable) - quarantined)
        yield str(quarantined)
        yield str(len(groups.droppable))
        yield f"{100 * reached / dense.macs:.0f} %"
        yield f"{100 * costs.lowest().macs / dense.macs:.1f} %"
        yield f"{self.found.error:.1e}"
        yield f"{self.discovery_s:.2f} s"
        yield f"{self.examination_s:.2f} s"

    def reasons(self) -> dict[str, str]:
        """Return a group for every kind of reason that keeps one whole."""
        found: dict[str, str] = {}
        for group in self.found.graph.groups:
            reason = group.reason or ""
            if reason and "single unit" not in reason and "network's output" not in reason:
                found.setdefault(reason.partition(" in ")[0][:60], f"`{group.name}`: {reason}")
        return found


def main() -> None:
    """Write the document, or print the rows of the networks that are named."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [each for each in ENTRIES if not sys.argv[1:] or each.name in sys.argv[1:]]
    rows = []
    for each in chosen:
        rows.append(examined(each))
        print(" | ".join(rows[-1].cells()), flush=True)
    if not sys.argv[1:]:
        DOCUMENT.write_text(document(rows))


def examined(entry: Entry) -> Row:
    """Trace and prove one network."""
    model, example = entry.build()
    start = time.perf_counter()
    discover(model, example)
    traced = time.perf_counter()
    found = examine(model, example)
    return Row(entry, found, traced - start, time.perf_counter() - traced)


def document(rows: list[Row]) -> str:
    """Return the table, and below it what is left alone and why."""
    lines = [f"| {' | '.join(row.cells())} |" for row in rows]
    rule = "|---" * len(COLUMNS) + "|"
    text = (
        HEAD
        + "\n".join([f"| {' | '.join(COLUMNS)} |", rule, *lines])
        + "\n\n## What is left alone, and why\n\n"
    )
    text += "One group for every kind of reason; outputs and single units are left out.\n\n"
    for row in rows:
        reasons = list(row.reasons().values())
        if reasons:
            text += f"- **{row.entry.name}**: " + "; ".join(reasons[:3]) + "\n"
    return text


if __name__ == "__main__":
    main()
