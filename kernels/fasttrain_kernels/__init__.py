"""SGD and Adam on spheres and plain SGD, fused; any optimiser on spheres; fused batch norm."""

from .equal_norms import EqualNorms, equal_norms_
from .fused_sgd import FusedSGD
from .invariance import scale_invariant_parameters, scale_invariant_sets
from .norm_relu_pool import NormReLUPool
from .on_sphere import OnSphere
from .optim import SphereSGD
from .sphere_adam import SphereAdam
from .statistics import Statistics, Totals, group_statistics

__version__ = "0.1.0"

__all__ = [
    "EqualNorms",
    "FusedSGD",
    "NormReLUPool",
    "OnSphere",
    "SphereAdam",
    "SphereSGD",
    "Statistics",
    "Totals",
    "equal_norms_",
    "group_statistics",
    "scale_invariant_parameters",
    "scale_invariant_sets",
]
