"""L2 norm of filters (He et al., Soft Filter Pruning, IJCAI 2018)."""

from autoprune.criteria._magnitude import Magnitude


class L2(Magnitude):
    """Euclidean norm of the filters that make a unit: s = (Σw²)^½."""

    power = 2
