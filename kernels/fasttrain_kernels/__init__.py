"""Sphere-projected and plain SGD in one pass over memory, and fused batch normalisation."""

from .invariance import scale_invariant_parameters
from .norm_relu_pool import NormReLUPool
from .optim import FusedSGD, SphereSGD
from .statistics import Statistics, Totals, group_statistics

__all__ = [
    "FusedSGD",
    "NormReLUPool",
    "SphereSGD",
    "Statistics",
    "Totals",
    "group_statistics",
    "scale_invariant_parameters",
]
