"""Programs under way and their processes, as /proc shows them."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from .conftest import moment

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
END_S = 2.0
"""seconds within which workers are gone whose driver is"""


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # pid (name) state ppid ...
            found[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [child for child, parent in parents().items() if parent == pid]


def workers(pid: int) -> list[int]:
    """The processes that a driver's fork server has started."""
    found = parents()
    return [child for child, parent in found.items() if found.get(parent) == pid]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def all_end(pids: Iterable[int], within_s: float = END_S) -> bool:
    """Whether processes end within these seconds."""
    until = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < until:
        moment()
    return not any(map(is_alive, pids))


def checkpoints(store: Path) -> set[tuple[str, int]]:
    """Names and ages of the checkpoints of a store."""
    found = set()
    for path in (store / "checkpoints").glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found
