"""Calls in forked processes: the same files as in this one, errors raised, no device touched."""

import functools
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrain.analysis.regimes import classify
from fasttrain.machine.processes import PRELOADED, run_all
from fasttrain.report.figures import DRAWINGS, Drawing, catalogue, drawn, save

from .synthetic_grids import published_grid

# Whatever asks a driver for its devices ends in one of these.
ASKS = """
import torch
def refuse(*_):
    raise SystemExit("asked for a device")
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    setattr(torch._C, name, refuse)
"""


def test_figures_drawn_in_processes_have_the_same_bytes(tmp_path):
    results = published_grid()
    items = [item for item in drawn(results, classify(results)) if item.table is not None][:3]
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        calls = [functools.partial(save, item, folder / item.drawing.name) for item in items]
        run_all(calls, processes)
    alone, beside = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12"
    )
    assert len(alone) == 9 and alone == beside


def test_every_figure_can_be_drawn_elsewhere():
    """What says how a figure is drawn is sent to the process that draws it."""
    named = [part for part in vars(catalogue).values() if isinstance(part, Drawing)]
    assert {drawing.name for drawing in named} > {drawing.name for drawing in DRAWINGS}
    for drawing in named:
        assert pickle.loads(pickle.dumps(drawing)) == drawing


def test_calls_run_elsewhere_and_an_error_there_is_raised_here(tmp_path):
    ids = tmp_path / "ids"
    ids.mkdir()
    run_all([functools.partial(write_id, ids, index) for index in range(4)], 2)
    found = {int(path.read_text()) for path in ids.iterdir()}
    assert len(list(ids.iterdir())) == 4 and os.getpid() not in found
    with pytest.raises(ZeroDivisionError):
        run_all([functools.partial(divmod, 1, 0), functools.partial(divmod, 1, 1)], 2)


def write_id(folder: Path, index: int) -> None:
    (folder / str(index)).write_text(str(os.getpid()))


def test_what_the_server_imports_is_there_and_asks_for_no_device():
    """A misspelt name would be passed over; a device asked for could not be used after a fork."""
    first, *others = PRELOADED
    for name in others:
        importlib.import_module(name)
    program = ASKS + "\n".join(f"import {name}" for name in (first, *others))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORKED = """
import functools, json, os, signal, sys
from multiprocessing import forkserver
from pathlib import Path
if sys.argv[1] == "torch":
    import torch
from fasttrain.machine import processes
start = processes.util.spawnv_passfds
if sys.argv[1] == "another":
    # Of a Python whose server is started in another way.
    processes.util.spawnv_passfds = lambda path, args, passfds, flags=0: start(path, args, passfds)
if sys.argv[1] == "following":
    # Of one that has this program's arguments follow the server's, and a flag before it.
    def following(spawn, path, args, passfds, fork=processes._fork):
        begins = "import sys; assert sys.argv[1:] == ['--seed']; "
        args = [*args[:-2], "-X", "importtime=0", "-c", begins + args[-1], "--seed"]
        return fork(spawn, path, args, passfds)
    processes._fork = following
if sys.argv[1] == "unknown":
    processes.ENTRY = "from multiprocessing.server import main"
print("before")
processes.fork_server()
server = forkserver._forkserver._forkserver_pid
calls = [functools.partial(os.makedirs, f"{sys.argv[1]}-{index}") for index in range(2)]
# A process that is forked by the server may have such processes itself.
inner = functools.partial(processes.run_all, calls, 2)
processes.run_all([inner, functools.partial(divmod, 1, 1)], 2)
words = Path(f"/proc/{server}/cmdline").read_bytes().decode().split("\\0")
files = [os.readlink(file) for file in Path(f"/proc/{server}/fd").iterdir()]
os.kill(server, signal.SIGTERM)
processes.run_all([functools.partial(divmod, 1, 1)] * 2, 2)
print(json.dumps([words, files, server == forkserver._forkserver._forkserver_pid]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("first", ["nothing", "following", "torch", "another", "unknown"])
def test_the_server_is_a_fork_of_a_program_that_has_only_begun(tmp_path, first):
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        done = subprocess.run(
            [sys.executable, "-c", FORKED, first],
            cwd=tmp_path,
            pass_fds=[held.fileno()],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    # What was about to be written is not written by the fork too.
    said, found = done.stdout.splitlines()
    assert said == "before"
    words, files, is_same = json.loads(found)
    # Another program has been told what to run.
    is_fork = not any("multiprocessing.forkserver" in word for word in words if word != FORKED)
    assert is_fork == (first in ("nothing", "following"))
    assert str(tmp_path / "held") not in files
    assert is_same, "a signal that stops programs has ended the server"
    assert {path.name for path in tmp_path.glob(f"{first}-*")} == {f"{first}-0", f"{first}-1"}
