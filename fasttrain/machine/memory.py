"""Memory of a device: what is free, and the most that was held."""

import contextlib
from pathlib import Path

import torch

from fasttrain_data.loader import free_bytes as unused_bytes


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses."""
    if device.type == "cuda":
        return unused_bytes(device)
    return _kib("/proc/meminfo", "MemAvailable") or 2**62


def reset_peak(device: torch.device) -> int:
    """Forget the peak of the memory that this process holds; returns what it holds now, bytes.

    Of a GPU that is what torch has reserved: a graph keeps a pool, whatever of it is given out, and
    nobody else can have it. What torch keeps without need is given back first.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_reserved(device)
    with contextlib.suppress(OSError):
        # Linux takes a 5 for: reset the high-water mark of the resident set.
        Path("/proc/self/clear_refs").write_text("5")
    return _kib("/proc/self/status", "VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _kib("/proc/self/status", "VmHWM")


def _kib(path: str, field: str) -> int:
    """A field in KiB of one of Linux's files, in bytes; 0 where there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
