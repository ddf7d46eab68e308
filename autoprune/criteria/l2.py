"""L2 norm of filters (He et al., Soft Filter Pruning, IJCAI 2018)."""

from autoprune.criteria._norm import Norm


class L2(Norm):
    """Euclidean norm of the filters that make a unit: s = (Σw²)^½."""

    power = 2.0
