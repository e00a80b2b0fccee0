"""Worker processes: the same results as in one process, and deaths that stay in their pack."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain.cli.main import run
from fasttrain.errors import EnvironmentProblem
from fasttrain.execution.engines.local import Workers
from fasttrain.store.store import Store

from .conftest import TINY, contents, ended
from .programs import ENVIRONMENT, all_end, checkpoints, children, is_alive, workers

OPTIONS = ("--pack", "1", "--checkpoint-s", "0")


def arguments(folder: Path, store: str, *options: str) -> list[str]:
    (folder / "grid.toml").write_text(TINY.replace("epochs = 3", "epochs = 120"))
    return ["sweep", "grid.toml", "--store", store, "--k", "2", *OPTIONS, *options]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The results of the grid, from one process."""
    folder = tmp_path_factory.mktemp("one_process")
    with contextlib.chdir(folder):
        assert run(arguments(folder, "whole", "--processes", "1")) == 0
    return contents(folder / "whole")


def start(folder: Path) -> subprocess.Popen:
    """The same grid under way in two worker processes, each having written a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", *arguments(folder, "parts", "--processes", "2")],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    before = checkpoints(folder / "parts")
    while len(checkpoints(folder / "parts") - before) < 2 and not ended(process):
        pass
    return process


def test_two_processes_give_the_bits_of_one(fasttrain, whole, tmp_path):
    outcome = fasttrain(*arguments(tmp_path, "parts", "--processes", "2"))
    assert outcome.code == 0, outcome.err
    assert "in 2 processes, 1 threads each" in outcome.out
    assert contents(tmp_path / "parts") == whole


STOPS = {
    "driver": {signal.SIGTERM: 143, signal.SIGKILL: -9},
    "group": {signal.SIGINT: 130, signal.SIGHUP: 129},
}


@pytest.mark.parametrize("to", STOPS)
def test_stopped_or_killed_and_short_of_a_worker_it_ends_in_the_same_bits(whole, tmp_path, to):
    stages = {name.split("/")[0] for name in whole}
    for stop, code in STOPS[to].items():
        sweep = start(tmp_path)
        left = workers(sweep.pid)
        assert len(left) == 2
        os.killpg(sweep.pid, stop) if to == "group" else sweep.send_signal(stop)
        _, errors = sweep.communicate()
        assert sweep.returncode == code
        assert "Traceback" not in errors
        assert ("to resume, run again: fasttrain sweep" in errors) == (stop != signal.SIGKILL)
        store = Store.open(tmp_path / "parts", create=False)
        assert stop == signal.SIGKILL or not any(map(is_alive, left))
        assert all_end(left)
        with store.lock():
            assert sum(store.checkpoints.epochs(stage) for stage in stages) > 0
    # Of two workers one dies: another takes up its pack where it stood.
    sweep = start(tmp_path)
    os.kill(workers(sweep.pid)[0], signal.SIGKILL)
    out, errors = sweep.communicate()
    assert sweep.returncode == 0, errors
    assert "ended by signal SIGKILL" in out
    assert contents(tmp_path / "parts") == whole


HELD = """
import ctypes, os

def hold():
    # As a compiler does: no thread of Python runs in this process meanwhile.
    os.write(1, b"%d\\n" % os.getpid())
    ctypes.PyDLL(None).sleep(1000)
"""
DRIVER = """
import signal
from fasttrain.execution.engines.local import Workers
from held import hold

with Workers([hold, hold], 1):
    signal.pause()
"""


def test_workers_end_with_their_driver_whatever_they_compute(tmp_path):
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, "driver.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    left: list[int] = []
    try:
        left += [int(driver.stdout.readline()) for _ in range(2)]
        # With the fork server and what keeps track of its resources.
        left += children(driver.pid)
        assert len(left) >= 4 and all(map(is_alive, left))
        driver.kill()
        driver.wait()
        assert all_end(left)
    finally:
        driver.kill()
        for pid in filter(is_alive, left):
            os.kill(pid, signal.SIGKILL)
        driver.communicate()


def test_the_store_stays_locked_until_the_last_worker_is_gone(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        engine = Workers([signal.pause], 1, store.lock_file)
        engine.__enter__()
    with pytest.raises(EnvironmentProblem, match="in use by another"), store.lock():
        pass
    engine.__exit__()
    with store.lock():
        pass
