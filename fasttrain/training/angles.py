"""Angles between the weights of networks (arXiv 2410.22113, metrics)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def angle(
    a: Sequence[Tensor],  # tensors of any shapes
    b: Sequence[Tensor],  # of the same shapes
) -> float:
    """The angle between two lists of tensors as vectors, in rad, in fp64; NaN if one is zero.

    arccos(u.v) of unit vectors cannot tell angles below 1e-8 from 0; 2 atan2(|u - v|, |u + v|) can.
    """
    return angle_of(chords(a, b).tolist())


def chords(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """|u - v| and |u + v| of the unit vectors of both, on their device: (2,) fp64."""
    u, v = (torch.cat([tensor.flatten().double() for tensor in tensors]) for tensors in (a, b))
    u, v = u / torch.linalg.vector_norm(u), v / torch.linalg.vector_norm(v)
    return torch.stack([torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v)])


def angle_of(found: Sequence[float]) -> float:
    """The angle between vectors of these `chords`."""
    apart, together = found
    return 2 * math.atan2(apart, together)
