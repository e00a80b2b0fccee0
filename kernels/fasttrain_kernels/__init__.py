"""Sphere-projected and plain SGD in one pass over memory, and fused batch normalisation."""

from .equal_norms import EqualNorms, equal_norms_
from .invariance import scale_invariant_parameters
from .norm_relu_pool import NormReLUPool
from .optim import FusedSGD, SphereSGD
from .statistics import Statistics, group_statistics

__all__ = [
    "EqualNorms",
    "FusedSGD",
    "NormReLUPool",
    "SphereSGD",
    "Statistics",
    "equal_norms_",
    "group_statistics",
    "scale_invariant_parameters",
]
