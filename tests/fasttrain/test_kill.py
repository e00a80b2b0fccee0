"""SIGKILL and Ctrl-C on the real program: nothing lost, nothing repeated, the same bits."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fasttrain.cli.main import run

from .conftest import TINY, contents, ended

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


# In packs of 3 and of 2, of which a lone model would end in other bits.
GRID = ("--plr", "1e-3,3e-3,1e-2,3e-2,1e-1", "--pack", "3")
EVERY_EPOCH = ("--checkpoint-s", "0")


def sweep_command(folder: Path, store: str, *options: str) -> list[str]:
    if not (folder / "grid.toml").exists():
        (folder / "grid.toml").write_text(TINY.replace("epochs = 3", "epochs = 12"))
    program = [sys.executable, "-m", "fasttrain", "sweep", "grid.toml", "--store", store]
    return [*program, *(options or (*GRID, *EVERY_EPOCH))]


def start(folder: Path, store: str, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        sweep_command(folder, store, *options),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(store: Path) -> set[tuple[str, int]]:
    """Names and ages of everything in a store, to see it move."""
    found = set()
    for path in store.glob("*/*"):
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def wait_for_change(process: subprocess.Popen, store: Path, changes: int) -> None:
    """Return when the store has changed so many times, or the process has ended."""
    for _ in range(changes):
        before = files(store)
        while files(store) == before and not ended(process):
            pass


def finish(folder: Path, store: str, *options: str) -> None:
    """Run the sweep to its end, in this process: that starts more quickly."""
    _, _, _, *arguments = sweep_command(folder, store, *options)
    with contextlib.chdir(folder):
        assert run(arguments) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The results of the grid without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, "whole")
    return contents(folder / "whole")


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("interval", [(), EVERY_EPOCH], ids=["as users have it", "every epoch"])
def test_killed_at_random_moments_it_ends_in_the_same_bits(whole, tmp_path, processes, interval):
    """By default most packs end before their first checkpoint is due."""
    kill_and_resume(whole, tmp_path, *GRID, "--processes", processes, *interval)


NESTEROV = ("--optimizer", "sgd", "--momentum", "0.9", "--nesterov", "True", "--form", "practical")
ADAM = ("--optimizer", "adam", "--weight-decay", "1e-4", "--inherit", "optimizer")


@pytest.mark.parametrize("optimizer", [NESTEROV, ADAM], ids=["nesterov", "adam"])
def test_the_optimisers_state_survives_kills(tmp_path, optimizer):
    options = (*GRID, "--processes", "1", *EVERY_EPOCH, *optimizer)
    finish(tmp_path, "whole", *options)
    kill_and_resume(contents(tmp_path / "whole"), tmp_path, *options)


CHAIN = """
[data]
dataset = "digits"
n_train = 150
n_test = 50
[network]
width = 2
[training]
batch_size = 50
[optimizer]
kind = "sgd"
momentum = 0.9
nesterov = true
[experiment]
kind = "chain"
legs = [
    { lr = [1e-2, 2e-2], epochs = 8 },
    { lr = [1e-3, 3e-3], epochs = 8, inherit = "optimizer", noise = [0, 0.1] },
    { lr = 1e-3, epochs = 8, k = 2, inherit = "optimizer" },
]
"""


def test_a_chain_of_three_legs_survives_kills(tmp_path):
    (tmp_path / "grid.toml").write_text(CHAIN)
    options = ("--pack", "3", "--processes", "1", *EVERY_EPOCH)
    finish(tmp_path, "whole", *options)
    kill_and_resume(contents(tmp_path / "whole"), tmp_path, *options)


def kill_and_resume(whole: dict[str, bytes], tmp_path: Path, *options: str) -> None:
    """Kill a sweep four times, let it end, and compare."""
    moments, most = random.Random(repr(options)), 24
    kept: dict[str, int] = {}
    kills = 0
    while kills < 4:
        process = start(tmp_path, "killed", *options)
        wait_for_change(process, tmp_path / "killed", moments.randint(1, most))
        # Somewhere inside an epoch or a write, not at the change itself.
        until = time.perf_counter() + moments.uniform(0, 0.05)
        while time.perf_counter() < until:
            pass
        process.kill()
        process.wait()
        process.stderr.close()
        if process.returncode == 0:
            # It was through before so many changes were seen: anew, with a kill sooner.
            assert most > 1
            shutil.rmtree(tmp_path / "killed")
            kept, most = {}, most // 2
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        finished = {
            str(path): path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/done.json")
        }
        assert kept.items() <= finished.items()
        kept = finished
    finish(tmp_path, "killed", *options)
    assert contents(tmp_path / "killed") == whole
    for path, written in kept.items():
        assert Path(path).stat().st_mtime_ns == written
    assert not list((tmp_path / "killed").glob("checkpoints/*"))


def test_a_second_process_is_refused_and_harms_nothing(whole, tmp_path):
    first = start(tmp_path, "shared")
    wait_for_change(first, tmp_path / "shared", 3)
    # It holds the store for as long as the second one takes to start and to be refused.
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        sweep_command(tmp_path, "shared"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0, first.stderr.read()
    first.stderr.close()
    assert second.returncode == 1
    assert "in use by another fasttrain process" in second.stderr
    assert contents(tmp_path / "shared") == whole


STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_stops_it_and_it_says_how_to_resume(whole, tmp_path, stop):
    process = start(tmp_path, "stopped")
    wait_for_change(process, tmp_path / "stopped", 3)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == STOPS[stop]
    assert (
        "to resume, run again: fasttrain sweep grid.toml --store stopped --plr 1e-3,3e-3,1e-2,3e-2,"
        "1e-1 --pack 3 --checkpoint-s 0" in errors
    )
    assert "Traceback" not in errors
    finish(tmp_path, "stopped")
    assert contents(tmp_path / "stopped") == whole
