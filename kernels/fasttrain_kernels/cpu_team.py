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
    address, function = _worker(theta, other)
    launch = _openmp() if threads > 1 else None
    if launch is None:
        function(ctypes.byref(job))
    else:
        launch(address, ctypes.byref(job), threads, 0)


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


@functools.cache
def _worker(theta: torch.dtype, other: torch.dtype) -> tuple[int, Any]:
    """The compiled worker for stored types: its address, and the same to be called from here."""
    compiled = _compile(np.empty(0, _STORED[theta]), np.empty(0, _STORED[other]), _digest())
    return compiled.address, _callable(compiled)


def run_describe(job: Job) -> None:
    """Carry out `cpu_kernels.describe`."""
    _describer()(ctypes.byref(job))


@functools.cache
def _describer() -> Any:
    digest = _digest()

    @numba.cfunc("void(int64)", cache=True, **OPTIONS)
    def describer(address):
        digest  # noqa: B018
        cpu_kernels.describe(address)

    return _callable(describer)


def _callable(compiled: Any) -> Any:
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)
    # Its code lives as long as it does.
    function.compiled = compiled
    return function


def _compile(like: np.ndarray, like_other: np.ndarray, digest: str) -> Any:
    @numba.cfunc("void(int64)", cache=True, **OPTIONS)
    def worker(address):
        # Part of the key of numba's cache on disk, which looks at the time of this file only.
        digest  # noqa: B018
        cpu_kernels.work(address, like, like_other)

    return worker


def _digest() -> str:
    """What the compiled code depends on beside this file."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (cpu_elements, cpu_kernels)]
    return hashlib.sha256(b"".join(sources)).hexdigest()
