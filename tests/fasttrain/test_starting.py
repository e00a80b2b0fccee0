"""What a command starts and imports before it trains: counts, which no other program disturbs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fasttrain_kernels.augment import cpu as augment
from fasttrain_kernels.norm_relu_pool import cpu as norm_relu_pool
from fasttrain_kernels.step.cpu import step

# Of every interpreter: what it was started for, and at its end what it had imported.
RECORD = """
import atexit, json, os, sys
from pathlib import Path
folder, here = Path(os.environ["STARTS"]), os.getpid()
(folder / f"{here}.start").write_text(" ".join(sys.orig_argv[1:]))
def end():
    if os.getpid() == here:
        (folder / f"{here}.end").write_text(json.dumps(sorted(sys.modules)))
atexit.register(end)
"""
COMPILER = "torch._dynamo"
DRAWING = ("matplotlib", "fasttrain.report.build")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """No loop is left to be compiled, for which processes would be started."""
    found = [*step.loops(torch.float32), augment.loop(torch.float32)]
    for dtype in (torch.float32, torch.bfloat16):
        found.append(norm_relu_pool.loop(dtype))
    for loop in found:
        loop.compile()


def run(tmp_path: Path, *arguments: str) -> tuple[list[str], set[str]]:
    """The interpreters that a command starts, and the modules that its own imports."""
    starts = tmp_path / "starts"
    starts.mkdir()
    (starts / "sitecustomize.py").write_text(RECORD)
    path = os.pathsep.join([str(starts), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "fasttrain", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2", "STARTS": str(starts), "PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
    started = {file.stem: file.read_text() for file in starts.glob("*.start")}
    [own] = [pid for pid, words in started.items() if words.startswith("-m fasttrain")]
    return list(started.values()), set(json.loads((starts / f"{own}.end").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the server is a program of its own")
def test_a_sweep_in_processes_starts_one_interpreter_that_imports(tmp_path, tiny):
    started, modules = run(tmp_path, "sweep", str(tiny), "--processes", "2", "--pack", "2")
    others = [words for words in started if not words.startswith("-m fasttrain")]
    # multiprocessing's own, which imports nothing.
    assert len(others) == 1 and "resource_tracker" in others[0]
    assert "torch" in modules and COMPILER not in modules


def test_a_plan_needs_no_compiler_and_no_drawing(tmp_path, tiny):
    started, modules = run(tmp_path, "sweep", str(tiny), "--dry-run", "--processes", "2")
    assert len(started) == 1
    assert not modules & {COMPILER, *DRAWING}


def test_help_starts_nothing_and_imports_little(tmp_path):
    started, modules = run(tmp_path, "sweep", "--help")
    assert len(started) == 1
    assert not modules & {"torch", "numpy", "numba", "pandas", *DRAWING}
