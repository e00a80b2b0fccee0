"""Batch normalisation, ReLU and max-pool on a CPU as one operation, compiled by numba.

Forward reads y twice, for the statistics and to write the output; backward reads the output and
its gradient, then y and the gradient, and writes dy. Tensors are channels_last; statistics fp64.

The threads are those of torch's own OpenMP, found through the library that torch has loaded: a pool
of our own would fight over the cores with torch's workers, which go on spinning after an operation.
Where there is none, the calling thread works alone.
"""

import ctypes
import functools
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from . import cpu_norm_kernels, cpu_vectors
from .cpu_norm_kernels import Job

GRAIN = 2**15
"""Elements that are worth a thread, as for torch's own operations."""

MIN_CHUNK, MAX_CHUNKS = 2**13, 64
"""Elements of a chunk at least, and chunks at most."""

_STORED = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.uint16}


class Running(NamedTuple):
    """Running statistics and how to update them, as in `nn.BatchNorm2d`."""

    mean: Tensor  # (C,) fp32 or fp64
    var: Tensor  # (C,) likewise, unbiased
    num_batches: Tensor  # () int64
    momentum: float | None


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
    """The gradient of y, channels_last."""
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
    worker, _ = _worker(y.dtype)
    threads = min(torch.get_num_threads(), 1 + y.numel() // GRAIN)
    openmp = _openmp() if threads > 1 else None
    if openmp is None:
        worker(ctypes.byref(job))
    else:
        job.thread_num, job.num_threads, job.barrier = openmp.addresses
        openmp.launch(worker, ctypes.byref(job), threads, 0)


class _OpenMP(NamedTuple):
    launch: Any
    """GOMP_parallel(function, argument, threads, flags)"""
    addresses: tuple[int, int, int]
    """of functions: index of the thread, size of its team, barrier"""


@functools.cache
def _openmp() -> _OpenMP | None:
    """The runtime that torch uses: GNU's, or LLVM's or Intel's, which have its interface too."""
    # Looked up through torch's extension, a symbol is found in the libraries that it depends on.
    library = ctypes.CDLL(torch._C.__file__)
    names = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier"
    if not all(hasattr(library, name) for name in names):
        return None
    launch, *functions = (library[name] for name in names)
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    thread_num, num_threads, barrier = (
        ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions
    )
    return _OpenMP(launch, (thread_num, num_threads, barrier))


@functools.cache
def _worker(dtype: torch.dtype) -> tuple[Any, object]:
    """The compiled loops for a stored type, to be called, and what keeps them alive."""
    table = np.float64 if dtype == torch.float64 else np.float32
    compiled = _compile(np.empty(0, _STORED[dtype]), np.empty(0, table), _digest())
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address), compiled


def _compile(like: np.ndarray, table: np.ndarray, digest: str) -> Any:
    @numba.cfunc("void(int64)", cache=True, **cpu_vectors.OPTIONS)
    def worker(address):
        # Part of the key of numba's cache on disk, which looks at the time of this file only.
        digest  # noqa: B018 # pyright: ignore[reportUnusedExpression]
        cpu_norm_kernels.work(address, like, table)

    return worker


def _digest() -> str:
    """What the compiled code depends on beside this file."""
    sources = (Path(str(m.__file__)).read_bytes() for m in (cpu_vectors, cpu_norm_kernels))
    return hashlib.sha256(b"".join(sources)).hexdigest()
