"""Batch normalisation, ReLU and max-pool as one module, fused on a CPU, CUDA and ROCm.

    out = maxpool(relu((y - mean) / sqrt(var + eps)))

Without affine parameters every step is monotone, and so is rounding: pooling first gives the same
bits. So the fused kernels (`cpu.py`, `triton.py`) never write the normalised map, and keep for the
backward pass y, the output (which the next layer keeps anyway) and two numbers per channel:

    dy = (g - mean(g) - x * mean(g * x)) / sqrt(var + eps)        x normalised y

where g, the gradient of x, is that of the output at the first largest number of its window if that
is positive, and 0 elsewhere. Everything is per channel: models side by side do not mix. The
gradient of dy: `operator.py`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import backend
from .operator import LAST, norm_relu_pool, norm_relu_pool_backward, second_gradients

FUSED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes that the fused kernels take."""

RUNNING_DTYPES = (torch.float32, torch.float64)


class NormReLUPool(nn.Module):
    """`nn.BatchNorm2d`, then ReLU unless `relu=False`, then max-pooling by the caller's windows.

    State, arguments and modes are those of `nn.BatchNorm2d`, but that it is not affine by default.
    It is no subclass, since torch replaces batch normalisations by modules without ReLU. Its
    epsilon is called `epsilon`, so that `fuse_conv_bn_eval`, which would drop the ReLU, fails.

    Without affine parameters, in fp32, fp64 or bf16, training is fused on a CPU, CUDA or ROCm;
    evaluation without gradients is fused on CUDA and ROCm. The input is converted to channels_last
    if needed, and the output is channels_last. Everything else, also under torch.export and
    torch.func, runs the same function in torch's operations.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    # That of nn.BatchNorm2d's state: states go both ways.
    _version = 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        *,
        relu: bool = True,
        affine: bool = False,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.epsilon, self.momentum = num_features, eps, momentum
        self.relu, self.affine, self.track_running_stats = relu, affine, track_running_stats

        def filled(value: float) -> Tensor:
            return torch.full((num_features,), value, device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(filled(1.0)) if affine else None)
        self.register_parameter("bias", nn.Parameter(filled(0.0)) if affine else None)
        tracked = track_running_stats
        count = torch.zeros((), dtype=torch.int64, device=device) if tracked else None
        self.register_buffer("running_mean", filled(0.0) if tracked else None)
        self.register_buffer("running_var", filled(1.0) if tracked else None)
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Forget the running statistics."""
        for buffer, value in zip(self._running(), (0, 1, 0), strict=True):
            if buffer is not None:
                buffer.fill_(value)

    def forward(self, input: Tensor, pool: int | tuple[int, int] = 1) -> Tensor:
        """(N, C, H, W) -> (N, C, H // KH, W // KW); rows that fill no window are dropped.

        Raises:
            ValueError: an input that is not (N, C, H, W), one value per channel in training, or a
                window that is empty or larger than the image.
        """
        shape = input.shape
        if len(shape) != 4:
            raise ValueError(f"expected 4D input (got {len(shape)}D input)")
        n, channels, height, width = shape
        window = (pool, pool) if isinstance(pool, int) else pool
        if not (0 < window[0] <= height and 0 < window[1] <= width):
            raise ValueError(f"pool={pool}: the window must be 1x1 to {height}x{width}, the image")
        if channels != self.num_features:
            raise ValueError(f"expected {self.num_features} channels; got {tuple(shape)}")
        if not self.fused(input) or not backend.takes(shape, window, input.device.type):
            return self._forward_in_torch(input, window)
        by_batch = self._by_batch()
        if by_batch and n * height * width == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input {input.size()}"
            )
        if torch.compiler.is_compiling() or backend.is_watched():
            return self._forward_operator(input, window)
        running = None
        if self._updates() or not by_batch:
            mean, var, count = self._running()
            running = backend.Running(mean, var, count, self.momentum)  # type: ignore[arg-type]
        y = input.contiguous(memory_format=LAST)
        options = window, self.relu, self.epsilon, running
        if by_batch:
            return _Fused.apply(y, *options)  # type: ignore[return-value]
        return backend.kernels(y.device.type).evaluate(y, *options)

    def fused(self, input: Tensor) -> bool:
        """Whether the fused kernels take this input in this mode."""
        kind = input.device.type
        if (
            self.affine
            or kind not in backend.DEVICES
            or input.dtype not in FUSED_DTYPES
            or input.numel() == 0
            or not (self._by_batch() or self._evaluates(input))
        ):
            return False
        if torch.compiler.is_compiling():
            # What is exported is to run without this package.
            return not torch.compiler.is_exporting() and self._running_is_whole()
        if backend.is_transformed():
            return False
        if backend.is_watched():
            return self._running_is_whole()
        return backend.is_plain(input, input.device) and self._running_is_plain(input.device)

    def _by_batch(self) -> bool:
        """Whether this mode normalises by the statistics of the batch."""
        return self.training or self._running()[0] is None

    def _evaluates(self, input: Tensor) -> bool:
        """Whether the kernels normalise this input by the running statistics, without gradients."""
        return (
            input.device.type in backend.EVALUATES
            and not (input.requires_grad and torch.is_grad_enabled())
            and not torch.compiler.is_compiling()
            and not backend.is_watched()
        )

    def _running(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # Past nn.Module's look-up of attributes, which costs more than all checks together.
        buffers = self._buffers
        return buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]

    def _updates(self) -> bool:
        """Whether this mode updates the running statistics."""
        return self.training and self.track_running_stats and self._running()[0] is not None

    def _running_is_whole(self) -> bool:
        """Whether all running statistics are there, or none."""
        mean, var, count = self._running()
        return (mean is None) == (var is None) == (count is None)

    def _running_is_plain(self, device: torch.device) -> bool:
        """Whether the running statistics lie in memory as the kernels write them."""
        mean, var, count = self._running()
        if mean is None or var is None or count is None:
            return mean is var is count
        return (
            mean.dtype == var.dtype
            and mean.dtype in RUNNING_DTYPES
            and count.dtype == torch.int64
            and mean.shape == var.shape == (self.num_features,)
            and count.ndim == 0
            and mean.is_contiguous()
            and var.is_contiguous()
            and backend.is_plain(mean, device)
            and backend.is_plain(var, device)
            and backend.is_plain(count, device)
        )

    def _forward_operator(self, input: Tensor, window: tuple[int, int]) -> Tensor:
        """The kernels as an operator that torch traces and transforms."""
        out, _, moments = norm_relu_pool(input, window, self.relu, self.epsilon)
        mean, var, count = self._running()
        if self._updates() and mean is not None and var is not None and count is not None:
            self._advance(mean, var, count, moments)
        return out

    def _advance(self, mean: Tensor, var: Tensor, count: Tensor, found: Tensor) -> None:
        """Update the running statistics by a batch's, (2, C), without waiting for the device."""
        with torch.no_grad():
            count.add_(1)
            factor = count.double().reciprocal() if self.momentum is None else self.momentum
            for running, new in zip((mean, var), found, strict=True):
                running.copy_((1.0 - factor) * running.double() + factor * new)

    def _forward_in_torch(self, input: Tensor, window: tuple[int, int]) -> Tensor:
        mean, var, count = self._running()
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and not self.track_running_stats:
            mean = var = None
        batch = self.training or (mean is None and var is None)
        cumulative = None
        if self.training and self.track_running_stats and count is not None:
            if self.momentum is None and mean is not None and var is not None and not count.is_cpu:
                # On the host 1 / count would wait for the device.
                cumulative = mean, var, count, torch.zeros_like(torch.stack([mean, var]))
                (mean, var), factor = cumulative[3], 1.0
            else:
                count.add_(1)
                factor = 1.0 / float(count) if self.momentum is None else factor
        out = F.batch_norm(input, mean, var, self.weight, self.bias, batch, factor, self.epsilon)
        if cumulative is not None:
            self._advance(*cumulative)
        out = F.max_pool2d(out, window) if window != (1, 1) else out
        return F.relu(out) if self.relu else out

    def extra_repr(self) -> str:
        kind = "torch" if self.affine else f"fused when training on {' or '.join(backend.DEVICES)}"
        return (
            f"{self.num_features}, eps={self.epsilon}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}, "
            f"relu={self.relu}, {kind}"
        )


class _Fused(torch.autograd.Function):
    """The fused kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        pool: tuple[int, int],
        relu: bool,
        eps: float,
        running: Any,
    ) -> Tensor:
        out, statistics = backend.kernels(y.device.type).forward(y, pool, relu, eps, running)
        ctx.save_for_backward(y, out, statistics)
        ctx.options = pool, relu
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, out, statistics = ctx.saved_tensors
        if backend.is_watched() or not backend.is_plain(grads[0], y.device):
            dy = norm_relu_pool_backward(grads[0], y, out.detach(), statistics, *ctx.options)
        else:
            # A hook on saved tensors may have laid them out anew.
            grad, y, out = (t.contiguous(memory_format=LAST) for t in (grads[0], y, out))
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
        dy = backend.kernels(y.device.type).backward(grad, y, out, statistics, pool, relu)
        ctx.save_for_backward(grad, y, out, statistics, dy)
        ctx.options = pool, relu
        return dy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a fused NormReLUPool has no third derivatives: no create_graph here"
            )
        found = second_gradients(grads[0], *ctx.saved_tensors, *ctx.options)
        return *found, None, None, None, None
