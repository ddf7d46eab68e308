"""L1 norm of filters (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""

from autoprune.criteria._norm import Norm


class L1(Norm):
    """Sum of absolute weights of the filters that make a unit: s = Σ|w|."""

    power = 1.0
