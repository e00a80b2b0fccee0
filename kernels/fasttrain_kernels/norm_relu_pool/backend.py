"""Which kernels normalise: numba's on a CPU, Triton's on CUDA and ROCm, and what both verify.

torch calls ROCm devices cuda too. numba and Triton are imported when the first tensor needs them.
"""

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_GPUS = ("cuda",) if importlib.util.find_spec("triton") else ()

DEVICES = ("cpu", *_GPUS)
"""Device types that have kernels."""

EVALUATES = _GPUS
"""Those that have one for running statistics."""

MAX_PLACES, MAX_PIXELS = 2**12, 2**31 - 2**16
"""Pixels of a window, and of all images, on a GPU."""

_PLAIN_TYPES = (Tensor, nn.Parameter, nn.Buffer)


class Running(NamedTuple):
    """Running statistics and how to update them, as in `nn.BatchNorm2d`."""

    mean: Tensor  # (C,) fp32 or fp64
    var: Tensor  # (C,) likewise, unbiased
    num_batches: Tensor  # () int64
    momentum: float | None


@functools.cache
def kernels(device: str) -> Any:
    """The module with `forward` and `backward`: who never trains needs no compiler."""
    if device == "cpu":
        from . import cpu as module
    elif device in DEVICES:
        from . import triton as module
    else:
        raise ValueError(f"no fused normalisation on {device}: allowed are {', '.join(DEVICES)}")
    return module


def takes(shape: torch.Size, pool: tuple[int, int], device: str) -> bool:
    """Whether the kernels there count so many pixels, and hold so large a window."""
    n, _, h, w = shape
    return device == "cpu" or (pool[0] * pool[1] <= MAX_PLACES and n * h * w <= MAX_PIXELS)


def check_kept(
    y: Tensor, grad: Tensor, out: Tensor, statistics: Tensor, pool: tuple[int, int]
) -> None:
    """Refuse what compiled code, which knows addresses only, would read beyond its end.

    Raises:
        ValueError: tensors that are not those of `forward`, as a hook on saved tensors may give.
    """
    n, c, h, w = y.shape
    small = torch.Size((n, c, h // pool[0], w // pool[1]))
    last = torch.channels_last
    if not (
        grad.shape == out.shape == small
        and y.dtype == grad.dtype == out.dtype
        and y.device == grad.device == out.device == statistics.device
        and y.is_contiguous(memory_format=last)
        and grad.is_contiguous(memory_format=last)
        and out.is_contiguous(memory_format=last)
        and statistics.is_contiguous()
        and statistics.dtype == torch.float64
        and statistics.shape == (2, c)
    ):
        listed = ", ".join(
            f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} with strides "
            f"{tensor.stride()} on {tensor.device}"
            for name, tensor in zip(
                ("y", "grad", "out", "statistics"), (y, grad, out, statistics), strict=True
            )
        )
        raise ValueError(f"the gradient of a fused normalisation needs what it kept; got {listed}")


def is_watched() -> bool:
    """Whether a dispatch mode sees every operation, as in `make_fx` and with fake tensors."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_transformed() -> bool:
    """Whether derivatives are taken, or calls recorded, in a way that operators of ours have not.

    These are the transforms of torch.func, forward-mode derivatives and `torch.jit.trace`.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def is_plain(tensor: Tensor, device: torch.device) -> bool:
    """Whether the tensor is its memory there: no subclass, no wrapper, no view that negates."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.device == device
        and torch._C._dispatch_keys(tensor).raw_repr() in _plain(device.type)
    )


@functools.cache
def _plain(kind: str) -> frozenset[int]:
    """Dispatch keys of a plain tensor on a device, in and outside of inference mode."""
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(torch._C._dispatch_keys(torch.empty(0, device=kind)).raw_repr())
    return frozenset(found)
