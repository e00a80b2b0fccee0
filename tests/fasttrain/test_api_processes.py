"""Sweeps from scripts, from -c, from threads and from notebooks; and Ctrl-C in them."""

import os
import signal
import subprocess
import sys
import threading
import types

import pytest

import fasttrain as ft

from .conftest import contents, ended

PROGRAM = """
import fasttrain as ft
print("once")
results = ft.sweep("tiny.toml", store="store", processes=2, pack=2, device="cpu")
print(len(results.stages))
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "how", [["script.py"], ["-m", "script"], ["-c", PROGRAM]], ids=lambda h: h[0]
)
def test_a_program_without_a_guard_runs_once(tmp_path, tiny, how):
    (tmp_path / "script.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *how],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("once\n8\n", "", 0)


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import fasttrain as ft
study = ft.study("tiny.toml", epochs=60, k="none")
how = {"store": "store", "processes": int(sys.argv[1]), "pack": 1, "device": "cpu"}
handler = signal.getsignal(signal.SIGINT)
try:
    ft.sweep(study, checkpoint_s=0, **how)
except KeyboardInterrupt:
    print("interrupted", len(list(Path("store/checkpoints").glob("*"))) > 0)
assert signal.getsignal(signal.SIGINT) is handler
print(len(ft.sweep(study, **how).stages))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_the_checkpoint_and_the_call_resumes(tmp_path, tiny, processes):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "script.py", str(processes)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("store/checkpoints/*.safetensors")):
        assert not ended(process), process.communicate()
    # As a notebook's server does it: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate() == ("interrupted True\n4\n", "")
    study = ft.study(tiny, epochs=60, k="none")
    ft.sweep(study, store=tmp_path / "whole", processes=1, pack=1, device="cpu")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_sweep_in_a_thread(tmp_path, tiny):
    found = []

    def work() -> None:
        found.append(ft.sweep(str(tiny), store=tmp_path / "store", processes=2, pack=2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [len(results.stages) for results in found] == [8]


class Handle:
    def __init__(self, first: dict[str, str]) -> None:
        self.pictures = [first]

    def update(self, picture: dict[str, str], *, raw: bool) -> None:
        self.pictures.append(picture)


@pytest.fixture
def notebook(monkeypatch) -> list[Handle]:
    """The displays of a cell, as far as IPython and Rich's own part of it are asked for."""
    handles = []

    def display(shown, *, raw=False, display_id=None, **_):
        if display_id:
            handles.append(Handle(shown))
            return handles[-1]

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return handles


def _left(table: str) -> dict[str, int]:
    rows = [line.split() for line in table.splitlines()[1:4]]
    return {row[0]: int(row[-2]) for row in rows}


def test_a_notebook_has_one_table_that_changes(notebook, tmp_path, tiny):
    how = {"store": tmp_path / "store", "processes": 1, "pack": 4}
    ft.sweep(str(tiny), quiet=False, **how)
    [handle] = notebook
    first, last = (_left(handle.pictures[at]["text/plain"]) for at in (0, -1))
    assert first == {"pretrain": 2, "finetune": 2, "swa": 4}
    assert last == dict.fromkeys(first, 0)
    assert handle.pictures[-1]["text/html"].startswith("<pre>stage ")
    ft.sweep(str(tiny), **{**how, "store": tmp_path / "quiet"})
    assert len(notebook) == 1
