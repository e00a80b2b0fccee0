"""Fused normalisation, ReLU and pooling as operators that torch can trace and transform.

`NormReLUPool` calls `torch.ops.fasttrain_kernels.norm_relu_pool` where torch looks into a call:
under `torch.compile`, `make_fx`, fake tensors. In an eager call on a small tensor it takes twice
the time of an `autograd.Function`.

Of <u, dy>, with s = 1 / sqrt(var + eps), x the normalised y, g the gradient of x, c = mean(g x) and
b = mean(u x), the gradient

    of y is    -s^2 (c (u - mean(u)) + b dy / s + (mean(u dy) / s - b c) x)
    of g is    s (u - mean(u) - b x)
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from . import backend

DEVICES = ("cpu", "cuda")
"""Device types of the operators."""

LAST = torch.channels_last


@custom_op("fasttrain_kernels::norm_relu_pool", mutates_args=(), device_types=DEVICES)
def norm_relu_pool(
    y: Tensor,  # (N, C, H, W)
    pool: Sequence[int],
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, what its gradient needs, (2, C), and mean and unbiased variance, (2, C)."""
    moments = torch.zeros((2, y.shape[1]), dtype=torch.float64, device=y.device)
    count = torch.zeros((), dtype=torch.int64, device=y.device)
    once = backend.Running(moments[0], moments[1], count, 1.0)
    y = y.contiguous(memory_format=LAST)
    out, statistics = backend.kernels(y.device.type).forward(y, _window(pool), relu, eps, once)
    return out, statistics, moments


@norm_relu_pool.register_fake
def _(y: Tensor, pool: Sequence[int], relu: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, w = y.shape
    shape = (n, c, h // pool[0], w // pool[1])
    out = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=LAST)
    statistics = y.new_empty((2, c), dtype=torch.float64)
    return out, statistics, torch.empty_like(statistics)


@custom_op("fasttrain_kernels::norm_relu_pool_backward", mutates_args=(), device_types=DEVICES)
def norm_relu_pool_backward(
    grad: Tensor,  # like out
    y: Tensor,
    out: Tensor,
    statistics: Tensor,
    pool: Sequence[int],
    relu: bool,
) -> Tensor:
    """The gradient of y."""
    grad, y, out = (tensor.contiguous(memory_format=LAST) for tensor in (grad, y, out))
    backward = backend.kernels(y.device.type).backward
    return backward(grad, y, out, statistics.contiguous(), _window(pool), relu)


@norm_relu_pool_backward.register_fake
def _(grad: Tensor, y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y, memory_format=LAST)


@custom_op(
    "fasttrain_kernels::norm_relu_pool_backward_twice", mutates_args=(), device_types=DEVICES
)
def norm_relu_pool_backward_twice(
    u: Tensor,  # like y
    grad: Tensor,  # like out
    y: Tensor,
    out: Tensor,
    statistics: Tensor,
    dy: Tensor,
    pool: Sequence[int],
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of `grad` and y, given that of dy; torch names it if asked for third ones."""
    found = second_gradients(u, grad, y, out, statistics, dy, _window(pool), relu)
    of_grad, of_y = (tensor.clone(memory_format=LAST) for tensor in found)
    return of_grad, of_y


@norm_relu_pool_backward_twice.register_fake
def _(u: Tensor, grad: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, memory_format=LAST), torch.empty_like(y, memory_format=LAST)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    out, statistics, moments = output
    ctx.mark_non_differentiable(statistics, moments)
    ctx.save_for_backward(inputs[0], out, statistics)
    ctx.options = inputs[1:3]


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    y, out, statistics = ctx.saved_tensors
    dy = norm_relu_pool_backward(grad, y, out.detach(), statistics, *ctx.options)
    return dy, None, None, None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4], output)
    ctx.options = inputs[4:]


def _backward_twice(ctx: Any, u: Tensor) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    return *norm_relu_pool_backward_twice(u, *saved, *ctx.options), None, None, None, None


norm_relu_pool.register_autograd(_backward, setup_context=_keep)
norm_relu_pool_backward.register_autograd(_backward_twice, setup_context=_keep_gradient)


def second_gradients(
    u: Tensor,
    grad: Tensor,
    y: Tensor,
    out: Tensor,
    statistics: Tensor,
    dy: Tensor,
    pool: tuple[int, int],
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of <u, dy> for `grad`, the gradient of the output, and y."""
    wide = torch.promote_types(y.dtype, torch.float32)
    mean, scale = (row.to(wide).view(1, -1, 1, 1) for row in statistics)
    taken = (out > 0).to(wide) if relu else torch.ones_like(out, dtype=wide)
    count = y.numel() // y.shape[1]
    u = u.to(wide).contiguous(memory_format=LAST)
    x = (y - mean) * scale
    gx = _sums(grad * taken * out) / count
    mean_u, ux, udy = _sums(u) / count, _sums(u * x) / count, _sums(u * dy) / count
    centred = u - mean_u
    of_grad = torch.addcmul(centred, x, ux, value=-1)
    if pool != (1, 1):
        _, places = F.max_pool2d(y, pool, return_indices=True)
        of_grad = of_grad.flatten(2).gather(2, places.flatten(2)).view_as(out)
    of_grad = of_grad * (taken * scale)
    of_y = x.mul_(-scale * udy + scale**2 * gx * ux)
    of_y.addcmul_(centred, -(scale**2) * gx).addcmul_(dy, -scale * ux)
    return of_grad.to(grad.dtype), of_y.to(y.dtype)


def _window(pool: Sequence[int]) -> tuple[int, int]:
    height, width = pool
    return height, width


def _sums(values: Tensor) -> Tensor:
    """Of every channel: (N, C, H, W) -> (1, C, 1, 1)."""
    return values.sum((0, 2, 3), keepdim=True)
