"""Worker processes: the same results as in one process, and deaths that stay in their pack."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fasttrain as package
from fasttrain.store import Store

from .conftest import TINY, contents, ended, moment

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
OPTIONS = ("--pack", "1", "--checkpoint-s", "0")


def command(folder: Path, store: str, *options: str) -> list[str]:
    (folder / "grid.toml").write_text(TINY.replace("epochs = 3", "epochs = 200"))
    grid = ("sweep", "grid.toml", "--store", store, "--k", "2")
    return [sys.executable, "-m", "fasttrain", *grid, *OPTIONS, *options]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The results of the grid, from one process."""
    folder = tmp_path_factory.mktemp("one_process")
    arguments = command(folder, "whole", "--processes", "1")
    subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return contents(folder / "whole")


def start(folder: Path) -> subprocess.Popen:
    """The same grid under way in two worker processes, each having written a checkpoint."""
    process = subprocess.Popen(
        command(folder, "parts", "--processes", "2"),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = checkpoints(folder)
    while len(checkpoints(folder) - before) < 2 and not ended(process):
        pass
    return process


def checkpoints(folder: Path) -> set[tuple[str, int]]:
    """Names and ages of the checkpoints of the store."""
    found = set()
    for path in (folder / "parts" / "checkpoints").glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that the sweep's fork server has started."""

    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # pid (name) state ppid ...
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])

    def children(pid: int) -> list[int]:
        return [child for child, parent in parents.items() if parent == pid]

    return [worker for child in children(process.pid) for worker in children(child)]


def test_two_processes_give_the_bits_of_one(whole, tmp_path):
    sweep = start(tmp_path)
    out, errors = sweep.communicate()
    assert sweep.returncode == 0, errors
    assert "in 2 processes, 1 threads each" in out
    assert contents(tmp_path / "parts") == whole


def test_stopped_killed_and_short_of_a_worker_it_ends_in_the_same_bits(whole, tmp_path):
    stages = {name.split("/")[0] for name in whole}
    for stop in (signal.SIGINT, signal.SIGKILL):
        sweep = start(tmp_path)
        left = workers(sweep)
        assert len(left) == 2
        sweep.send_signal(stop)
        _, errors = sweep.communicate()
        assert sweep.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in errors
        for worker in left:
            while Path(f"/proc/{worker}/stat").exists():
                moment()
        store = Store.open(tmp_path / "parts", create=False)
        assert sum(store.checkpoints.epochs(stage) for stage in stages) > 0
    # Of two workers one dies: its stage and what builds on it are left, the others finish.
    sweep = start(tmp_path)
    os.kill(workers(sweep)[0], signal.SIGKILL)
    _, errors = sweep.communicate()
    assert sweep.returncode == 1
    assert "1 stages failed" in errors and "ended by signal SIGKILL" in errors
    assert "Traceback" not in errors
    assert 1 <= len(package.load(tmp_path / "parts")) < 6
    again = command(tmp_path, "parts", "--processes", "1")
    subprocess.run(again, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)
    assert contents(tmp_path / "parts") == whole
