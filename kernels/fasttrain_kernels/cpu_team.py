"""Threads for `cpu_kernels.py`: a compiled function, run by the team of torch's own OpenMP.

OpenMP is found through the library that torch has loaded, by the interface of GNU's runtime, which
LLVM's and Intel's have too. Where that is missing, the calling thread works alone.
"""

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from . import cpu_elements, cpu_kernels
from .cpu_elements import OPTIONS
from .cpu_kernels import Job

_STORED = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.uint16}
_FUNCTIONS = {
    "thread_num": "omp_get_thread_num",
    "num_threads": "omp_get_num_threads",
    "barrier": "GOMP_barrier",
}


def run(job: Job, theta: torch.dtype, other: torch.dtype, threads: int) -> None:
    """Carry out a job on parameters and gradients (or outputs) of these types."""
    worker = _worker(theta, other)
    launch = _openmp() if threads > 1 else None
    if launch is None:
        worker.call(ctypes.byref(job))
    else:
        launch(worker.address, ctypes.byref(job), threads, 0)


def run_describe(job: Job) -> None:
    """Carry out `cpu_kernels.describe`."""
    _describer().call(ctypes.byref(job))


@functools.cache
def team_functions() -> dict[str, int]:
    """Addresses of the functions that a `Job` names; none where OpenMP is missing."""
    if _openmp() is None:
        return {}
    library = ctypes.CDLL(torch._C.__file__)
    return {
        field: ctypes.cast(library[name], ctypes.c_void_p).value or 0
        for field, name in _FUNCTIONS.items()
    }


@functools.cache
def _openmp() -> Any:
    """GOMP_parallel(function, argument, threads, flags) of the runtime that torch uses."""
    # Looked up through torch's extension, a symbol is found in the libraries that it depends on.
    library = ctypes.CDLL(torch._C.__file__)
    if not all(hasattr(library, name) for name in ("GOMP_parallel", *_FUNCTIONS.values())):
        return None
    launch = library.GOMP_parallel
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    return launch


class Compiled:
    """A compiled function of the address of a `Job`."""

    def __init__(self, function: Any) -> None:
        self.address = function.address
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function.address)
        # The code lives as long as this.
        self.function = function


# numba's cache on disk looks at the time of this file only, and at what its functions close over:
# `source`.


@functools.cache
def _worker(theta: torch.dtype, other: torch.dtype) -> Compiled:
    source = _digest()
    like, like_other = np.empty(0, _STORED[theta]), np.empty(0, _STORED[other])

    @numba.cfunc("void(int64)", cache=True, **OPTIONS)
    def work(address):
        _ = source
        cpu_kernels.work(address, like, like_other)

    return Compiled(work)


@functools.cache
def _describer() -> Compiled:
    source = _digest()

    @numba.cfunc("void(int64)", cache=True, **OPTIONS)
    def describe(address):
        _ = source
        cpu_kernels.describe(address)

    return Compiled(describe)


def _digest() -> str:
    """What the compiled code depends on beside this file."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (cpu_elements, cpu_kernels)]
    return hashlib.sha256(b"".join(sources)).hexdigest()
