"""Sphere-projected optimisers that track the norm of every filter."""

from .optim import SphereSGD
from .statistics import Statistics

__all__ = ["SphereSGD", "Statistics"]
