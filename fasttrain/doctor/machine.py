"""What this machine has for fasttrain: versions, arithmetic, threads, FFCV, GPUs, disk, caches.

Every line is found by itself: what is broken says so in its place, and the rest is still told.
"""

import importlib
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ..machine.processes import usable_cpus

NEEDED = ("torch", "torchvision", "triton", "numba", "numpy", "pandas", "pyarrow", "matplotlib")
LINUX_ONLY = ("triton",)
"""of these, what there is for Linux alone"""


class Line(NamedTuple):
    """Something about the machine, in words; `fault` if fasttrain does not work with it."""

    name: str
    text: str
    fault: bool = False


def look() -> Iterator[Line]:
    """What there is to say of this machine, line by line."""
    from .. import __version__

    where = Path(__file__).parents[1]
    yield Line("fasttrain", f"{__version__}, in {where}")
    python = f"{platform.python_version()}, {sys.executable}, {platform.platform(terse=True)}"
    yield Line("Python", python)
    for name in NEEDED:
        yield _package(name)
    for name, tell in (
        ("CPU", _cpu),
        ("threads", _threads),
        ("GPUs", _gpus),
        ("FFCV", _ffcv),
    ):
        yield _told(name, tell)
    yield from _folders()


def _told(name: str, tell: Callable[[], str]) -> Line:
    """A line whose making may fail in any way that a broken installation can think of."""
    try:
        return Line(name, tell())
    except Exception as error:
        return Line(name, f"cannot be told ({_reason(error)})", fault=True)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _package(name: str) -> Line:
    """A package's version, and whether it can be imported."""
    try:
        version = metadata.version(name)
        importlib.import_module(name)
    except metadata.PackageNotFoundError:
        if name in LINUX_ONLY and sys.platform != "linux":
            return Line(name, "none for this system")
        return Line(name, f"not installed; install it: pip install {name}", fault=True)
    except Exception as error:
        return Line(
            name,
            f"cannot be imported ({_reason(error)}); install it again:"
            f" pip install --force-reinstall {name}",
            fault=True,
        )
    return Line(name, version)


def _cpu() -> str:
    import torch

    from ..machine.precision import resolve_precision

    auto = resolve_precision("auto", torch.device("cpu"))
    return (
        f"{os.cpu_count()} logical, {usable_cpus()} of them for this process;"
        f" {torch.backends.cpu.get_cpu_capability()}; --precision auto is {auto}"
    )


def _threads() -> str:
    import numba
    import torch
    from numba.np.ufunc import parallel

    launch: Any = parallel._launch_threads  # type: ignore[attr-defined]
    launch()
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    layer = parallel.threading_layer()
    return f"torch {torch_threads}, numba {numba_threads} by its layer {layer}"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, and finds no GPU or driver" if built else ""
        return f"none ({why or 'torch is a build for CPUs'}): training runs on the CPU"
    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return "; ".join(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards)


def _ffcv() -> str:
    from fasttrain_data import DataUnavailable
    from fasttrain_data.ffcv.loader import import_ffcv

    try:
        with warnings.catch_warnings():
            # Its dependencies use parts of Python and torch that newer versions deprecate.
            warnings.simplefilter("ignore")
            import_ffcv()
    except DataUnavailable as error:
        return f"not there, and not needed: {error}"
    except Exception as error:
        return f"cannot be loaded, and is not needed ({_reason(error)})"
    return metadata.version("ffcv")


def _folders() -> Iterator[Line]:
    """Space where stores are made by default, and whether the caches can be written."""
    free = shutil.disk_usage(Path.cwd()).free
    yield Line("disk", f"{free / 2**30:.1f} GiB free in {Path.cwd()}")
    for name, find in (
        ("data sets", _data_sets),
        ("measurements", _measurements),
        ("numba's cache", _numba_cache),
    ):
        try:
            folder = find()
            yield _cache(name, folder)
        except Exception as error:
            yield Line(name, f"cannot be told ({_reason(error)})", fault=True)


def _data_sets() -> Path:
    from fasttrain_data.catalogue import cache_dir

    return cache_dir()


def _measurements() -> Path:
    from ..execution.pack_size import cache_directory

    return cache_directory() / "tuning"


def _numba_cache() -> Path:
    import numba

    import fasttrain_kernels

    if numba.config.CACHE_DIR:  # type: ignore[attr-defined]
        return Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]
    beside = Path(fasttrain_kernels.__file__).parent / "step" / "cpu" / "__pycache__"
    return beside if os.access(beside.parent, os.W_OK) else Path.home() / ".cache" / "numba"


def _cache(name: str, folder: Path) -> Line:
    """Whether a folder, or the one that it will be made in, can be written."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Line(
            name,
            f"{folder}: {error.strerror}; make {there} writable, or set XDG_CACHE_HOME"
            " (NUMBA_CACHE_DIR for numba) to a folder that is",
            fault=True,
        )
    free = shutil.disk_usage(there).free
    return Line(name, f"{folder}, writable, {free / 2**30:.1f} GiB free")
