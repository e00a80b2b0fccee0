"""RandAugment (arXiv 1909.13719) of batches of bytes, drawn by (seed, epoch, sample index)."""

from .policies import POLICIES, RandAugment

__all__ = ["POLICIES", "RandAugment"]
