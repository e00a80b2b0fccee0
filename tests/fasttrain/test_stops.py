"""SIGTERM on every command that trains or measures: 143, nothing lost, nobody left behind."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fasttrain.store.store import Store

from .conftest import TINY, ended
from .programs import ENVIRONMENT, checkpoints, is_alive, workers

LONG = TINY.replace("epochs = 3", "epochs = 20000")
TWO = ("--processes", "2", "--pack", "1", "--checkpoint-s", "0", "--store", "store")


def stopped(folder: Path, under_way: Callable[[], object], *arguments: str) -> list[int]:
    """Send SIGTERM to a command under way, and see it end in order; returns its workers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not under_way() and not ended(process):
        pass
    had = workers(process.pid)
    process.terminate()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, errors
    again = shlex.join(["fasttrain", *arguments])
    assert errors.strip() == f"fasttrain: stopped; to resume, run again: {again}"
    return had


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "long.toml", "--plr", "1e-2", "--flr", "1e-3"),
        ("locate", "long.toml", "--boundaries", "2|3"),
    ],
    ids=["train", "locate"],
)
def test_sigterm_leaves_a_checkpoint_and_neither_workers_nor_a_lock(tmp_path, arguments):
    (tmp_path / "long.toml").write_text(LONG)
    path = tmp_path / "store"
    had = stopped(tmp_path, lambda: checkpoints(path), *arguments, *TWO)
    assert had and not any(map(is_alive, had))
    store = Store.open(path, create=False)
    with store.lock():
        begun = [found.parent.name for found in path.glob("*/stage.json")]
        assert any(store.checkpoints.epochs(stage) for stage in begun)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_leaves_the_analyses_that_were_made(fasttrain, tiny, tmp_path, processes):
    assert fasttrain("sweep", tiny, "--store", "store", "--quiet").code == 0
    made = tmp_path / "store" / "analyses"
    analyse = ("analyse", "store", "--processes", str(processes))
    had = stopped(tmp_path, lambda: [*made.glob("*/done.json")], *analyse)
    assert len(had) == (0 if processes == 1 else 2) and not any(map(is_alive, had))
    before = {path: path.stat().st_mtime_ns for path in made.glob("*/done.json")}
    ended = fasttrain("analyse", "store", "--only", "geometry")
    assert ended.code == 0 and f"{len(before)} done before" in ended.out
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
