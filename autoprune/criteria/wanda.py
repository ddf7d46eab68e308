"""Wanda (Sun et al., A Simple and Effective Pruning Approach for LLMs, ICLR 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.criteria._columns import by_column
from autoprune.graph.units import of_role
from autoprune.scoring.evidence import Evidence


class Wanda(WeightCriterion):
    """Weights by the size of what they read: s = |w_ij| · ‖x_j‖, over all samples and positions.

    ‖x_j‖ is the root mean square of the input channel, so that layers with many positions gain
    nothing by them; of a convolution all weights that read a channel share it. Saliencies are
    not scaled, so what they are compared within decides: within rows, as in the paper, every
    row keeps its share; within kernels, rows with large weights keep more, and in the whole
    network, layers that read large inputs.

    A unit is worth what it contributes to those that read it, not what makes it: s_j =
    Σ ‖W_:j‖ · ‖x_j‖ over these kernels, W_:j all weights that read the unit; of a unit with
    several channels the squares are added under the root. Readers add up, each on the scale of
    its outputs, and groups compare as far as outputs of layers do. Kernels that cannot be
    watched (recurrent, transposed and embedding ones) are left out, and groups that no other
    reads.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return |w| times the norm of what it reads, float32."""
        found: dict[str, np.ndarray] = {}
        for name in evidence.kernels:
            if name in evidence.input_norms:
                kernel, norms = evidence.weights[name], evidence.input_norms[name]
                found[name] = np.abs(kernel) * by_column(norms.astype(np.float32), kernel)
        return found

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return what units contribute to the kernels that read them, shape (units,)."""
        saliencies, found = self.saliencies(evidence), {}
        for group in evidence.groups.prunable:
            read = of_role(group, saliencies, "in").values()
            if read:
                squares = (np.square(each, dtype=np.float64).sum(axis=1) for each in read)
                found[group.name] = np.sum([np.sqrt(each) for each in squares], axis=0)
        return found
