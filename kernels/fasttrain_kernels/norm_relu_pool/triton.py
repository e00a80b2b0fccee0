"""Batch normalisation, ReLU and max-pool on CUDA and ROCm as one operation: `cpu.py` in Triton.

Three launches forward (sums of chunks of rows, statistics, the output) and three backward (sums,
coefficients, dy); in eval mode two. Per number of y, P to a window, e bytes each: the sums read e
forward and 2e/P backward; writing takes e + e/P forward, 2e + e/P backward. Sums are fp32, or fp64
where y is. Nothing is read on the host, so that a CUDA graph can hold all of it.

Tensors are channels_last. What is compiled depends on channels, windows and, with windows, height
and width; not on the number of images, but for how many chunks there are, to a power of 2.
"""

# What kernels are compiled for is given as plain values.
# pyright: reportArgumentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..step.memory import check_storage
from ..step.plain import oddity, shown
from . import triton_sums, triton_writes
from .backend import MAX_PLACES, Running, check_kept, takes
from .triton_blocks import (
    channel_sizes,
    chunks_of,
    grid,
    merge_sizes,
    row_sizes,
    window_sizes,
)

LAST = torch.channels_last

TYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.bfloat16: tl.float32}
"""What y may be stored in, and is computed in."""


def forward(
    y: Tensor,  # (N, C, H, W) channels_last
    pool: tuple[int, int],
    relu: bool,
    eps: float,
    running: Running | None,
) -> tuple[Tensor, Tensor]:
    """Output, (N, C, H // KH, W // KW) channels_last, and statistics, (2, C) fp64: mean, 1 / std.

    Raises:
        ValueError: tensors that the kernels cannot take.
    """
    _check(y, pool, running)
    n, c, h, w = y.shape
    acc, chunks = TYPES[y.dtype], chunks_of(n * h * w, c)
    size = chunks.rows, chunks.chunk_rows, chunks.num_chunks
    statistics = torch.empty((2, c), dtype=torch.float64, device=y.device)
    parts, table = _scratch(y, 3 * chunks.num_chunks, c), _scratch(y, 3, c)
    # Where there are none, pointers that are not used.
    mean, var, count, momentum = running or Running(table, table, table, 0.0)
    momentum = -1.0 if momentum is None else float(momentum)
    with torch.cuda.device_of(y):
        triton_sums._moments_kernel[chunks.grid](
            y, parts, count, *size, COUNTS=running is not None, ACC=acc, **chunks.sizes
        )
        sizes = merge_sizes(chunks)
        triton_sums._statistics_kernel[(triton.cdiv(c, sizes["BLOCK_C"]),)](
            parts, statistics, table, mean, var, count, *size,
            TRACKS=running is not None, MOMENTUM=momentum, EPS=float(eps), ACC=acc, **sizes,
        )  # fmt: skip
        return _write(y, table, pool, relu, keeps_nan=False), statistics


def evaluate(
    y: Tensor,  # (N, C, H, W) channels_last
    pool: tuple[int, int],
    relu: bool,
    eps: float,
    running: Running,
) -> Tensor:
    """The output by the running statistics, which stay as they are.

    Raises:
        ValueError: tensors that the kernels cannot take.
    """
    _check(y, pool, running)
    c = y.shape[1]
    table, sizes = _scratch(y, 3, c), channel_sizes(c)
    with torch.cuda.device_of(y):
        triton_sums._running_kernel[(triton.cdiv(c, sizes["BLOCK_C"]),)](
            running.mean, running.var, table, EPS=float(eps), **sizes
        )
        return _write(y, table, pool, relu, keeps_nan=True)


def backward(
    grad: Tensor,  # like out
    y: Tensor,
    out: Tensor,
    statistics: Tensor,
    pool: tuple[int, int],
    relu: bool,
) -> Tensor:
    """The gradient of y, channels_last.

    Raises:
        ValueError: tensors that are not those of `forward`, as a hook on saved tensors may give.
    """
    check_kept(y, grad, out, statistics, pool)
    _check(y, pool, None, grad, out, statistics)
    n, c, h, w = y.shape
    acc, chunks = TYPES[y.dtype], chunks_of(out.numel() // c, c)
    parts, table = _scratch(y, 2 * chunks.num_chunks, c), _scratch(y, 5, c)
    dy = torch.empty_like(y, memory_format=LAST)
    rows = n * h * w
    with torch.cuda.device_of(y):
        triton_sums._products_kernel[chunks.grid](
            grad, out, parts, chunks.rows, chunks.chunk_rows, chunks.num_chunks,
            RELU=relu, ACC=acc, **chunks.sizes,
        )  # fmt: skip
        sizes = merge_sizes(chunks)
        triton_sums._slopes_kernel[(triton.cdiv(c, sizes["BLOCK_C"]),)](
            parts, statistics, table, rows, chunks.num_chunks, ACC=acc, **sizes
        )
        if pool == (1, 1):
            sizes = row_sizes(c)
            triton_writes._gradient_kernel[grid(rows, sizes["BLOCK_R"], sizes)](
                grad, y, table, dy, rows, RELU=relu, ACC=acc, **sizes
            )
        else:
            sizes = window_sizes(c, h, w, pool)
            # With those that the image cuts off: dy is written everywhere.
            windows = n * triton.cdiv(h, pool[0]) * triton.cdiv(w, pool[1])
            triton_writes._pool_gradient_kernel[grid(windows, sizes["WINDOWS"], sizes)](
                grad, y, table, dy, windows, RELU=relu, ACC=acc, **sizes
            )
    return dy


def _write(y: Tensor, table: Tensor, pool: tuple[int, int], relu: bool, keeps_nan: bool) -> Tensor:
    n, c, h, w = y.shape
    shape, acc = (n, c, h // pool[0], w // pool[1]), TYPES[y.dtype]
    out = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=LAST)
    if pool == (1, 1):
        rows, sizes = n * h * w, row_sizes(c)
        triton_writes._write_kernel[grid(rows, sizes["BLOCK_R"], sizes)](
            y, table, out, rows, RELU=relu, ACC=acc, **sizes
        )
    else:
        windows, sizes = n * shape[2] * shape[3], window_sizes(c, h, w, pool)
        triton_writes._pool_kernel[grid(windows, sizes["WINDOWS"], sizes)](
            y, table, out, windows, RELU=relu, KEEPS_NAN=keeps_nan, ACC=acc, **sizes
        )
    return out


def _scratch(y: Tensor, rows: int, c: int) -> Tensor:
    wide = torch.promote_types(y.dtype, torch.float32)
    return torch.empty((rows, c), dtype=wide, device=y.device)


def _check(y: Tensor, pool: tuple[int, int], running: Running | None, *others: Tensor) -> None:
    """Refuse what the kernels, which know addresses only, would read or write beyond its end."""
    listed = [y, *others, *(running[:3] if running else ())]
    for tensor in listed:
        if tensor.device != y.device or oddity(tensor) is not None:
            raise ValueError(
                f"a fused normalisation takes plain tensors on one device, here {y.device}; got "
                f"{shown(tensor)} on {tensor.device}"
            )
    if (
        y.dtype not in TYPES
        or y.ndim != 4
        or not y.is_contiguous(memory_format=LAST)
        or y.numel() == 0
        or not takes(y.shape, pool, "cuda")
    ):
        raise ValueError(
            "a fused normalisation takes channels_last (N, C, H, W) of "
            f"{', '.join(map(str, TYPES))} and windows of at most {MAX_PLACES} pixels; got "
            f"{y.dtype} of shape {tuple(y.shape)} with strides {y.stride()}, window {pool}"
        )
    if running is not None:
        _check_running(running, y.shape[1])
    check_storage(listed, [tensor.data_ptr() for tensor in listed])


def _check_running(running: Running, c: int) -> None:
    mean, var, count, _ = running
    if not (
        mean.shape == var.shape == (c,)
        and mean.dtype == var.dtype
        and mean.dtype in (torch.float32, torch.float64)
        and mean.is_contiguous()
        and var.is_contiguous()
        and count.dtype == torch.int64
        and count.ndim == 0
    ):
        listed = ", ".join(f"{t.dtype} {tuple(t.shape)} {t.stride()}" for t in (mean, var, count))
        raise ValueError(
            f"running statistics are contiguous fp32 or fp64 of shape ({c},), and a count int64; "
            f"got {listed}"
        )
