"""The device that is measured, how long what it does takes, and how much of all is done."""

import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fasttrain.machine.files import write_atomically
from fasttrain.machine.precision import device_name

ROOT = Path(__file__).parents[2]
SOURCES = ("kernels", "data", "fasttrain", "bench", "tests")
"""folders of what is measured and tested"""
NOT_BEGUN = "not begun"
"""of a row for which there was no time"""
BEGUN = "begun and not ended"
"""of a row that is measured, or that stopped all of it"""


@dataclass(frozen=True)
class Size:
    """How much is measured: on a device, or in the dry run that only shows that all of it runs."""

    tiny: bool
    rounds: int
    repeat: int
    packs: tuple[int, ...]
    images: int
    """of CIFAR's size"""
    warm_s: float
    """before anything is timed, in which clocks rise"""
    until: float = math.inf
    """by `time.monotonic` when the part has to be done"""


SIZES = {
    "full": Size(False, 5, 20, (1, 2, 4, 8, 16, 32, 64), 50_000, 0.05),
    "tiny": Size(True, 2, 1, (1, 2), 96, 0.0),
}


def kept(folder: Path, name: str) -> Path:
    """Where is what a part has found, until it is among what all have found."""
    return folder / f"{name.replace(' ', '-')}.part.json"


def keep(path: Path, found: Any) -> None:
    """What a part has found, or has found so far: it stays though the part should be stopped."""
    write_atomically(path, json.dumps(found).encode())


def is_open(row: dict[str, Any]) -> bool:
    """Whether a row waits for another call."""
    return str(row.get("error", "")).startswith((NOT_BEGUN, BEGUN))


def wait(device: torch.device) -> None:
    """Until all that was launched has run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], size: Size, device: torch.device) -> float:
    """Median seconds of a call, after one and as many as warm the device."""
    found, began = [], time.perf_counter()
    function()
    wait(device)
    while time.perf_counter() - began < size.warm_s:
        function()
        wait(device)
    for _ in range(size.rounds):
        started = time.perf_counter()
        for _ in range(size.repeat):
            function()
        wait(device)
        found.append((time.perf_counter() - started) / size.repeat)
    return statistics.median(found)


def environment(device: torch.device) -> dict[str, Any]:
    """What was measured on, with what."""
    facts: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__}
    for name in ("triton", "numpy", "numba"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts |= {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    facts["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": f"{properties.major}.{properties.minor}",
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
        }
    return facts


def origin(device: torch.device) -> dict[str, Any]:
    """What results are of: device, versions, and the digest of the sources."""
    facts = environment(device)
    del facts["date"]
    return facts | {"source": digest(ROOT)}


def digest(root: Path) -> str:
    """Of the sources: their names and contents."""
    found = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in (root / name).rglob("*")):
        if path.suffix in (".py", ".toml") and path.is_file():
            content = path.read_bytes()
            found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return found.hexdigest()


def ceilings(size: Size, device: torch.device) -> dict[str, float]:
    """The fastest copy, GB/s read and written, and the fastest products of square matrices."""
    elements, side = (2**20, 256) if size.tiny else (2**28, 8192)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    a = torch.randn(side, side, device=device)
    narrow = a.bfloat16()
    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "bf16 product": lambda: narrow @ narrow,
        "fp32 product": lambda: a @ a,
    }
    times = {name: seconds(function, size, device) for name, function in functions.items()}
    flops = 2 * side**3
    return {
        "copy GB/s": 8 * elements / times["copy"] / 1e9,
        "bf16 TFLOP/s": flops / times["bf16 product"] / 1e12,
        "fp32 TFLOP/s": flops / times["fp32 product"] / 1e12,
    }
