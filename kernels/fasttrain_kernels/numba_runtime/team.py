"""Threads for numba's loops: compiled workers, run by the team of torch's own OpenMP.

A worker takes the address of a job, a C structure. Every thread of a team runs it on the same job:
`member` says which share of the work is its own, and `wait` ends a pass that others build on.

OpenMP is found through the library that torch has loaded, by the interface of GNU's runtime, which
LLVM's and Intel's have too: a pool of our own would fight over the cores with torch's workers,
which go on spinning after an operation. Where there is none, the calling thread works alone.
"""

import ctypes
import functools
import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types

from .elements import OPTIONS, intrinsic
from .marks import mark

GRAIN = 2**15
"""Elements that are worth a thread, as for torch's own operations."""

NUM_SPANS = 64
"""Shares of the work, about equal ones; every thread takes as many."""

_STORED = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    # As their bits.
    torch.bfloat16: np.uint16,
    torch.float16: np.int16,
}
_FUNCTIONS = {
    "thread_num": "omp_get_thread_num",
    "num_threads": "omp_get_num_threads",
    "barrier": "GOMP_barrier",
}


def fields(integers: Sequence[str], numbers: Sequence[str]) -> list[tuple[str, Any]]:
    """Fields of a job: int64 (numbers and addresses), fp64, and what a team needs."""
    return [
        *((name, ctypes.c_int64) for name in (*_FUNCTIONS, *integers)),
        *((name, ctypes.c_double) for name in numbers),
    ]


def team_size(num_elements: int) -> int:
    """As many threads as torch would use."""
    return min(torch.get_num_threads(), NUM_SPANS, 1 + num_elements // GRAIN)


class Worker:
    """A compiled function of the address of a job."""

    def __init__(self, function: Any) -> None:
        self.address = function.address
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function.address)
        # The code lives as long as this.
        self._function = function

    def __call__(self, job: Any, threads: int = 1) -> None:
        """Carry out a job in a team of so many threads."""
        openmp = _openmp() if threads > 1 else None
        if openmp is None:
            self._call(ctypes.byref(job))
        else:
            job.thread_num, job.num_threads, job.barrier = openmp.functions
            openmp.launch(self.address, ctypes.byref(job), threads, 0)


@functools.cache
def worker(make: Callable[..., Callable[[Any], None]], *dtypes: torch.dtype) -> Worker:
    """The worker that `make` returns for a digest and arrays without elements of these types.

    It is compiled once and kept on disk. numba looks there at the time of the file that defines the
    function, and at what that closes over: it has to close over the digest, which stands for all
    the sources that it calls. Where no folder for it can be written, every process compiles.
    """
    function = function_of(make, *dtypes)
    try:
        compiled = numba.cfunc("void(int64)", cache=True, **OPTIONS)(function)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        _warn_of_no_cache()
        compiled = numba.cfunc("void(int64)", **OPTIONS)(function)
    else:
        # Also of what numba had: it may have been kept by a process that ended before its mark.
        mark(function, *dtypes)
    return Worker(compiled)


def function_of(
    make: Callable[..., Callable[[Any], None]], *dtypes: torch.dtype
) -> Callable[[Any], None]:
    """What the worker of `make` is compiled from."""
    return make(_digest(), *(np.empty(0, _STORED[dtype]) for dtype in dtypes))


@functools.cache
def _warn_of_no_cache() -> None:
    """Say so once in a process."""
    warnings.warn(
        "fasttrain_kernels cannot keep its compiled code: neither its own folder nor the user's "
        "cache can be written. Every process compiles anew, for some ten seconds, until "
        "NUMBA_CACHE_DIR names a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _digest() -> str:
    """Of all sources of the package: what is compiled from which of them, nobody keeps in mind."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    assert len(sources) > 1, "the sources of fasttrain_kernels are not where they were"
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class _OpenMP(NamedTuple):
    launch: Any
    """GOMP_parallel(function, argument, threads, flags)"""
    functions: list[int]
    """addresses of `_FUNCTIONS`"""


@functools.cache
def _openmp() -> _OpenMP | None:
    """The runtime that torch uses."""
    # Looked up through torch's extension, a symbol is found in the libraries that it depends on.
    library = ctypes.CDLL(torch._C.__file__)
    if not all(hasattr(library, name) for name in ("GOMP_parallel", *_FUNCTIONS.values())):
        return None
    launch = library.GOMP_parallel
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    launch.restype = None
    functions = (ctypes.cast(library[name], ctypes.c_void_p) for name in _FUNCTIONS.values())
    return _OpenMP(launch, [function.value or 0 for function in functions])


@intrinsic
def _call(_, address):
    """Call the C function `int f(void)` at an address."""

    def codegen(context, builder, signature, arguments):
        function = ir.FunctionType(ir.IntType(32), ()).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], function), ())

    return types.int32(types.int64), codegen


@numba.njit(**OPTIONS)
def member(job):
    """Index of this thread, and how many there are."""
    if job.thread_num == 0:
        return 0, 1
    return np.int64(_call(job.thread_num)), np.int64(_call(job.num_threads))


@numba.njit(**OPTIONS)
def wait(job):
    """Until every thread of the team is here."""
    if job.barrier != 0:
        _call(job.barrier)


@numba.njit(**OPTIONS)
def share(count, thread, threads):
    """First and end of what is one thread's, of `count` things."""
    return thread * count // threads, (thread + 1) * count // threads
