"""Which kernels normalise: numba's on a CPU, Triton's on CUDA and ROCm, and what both verify.

torch calls ROCm devices cuda too. numba and Triton are imported when the first tensor needs them.
"""

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None


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
    else:
        from . import triton as module
    return module


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
