"""Batch normalisation, ReLU and max-pool as one module, fused on a CPU.

    out = maxpool(relu((y - mean) / sqrt(var + eps)))

Without affine parameters every step is monotone, and so is rounding: pooling first gives the same
bits. So the fused kernels (`cpu_norm.py`) never write the normalised map, and keep for the backward
pass y, the output (which the next layer keeps anyway) and two numbers per channel:

    dy = (g - mean(g) - x * mean(g * x)) / sqrt(var + eps)        x normalised y

where g, the gradient of x, is that of the output at the first largest number of its window if that
is positive, and 0 elsewhere. Everything is per channel: models side by side do not mix.

Of <u, dy>, with s = 1 / sqrt(var + eps), c = mean(g x), b = mean(u x), the gradient

    of y is    -s^2 (c (u - mean(u)) + b dy / s + (mean(u dy) / s - b c) x)
    of g is    s (u - mean(u) - b x)
"""

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .cpu_norm import Running

FUSED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes that the fused kernels take."""


@functools.cache
def _kernels() -> Any:
    """The kernels, imported when they are first used: who never trains needs no compiler."""
    from . import cpu_norm

    return cpu_norm


class NormReLUPool(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, then ReLU unless `relu=False`, then max-pooling by the caller's windows.

    State, arguments and modes are those of `nn.BatchNorm2d`, but that it is not affine by default.
    Training on a CPU without affine parameters, in fp32, fp64 or bf16, is fused: its input is
    converted to channels_last where it is not, and its output is channels_last. All else is the
    same in torch's operations.
    """

    def __init__(
        self, num_features: int, *, relu: bool = True, affine: bool = False, **options: Any
    ) -> None:
        super().__init__(num_features, affine=affine, **options)
        self.relu = relu

    def forward(self, input: Tensor, pool: int | tuple[int, int] = 1) -> Tensor:
        """(N, C, H, W) -> (N, C, H // KH, W // KW); rows that fill no window are dropped.

        Raises:
            ValueError: an input that is not (N, C, H, W), one value per channel in training, or a
                window that is empty or larger than the image.
        """
        self._check_input_dim(input)
        window = (pool, pool) if isinstance(pool, int) else pool
        height, width = input.shape[-2:]
        if not (0 < window[0] <= height and 0 < window[1] <= width):
            raise ValueError(f"pool={pool}: the window must be 1x1 to {height}x{width}, the image")
        if self.fused(input):
            return self._forward_fused(input, window)
        out = super().forward(input)
        out = F.max_pool2d(out, window) if window != (1, 1) else out
        return F.relu(out) if self.relu else out

    def fused(self, input: Tensor) -> bool:
        """Whether the fused kernels take this input in this mode."""
        running = self.running_mean
        return (
            (self.training or running is None)
            and not self.affine
            and input.is_cpu
            and input.dtype in FUSED_DTYPES
            and (running is None or running.dtype in (torch.float32, torch.float64))
            and input.numel() > 0
            and not torch.compiler.is_compiling()
        )

    def _forward_fused(self, input: Tensor, window: tuple[int, int]) -> Tensor:
        n, channels, height, width = input.shape
        if channels != self.num_features:
            raise ValueError(f"expected {self.num_features} channels; got {tuple(input.shape)}")
        if n * height * width == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input {input.size()}"
            )
        running, mean = None, self.running_mean
        if self.training and mean is not None:
            running = _kernels().Running(
                mean, self.running_var, self.num_batches_tracked, self.momentum
            )
        y = input.contiguous(memory_format=torch.channels_last)
        return _Fused.apply(y, window, self.relu, self.eps, running)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        kind = "torch" if self.affine else "fused when training on a CPU"
        return f"{super().extra_repr()}, relu={self.relu}, {kind}"


class _Fused(torch.autograd.Function):
    """The fused kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        pool: tuple[int, int],
        relu: bool,
        eps: float,
        running: "Running | None",
    ) -> Tensor:
        out, statistics = _kernels().forward(y, pool, relu, eps, running)
        ctx.save_for_backward(y, out, statistics)
        ctx.options = pool, relu
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, out, statistics = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        dy = _FusedGradient.apply(grad, y, out.detach(), statistics, *ctx.options)
        return dy, None, None, None, None  # type: ignore[return-value]


class _FusedGradient(torch.autograd.Function):
    """The gradient of y as a function of the output's gradient and y; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        y: Tensor,
        out: Tensor,
        statistics: Tensor,
        pool: tuple[int, int],
        relu: bool,
    ) -> Tensor:
        dy = _kernels().backward(grad, y, out, statistics, pool, relu)
        ctx.save_for_backward(grad, y, out, statistics, dy)
        ctx.options = pool, relu
        return dy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "NormReLUPool on a CPU has no third derivatives: no create_graph here"
            )
        grad, y, out, statistics, dy = ctx.saved_tensors
        pool, relu = ctx.options
        wide = torch.promote_types(y.dtype, torch.float32)
        mean, scale = (row.to(wide).view(1, -1, 1, 1) for row in statistics)
        taken = (out > 0).to(wide) if relu else torch.ones_like(out, dtype=wide)
        count = y.numel() // y.shape[1]
        u = grads[0].to(wide).contiguous(memory_format=torch.channels_last)
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
        return of_grad.to(grad.dtype), of_y.to(y.dtype), None, None, None, None


def _sums(values: Tensor) -> Tensor:
    """Of every channel: (N, C, H, W) -> (1, C, 1, 1)."""
    return values.sum((0, 2, 3), keepdim=True)
