"""Programs under way and their processes, as /proc shows them."""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from .conftest import moment

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
END_S = 600.0
"""seconds after which a process counts as one that stays, however slow the machine is"""


def parents() -> dict[int, int]:
    """The parent of every process that runs, not of those that wait to be reaped."""
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # pid (name) state ppid ...
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if status[0] != "Z":
                found[int(pid)] = int(status[1])
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


def command_of(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def open_files(pid: int) -> set[str]:
    """What a process has open, without what it closes meanwhile; nothing if it has ended."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return found


def all_end(pids: Iterable[int]) -> bool:
    """Whether processes end."""
    until = time.monotonic() + END_S
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
