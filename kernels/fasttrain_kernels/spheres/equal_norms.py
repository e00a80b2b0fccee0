"""Every filter on a sphere of its own, all of one radius: the variant of arXiv 2209.03695.

There all n filters of all layers are first set to one norm r and keep it, at one raw rate:

    r^2 = sum ||theta_i||^2 / n     eta = ELR n r^2     theta_i <- r (theta_i - eta g_i) / ||...||

so that the effective rate of each is ELR_i = eta / r^2 = n ELR, and sum 1/ELR_i = 1/ELR as on a
joint sphere. `SphereSGD(scope="group")` alone keeps the norms that the filters have.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class EqualNorms(NamedTuple):
    """For `SphereSGD(params, elr=num_filters * elr, radius=radius, scope="group")`."""

    radius: float
    num_filters: int


@torch.no_grad()
def equal_norms_(params: Iterable[Tensor | tuple[str, Tensor]]) -> EqualNorms:
    """Set all filters of one network to one norm in place; the sum of their squares stays.

    Args:
        params: parameters, or (name, parameter) pairs; filters are the slices of the first
            dimension, a vector is one filter, as for `groups="filter"`.

    Raises:
        ValueError: no parameter, or a filter whose norm is zero or not finite.
    """
    tensors = [entry if isinstance(entry, Tensor) else entry[1] for entry in params]
    if not tensors:
        raise ValueError("equal_norms_ needs at least one parameter")
    norms = [_filter_norms(tensor) for tensor in tensors]
    every = torch.cat([norm.flatten() for norm in norms])
    wrong = ~((every > 0) & every.isfinite())
    if bool(wrong.any()):
        raise ValueError(f"{int(wrong.sum())} of {len(every)} filters have no finite norm above 0")
    radius = every.square().mean().sqrt()
    for tensor, norm in zip(tensors, norms, strict=True):
        tensor.mul_((radius / norm).to(tensor.dtype))
    return EqualNorms(float(radius), len(every))


def _filter_norms(tensor: Tensor) -> Tensor:
    """fp64, of as many dimensions as the tensor."""
    dims = tuple(range(tensor.ndim > 1, tensor.ndim))
    return torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=torch.float64)
