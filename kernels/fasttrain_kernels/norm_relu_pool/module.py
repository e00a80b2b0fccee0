"""Batch normalisation, ReLU and max-pool as one module, fused on a CPU.

    out = maxpool(relu((y - mean) / sqrt(var + eps)))

Without affine parameters every step is monotone, and so is rounding: pooling first gives the same
bits. So the fused kernels (`cpu.py`) never write the normalised map, and keep for the backward
pass y, the output (which the next layer keeps anyway) and two numbers per channel:

    dy = (g - mean(g) - x * mean(g * x)) / sqrt(var + eps)        x normalised y

where g, the gradient of x, is that of the output at the first largest number of its window if that
is positive, and 0 elsewhere. Everything is per channel: models side by side do not mix. The
gradient of dy: `operator.py`.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from .operator import LAST, norm_relu_pool, norm_relu_pool_backward, second_gradients

FUSED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes that the fused kernels take."""

RUNNING_DTYPES = (torch.float32, torch.float64)

_PLAIN_TYPES = (Tensor, nn.Parameter, nn.Buffer)


@functools.cache
def _kernels() -> Any:
    """The kernels, imported when they are first used: who never trains needs no compiler."""
    from . import cpu as cpu_norm

    return cpu_norm


class NormReLUPool(nn.Module):
    """`nn.BatchNorm2d`, then ReLU unless `relu=False`, then max-pooling by the caller's windows.

    State, arguments and modes are those of `nn.BatchNorm2d`, but that it is not affine by default.
    It is no subclass: what torch puts in the place of a batch normalisation has no ReLU. Its
    epsilon is called `epsilon`, so that `fuse_conv_bn_eval`, which would drop the ReLU, fails.

    Training on a CPU without affine parameters, in fp32, fp64 or bf16, is fused: its input is
    converted to channels_last where it is not, and its output is channels_last. All else, what is
    exported or transformed by torch.func too, is the same in torch's operations.
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
        if not self.fused(input):
            return self._forward_in_torch(input, window)
        if n * height * width == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input {input.size()}"
            )
        if torch.compiler.is_compiling() or _is_watched():
            return self._forward_operator(input, window)
        mean, var, count = self._running()
        running = None
        if self._updates():
            running = _kernels().Running(mean, var, count, self.momentum)
        y = input.contiguous(memory_format=LAST)
        return _Fused.apply(y, window, self.relu, self.epsilon, running)  # type: ignore[return-value]

    def fused(self, input: Tensor) -> bool:
        """Whether the fused kernels take this input in this mode."""
        if (
            not (self.training or self._running()[0] is None)
            or self.affine
            or not input.is_cpu
            or input.dtype not in FUSED_DTYPES
            or input.numel() == 0
        ):
            return False
        if torch.compiler.is_compiling():
            # What is exported is to run without this package.
            return not torch.compiler.is_exporting() and self._running_is_whole()
        if _is_transformed():
            return False
        if _is_watched():
            return self._running_is_whole()
        return _is_plain(input) and self._running_is_plain()

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

    def _running_is_plain(self) -> bool:
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
            and _is_plain(mean)
            and _is_plain(var)
            and _is_plain(count)
        )

    def _forward_operator(self, input: Tensor, window: tuple[int, int]) -> Tensor:
        """The kernels as an operator that torch traces and transforms."""
        out, _, moments = norm_relu_pool(input, window, self.relu, self.epsilon)
        mean, var, count = self._running()
        if self._updates() and mean is not None and var is not None and count is not None:
            with torch.no_grad():
                count.add_(1)
                factor = count.double().reciprocal() if self.momentum is None else self.momentum
                for running, found in zip((mean, var), moments, strict=True):
                    running.copy_((1.0 - factor) * running.double() + factor * found)
        return out

    def _forward_in_torch(self, input: Tensor, window: tuple[int, int]) -> Tensor:
        mean, var, count = self._running()
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and not self.track_running_stats:
            mean = var = None
        elif self.training and count is not None:
            count.add_(1)
            factor = 1.0 / float(count) if self.momentum is None else factor
        batch = self.training or (mean is None and var is None)
        out = F.batch_norm(input, mean, var, self.weight, self.bias, batch, factor, self.epsilon)
        out = F.max_pool2d(out, window) if window != (1, 1) else out
        return F.relu(out) if self.relu else out

    def extra_repr(self) -> str:
        kind = "torch" if self.affine else "fused when training on a CPU"
        return (
            f"{self.num_features}, eps={self.epsilon}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}, "
            f"relu={self.relu}, {kind}"
        )


def _is_watched() -> bool:
    """Whether a dispatch mode sees every operation, as in `make_fx` and with fake tensors."""
    return torch._C._len_torch_dispatch_stack() > 0


def _is_transformed() -> bool:
    """Whether derivatives are taken, or calls recorded, in a way that operators of ours have not.

    These are the transforms of torch.func, forward-mode derivatives and `torch.jit.trace`.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is its memory: no subclass, no wrapper, no view that negates."""
    return type(tensor) in _PLAIN_TYPES and torch._C._dispatch_keys(tensor).raw_repr() in _plain()


@functools.cache
def _plain() -> frozenset[int]:
    """Dispatch keys of a plain tensor on a CPU, in and outside of inference mode."""
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return frozenset(found)


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
        out, statistics = _kernels().forward(y, pool, relu, eps, running)
        ctx.save_for_backward(y, out, statistics)
        ctx.options = pool, relu
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, out, statistics = ctx.saved_tensors
        if _is_watched() or not _is_plain(grads[0]):
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
        found = second_gradients(grads[0], *ctx.saved_tensors, *ctx.options)
        return *found, None, None, None, None
