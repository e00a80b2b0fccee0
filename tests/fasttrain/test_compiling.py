"""What is compiled ahead is what training asks for, once, told, and by a process of its own."""

import importlib
import io
import multiprocessing
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from fasttrain.execution import compiling
from fasttrain.execution.console import Console
from fasttrain.execution.measured import measure
from fasttrain.machine import timings
from fasttrain.plan.config import RunOptions, check
from fasttrain.settings.knobs import Knobs
from fasttrain.training.loops import loops
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import Workbench, open_workbench
from fasttrain_kernels.augment import cpu as augment
from fasttrain_kernels.norm_relu_pool import cpu as norm_relu_pool
from fasttrain_kernels.numba_runtime.ahead import Loop
from fasttrain_kernels.numba_runtime.team import worker
from fasttrain_kernels.small_mlp import cpu as small_mlp
from fasttrain_kernels.step.cpu import adam, step

from .test_fused_mlp import TICK

SMALL = {"dataset": "digits", "n_train": 150, "n_test": 50}
STUDIES = {
    "on the sphere": {"network": {"width": 2}},
    "bf16": {"network": {"width": 2}, "training": {"precision": "bf16"}},
    "plain SGD": {"network": {"width": 2}, "optimizer": {"kind": "sgd"}},
    "Adam": {"network": {"width": 2}, "optimizer": {"kind": "adam"}},
    "MLP": {"network": {"kind": "mlp", "width": 8}},
    "all of an epoch at once": TICK,
}


def workbench_of(folder: Path, study: dict) -> Workbench:
    table = {"data": SMALL, **study}
    table["training"] = {"precision": "fp32", "batch_size": 64, **study.get("training", {})}
    config = check(table, "test")
    precision = config.training.precision
    return open_workbench(
        config, RunOptions(), folder / "store", torch.device("cpu"), precision, {}
    )


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_compiled_ahead_is_what_training_asks_for(name, tmp_path, monkeypatch):
    asked = set()

    def noted(make, *dtypes):
        asked.add((make, dtypes))
        return worker(make, *dtypes)

    for module in (augment, norm_relu_pool, small_mlp, step, adam):
        monkeypatch.setattr(module, "worker", noted)
    workbench = workbench_of(tmp_path, STUDIES[name])
    ahead = loops(workbench)
    measure(workbench, 2)
    pack = Pack(workbench, 0, [Knobs(lr=0.01)] * 2, None)
    pack.train(0, tested=True, passed=True)
    assert {(loop.make, loop.dtypes) for loop in ahead} == asked


OWN = """
import os
import signal
from pathlib import Path

def make(source, like):
    (Path(__file__).parent / f"{os.getpid()}.pid").touch()
    if HOW == "endless" and os.getpid() != DRIVER:
        signal.pause()
    if HOW == "raise" and like.dtype == "float32":
        raise ValueError("not here")
    if HOW == "kill" and like.dtype == "float32" and os.getpid() != DRIVER:
        os.kill(os.getpid(), signal.SIGKILL)

    def nothing(address):
        _ = source, like.dtype

    return nothing
"""


@pytest.fixture
def own_loops(tmp_path, monkeypatch):
    """Makes two loops, of a module that numba keeps beside it; the study asks for these."""

    def made(how: str = "") -> list[Loop]:
        text = f"HOW, DRIVER = {how!r}, {os.getpid()}\n{OWN}"
        (tmp_path / "loops_of_test.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "loops_of_test", raising=False)
        make = importlib.import_module("loops_of_test").make
        types = {"first": torch.float32, "second": torch.float64}
        found = [Loop(name, make, (dtype,)) for name, dtype in types.items()]
        monkeypatch.setattr(compiling, "loops", lambda _: found)
        return found

    return made


def compile_all(folder: Path, processes: int, said: io.StringIO | None = None) -> str:
    said = said or io.StringIO()
    options = RunOptions(processes=processes)
    compiling.compile_ahead(workbench_of(folder, {}), options, Console(file=said))
    return said.getvalue()


@pytest.mark.parametrize("processes", [1, 2])
def test_loops_are_compiled_once_each_in_a_process_of_its_own_and_told(
    processes, tmp_path, own_loops
):
    found = own_loops()
    assert not any(loop.is_kept() for loop in found)
    with timings.collected() as seconds:
        said = compile_all(tmp_path, processes)
    line = r"compiling for this machine, once( in 2 processes)?: first, second \.\.\. \d+\.\d s\n"
    told = re.fullmatch(line, said)
    assert told and (told[1] is None) == (processes == 1)
    assert "compiling" in seconds
    assert all(loop.is_kept() for loop in found)
    pids = {int(file.stem) for file in tmp_path.glob("*.pid")}
    assert os.getpid() in pids and len(pids) == (1 if processes == 1 else 3)
    assert compile_all(tmp_path, processes) == ""


def test_what_numba_keeps_without_a_mark_is_marked(tmp_path, own_loops):
    found = own_loops()
    compile_all(tmp_path, 2)
    for kept in tmp_path.rglob("*.kept"):
        kept.unlink()
    assert not any(loop.is_kept() for loop in found)
    compile_all(tmp_path, 2)
    assert all(loop.is_kept() for loop in found)


@pytest.mark.parametrize(
    ("how", "processes", "why"),
    [("raise", 1, "ValueError"), ("raise", 2, "exit 1"), ("kill", 2, "signal 9")],
)
def test_what_fails_is_named_and_leaves_the_others(
    how, processes, why, tmp_path, own_loops, monkeypatch, capfd
):
    found = own_loops(how)
    # To ask for the mark of one that raises would raise too.
    monkeypatch.setattr(Loop, "is_kept", lambda _: False)
    said = compile_all(tmp_path, processes)
    monkeypatch.undo()
    line = r"compiling for this machine, once.*: first, second \.\.\.\n"
    assert re.fullmatch(line + re.escape(f"first not compiled ahead ({why})\n"), said)
    assert capfd.readouterr().err == ""
    assert found[1].is_kept()


def test_loops_of_changed_code_are_not_kept(tmp_path, own_loops):
    found = own_loops()
    found[0].compile()
    assert [loop.is_kept() for loop in found] == [True, False]
    os.utime(tmp_path / "loops_of_test.py", (0, 0))
    assert not found[0].is_kept()


def test_a_program_that_is_stopped_waits_for_no_loop(tmp_path, own_loops, monkeypatch):
    own_loops("endless")

    def stop(_):
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling, "wait", stop)
    said = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        compile_all(tmp_path, 2, said)
    assert said.getvalue().endswith(" ...\n")
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert not left
