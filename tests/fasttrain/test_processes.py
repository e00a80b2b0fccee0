"""Calls in forked processes: the same files as in this one, errors raised, no device touched."""

import functools
import importlib
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
