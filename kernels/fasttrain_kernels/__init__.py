"""Sphere-projected and plain SGD in one pass over memory, with the norm of every filter."""

from .invariance import scale_invariant_parameters
from .optim import FusedSGD, SphereSGD
from .statistics import Statistics, group_statistics

__all__ = [
    "FusedSGD",
    "SphereSGD",
    "Statistics",
    "group_statistics",
    "scale_invariant_parameters",
]
