"""Marks of what numba keeps on disk.

numba says whether it has a function only after a fifth of a second of its own preparations. A mark
beside its files says it at once, and stands for all that numba looks at. Where one is wrong, a
function is compiled when it is called.
"""

import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import torch
from numba.core.caching import FunctionCache


def mark_of(function: Callable[[Any], None], *dtypes: torch.dtype) -> Path | None:
    """The file that says that numba keeps a function; None where it cannot."""
    try:
        folder = FunctionCache(function).cache_path
    except RuntimeError:
        return None
    code = function.__code__
    # Of the digest that the function closes over, and of its own file, as numba does.
    source = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = [
        *(value for value in source if isinstance(value, str)),
        function.__qualname__,
        Path(code.co_filename).stat().st_mtime_ns,
        *dtypes,
        *_machine(),
    ]
    return Path(folder) / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.kept"


def mark(function: Callable[[Any], None], *dtypes: torch.dtype) -> None:
    """Note that numba keeps a function."""
    path = mark_of(function, *dtypes)
    # Where it cannot be written, the worker is asked for again.
    with contextlib.suppress(OSError):
        if path is not None and not path.exists():
            path.touch()


@functools.cache
def _machine() -> tuple[str, ...]:
    """What compiled code is of, beside its sources."""
    features = llvm.get_host_cpu_features().flatten()
    tag = sys.implementation.cache_tag
    return tag, numba.__version__, llvm.get_host_cpu_name(), features
