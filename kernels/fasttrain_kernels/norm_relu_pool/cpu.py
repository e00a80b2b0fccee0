"""Batch normalisation, ReLU and max-pool on a CPU as one operation, compiled by numba.

Forward reads y twice, for the statistics and to write the output; backward reads the output and
its gradient, then y and the gradient, and writes dy. Tensors are channels_last; statistics fp64.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..numba_runtime.ahead import Loop
from ..numba_runtime.team import GRAIN, worker
from .backend import Running, check_kept
from .cpu_loops import Job, work

MIN_CHUNK, MAX_CHUNKS = 2**13, 64
"""Elements of a chunk at least, and chunks at most."""


def forward(
    y: Tensor,  # (N, C, H, W) channels_last
    pool: tuple[int, int],
    relu: bool,
    eps: float,
    running: Running | None,
) -> tuple[Tensor, Tensor]:
    """Output, (N, C, H // KH, W // KW) channels_last, and statistics, (2, C): mean, 1 / std."""
    n, c, h, w = y.shape
    out = torch.empty(
        (n, c, h // pool[0], w // pool[1]), dtype=y.dtype, memory_format=torch.channels_last
    )
    statistics = torch.empty((2, c), dtype=torch.float64)
    job = _job(y, pool, n * h * w, relu)
    job.y, job.out, job.statistics = y.data_ptr(), out.data_ptr(), statistics.data_ptr()
    job.eps = eps
    if running is not None:
        job.running_mean, job.running_var = running.mean.data_ptr(), running.var.data_ptr()
        job.running_is_fp64 = running.mean.dtype == torch.float64
        job.num_batches = running.num_batches.data_ptr()
        job.momentum = -1.0 if running.momentum is None else running.momentum
    _run(job, y)
    return out, statistics


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
    dy = torch.empty_like(y, memory_format=torch.channels_last)
    job = _job(y, pool, out.numel() // out.shape[1], relu)
    job.y, job.out, job.statistics = y.data_ptr(), out.data_ptr(), statistics.data_ptr()
    job.grad, job.dy = grad.data_ptr(), dy.data_ptr()
    _run(job, y)
    return dy


def _job(y: Tensor, pool: tuple[int, int], rows: int, relu: bool) -> Job:
    """A job on `rows` rows of C numbers to be summed."""
    n, c, h, w = y.shape
    run = math.lcm(c, 16 if y.dtype == torch.float64 else 32)
    # Chunks are whole runs, but the last.
    size = max(MIN_CHUNK, -(-rows * c // MAX_CHUNKS))
    chunk_rows = -(-size // run) * (run // c)
    return Job(
        n=n,
        h=h,
        w=w,
        c=c,
        kh=pool[0],
        kw=pool[1],
        run=run,
        rows=rows,
        chunk_rows=chunk_rows,
        num_chunks=-(-rows // chunk_rows),
        floor=0.0 if relu else -math.inf,
    )


def _run(job: Job, y: Tensor) -> None:
    parts = torch.empty((job.num_chunks + 1) * 2 * job.c, dtype=torch.float64)
    job.parts = parts.data_ptr()
    threads = min(torch.get_num_threads(), 1 + y.numel() // GRAIN)
    worker(_make_worker, y.dtype, _computed(y.dtype))(job, threads)


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def loop(dtype: torch.dtype) -> Loop:
    """What normalises activations of a type."""
    return Loop("normalisation", _make_worker, (dtype, _computed(dtype)))


def _make_worker(source: str, like: np.ndarray, table: np.ndarray) -> Callable[[Any], None]:
    def normalise(address):
        _ = source
        work(address, like, table)

    return normalise
