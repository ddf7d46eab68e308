"""What a network's energy would be where it cannot be measured."""

from __future__ import annotations

from autoprune.graph.cost import Costs
from autoprune.trial import Measurement

# M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure
# 1.1.9: a chip of 45 nm at 0.9 V. A multiplication (3.7) and an addition (0.9) in 32-bit
# floating point; an access of 64 bits to DRAM, the lower end of 1.3 to 2.6 nJ.
MAC_PJ = 3.7 + 0.9
BYTE_PJ = 1300.0 / 8
NOTE = "estimated: operations and bytes moved, at the energies of a 45 nm chip (Horowitz 2014)"


def estimated(costs: Costs, batch: int, why: str) -> Measurement:
    """Return the mJ per sample of a pass over `batch` samples; the note says `why`, if not "".

    Every pass reads the weights once; what layers write is written and read once per sample.
    All that stays the same from network to network, such as idle power, is left out. Fewer bits
    take as much less as there are fewer bit operations: 0.29 pJ with 8 bits, where Horowitz has
    0.2 for a multiplication of 8 and 0.1 for an addition of 32.
    """
    operations = MAC_PJ * costs.bitops / 32**2
    weights = BYTE_PJ * costs.size_bytes / batch
    activations = BYTE_PJ * 2 * costs.activation_bytes
    parts = {"macs_mj": operations, "weights_mj": weights, "activations_mj": activations}
    return Measurement(
        sum(parts.values()) / 1e9,
        note=f"{NOTE}; {why}" if why else NOTE,
        parts={name: Measurement(pj / 1e9) for name, pj in parts.items()},
    )
