"""Groups: the parameters whose norm is tracked together.

With `groups="filter"` a tensor of two or more dimensions is split along its first one (a conv
weight has one group per output filter); with `groups="tensor"`, and for vectors and scalars, the
whole tensor is one group. A group never spans tensors.

Legend: theta_i group i of the parameters, g_i its gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def num_groups(tensor: Tensor, groups: str) -> int:
    """Number of groups of one tensor."""
    return tensor.shape[0] if groups == "filter" and tensor.ndim > 1 else 1


def group_names(name: str, tensor: Tensor, groups: str) -> list[str]:
    """Names of a tensor's groups: `conv.weight[0]`, ... or the tensor's own name."""
    if groups == "filter" and tensor.ndim > 1:
        return [f"{name}[{row}]" for row in range(tensor.shape[0])]
    return [name]


def dot(a: Tensor, b: Tensor, groups: str) -> Tensor:
    """Inner products <a_i, b_i> per group, accumulated in fp32 or wider: (num_groups,)."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    product = a.to(dtype) * b.to(dtype)
    if groups == "filter" and a.ndim > 1:
        return product.sum(dim=tuple(range(1, a.ndim)))
    return product.sum().reshape(1)


def squared_norms(tensors: Sequence[Tensor], groups: str) -> Tensor:
    """||theta_i||^2 of every group of every tensor, in order: (sum of num_groups,)."""
    return torch.cat([dot(t, t, groups) for t in tensors])


def spread(values: Tensor, tensor: Tensor, groups: str) -> Tensor:
    """Shape one value per group of `tensor` so that it broadcasts against the tensor."""
    if groups == "filter" and tensor.ndim > 1:
        return values.reshape(-1, *[1] * (tensor.ndim - 1))
    return values.reshape(())
