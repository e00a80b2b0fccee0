"""Sphere-projected SGD in plain PyTorch: the meaning of every backend.

One step on a sphere of radius rho (Sadrtdinov et al. 2024, arXiv 2410.22113; the published code):

    eta = elr * rho^2        theta <- rho * (theta - eta * d) / ||theta - eta * d||

d is the gradient g, or with momentum mu the buffer v <- mu * v + g. The gradient is not projected:
it is orthogonal to theta for a scale-invariant network, up to the epsilon of its normalisers. With
scope "joint" all tensors lie on one sphere; with "group" every group has its own (Kodryan et al.
2022, arXiv 2209.03695: a fixed effective learning rate per group).

Legend: theta parameters, g gradients, eta raw learning rate, elr effective learning rate, rho
radius; a subscript i means group i.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import groups as group_ops


class GroupSums(NamedTuple):
    """What one pass over parameters and gradients yields per group, each (num_groups,)."""

    theta_theta: Tensor  # ||theta_i||^2
    theta_grad: Tensor  # <theta_i, g_i>
    grad_grad: Tensor  # ||g_i||^2


def group_sums(thetas: Sequence[Tensor], grads: Sequence[Tensor], groups: str) -> GroupSums:
    """||theta_i||^2, <theta_i, g_i> and ||g_i||^2 of every group, in the order of the tensors."""
    return GroupSums(
        group_ops.squared_norms(thetas, groups),
        torch.cat([group_ops.dot(t, g, groups) for t, g in zip(thetas, grads, strict=True)]),
        group_ops.squared_norms(grads, groups),
    )


def project_(thetas: Sequence[Tensor], radius: Tensor, scope: str, groups: str) -> None:
    """Rescale the tensors in place onto their sphere or spheres.

    `radius` is 0-d for scope "joint" and (num_groups,) for scope "group".
    """
    squared = group_ops.squared_norms(thetas, groups)
    norm = squared.sum().sqrt() if scope == "joint" else squared.sqrt()
    _scale_(thetas, radius / norm, groups)


def sphere_step(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor] | None,
    eta: Tensor,  # 0-d, or (num_groups,) for scope "group"
    radius: Tensor,  # 0-d, or (num_groups,) for scope "group"
    *,
    momentum: float,
    scope: str,
    groups: str,
    projection: str,
) -> GroupSums:
    """One step in place; returns the sums at the point where the gradient was taken.

    With projection "exact" the parameters lie on the sphere when the step returns. With "deferred"
    they are brought onto it at the start of the next step, or by `project_`.
    """
    if projection == "deferred":
        project_(thetas, radius, scope, groups)
    sums = group_sums(thetas, grads, groups)
    directions = grads
    if momentum_buffers is not None:
        for buffer, grad in zip(momentum_buffers, grads, strict=True):
            buffer.mul_(momentum).add_(grad)
        directions = momentum_buffers
    start = 0
    for theta, direction in zip(thetas, directions, strict=True):
        stop = start + group_ops.num_groups(theta, groups)
        step = group_ops.spread(eta[start:stop], theta, groups) if eta.ndim else eta
        theta.sub_((step * direction).to(theta.dtype))
        start = stop
    if projection == "exact":
        project_(thetas, radius, scope, groups)
    return sums


def _scale_(thetas: Sequence[Tensor], factor: Tensor, groups: str) -> None:
    start = 0
    for theta in thetas:
        stop = start + group_ops.num_groups(theta, groups)
        value = group_ops.spread(factor[start:stop], theta, groups) if factor.ndim else factor
        theta.mul_(value.to(theta.dtype))
        start = stop
