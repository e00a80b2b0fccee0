"""SGD and Adam on spheres and plain SGD, fused; any optimiser on spheres; fused batch norm."""

from .norm_relu_pool.module import NormReLUPool
from .optimizers.fused_sgd import FusedSGD
from .optimizers.sphere_adam import SphereAdam
from .optimizers.sphere_sgd import SphereSGD
from .optimizers.statistics import Statistics, Totals, TotalsOf, group_statistics
from .spheres.equal_norms import EqualNorms, equal_norms_
from .spheres.invariance import scale_invariant_parameters, scale_invariant_sets
from .spheres.on_sphere import OnSphere

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
    "TotalsOf",
    "equal_norms_",
    "group_statistics",
    "scale_invariant_parameters",
    "scale_invariant_sets",
]
