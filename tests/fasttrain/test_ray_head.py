"""A cluster of Ray whose head is lost: the driver ends with a line, and another one goes on.

On a real cluster on this machine. Without Ray these are skipped; FASTTRAIN_REQUIRE_OPTIONAL=1 makes
that a failure.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

import fasttrain as ft
from fasttrain.errors import EnvironmentProblem
from fasttrain.execution.engines import ray_head

from .conftest import TINY, contents, ended
from .programs import ENVIRONMENT, all_end, checkpoints
from .raylets import descendants

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
pytestmark = pytest.mark.optional

HASTY = {name: "2000" for name in ray_head.KEEPALIVE}
IMPATIENT = """
import sys
from fasttrain.execution.engines import ray_head
ray_head.QUIET_S, ray_head.HEAD_S = 1.0, 3.0
"""
COMMAND = f"""{IMPATIENT}
from fasttrain.cli.main import main
sys.argv[1:] = (
    "sweep grid.toml --store store --pack 2 --processes 2 --checkpoint-s 0 --engine ray".split()
)
main()
"""
CALL = f"""{IMPATIENT}
import fasttrain as ft
from fasttrain.errors import EnvironmentProblem
how = dict(pack=2, processes=2, checkpoint_s=0.0, engine="ray")
try:
    ft.sweep(ft.study("grid.toml"), store="store", **how)
except EnvironmentProblem as error:
    print(f"fasttrain: {{error}}", file=sys.stderr)
    sys.exit(7)
"""
"""a user's own program, which has something to do without Ray"""


@pytest.fixture
def started(tmp_path):
    """`started(program)` -> it under way on a cluster of its own, and all processes below it.

    None is left afterwards, not even of a test that fails.
    """
    pids: set[int] = set()

    def call(program: str) -> tuple[subprocess.Popen, set[int]]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**ENVIRONMENT, **HASTY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        pids.add(process.pid)
        while not checkpoints(tmp_path / "store") and not ended(process):
            pass
        below = descendants(process.pid)
        pids.update(below)
        assert process.poll() is None, process.communicate()[1]
        return process, below

    yield call
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


# One that is killed closes its connections; one that is stopped is as behind a cut network.
@pytest.mark.parametrize(
    ("program", "fault", "code"),
    [(COMMAND, signal.SIGKILL, 1), (COMMAND, signal.SIGSTOP, 1), (CALL, signal.SIGSTOP, 7)],
    ids=["killed", "stopped", "stopped in a user's program"],
)
def test_without_a_head_it_ends_in_a_line_and_goes_on_elsewhere(
    started, tmp_path, program, fault, code
):
    text = TINY.replace("epochs = 3", "epochs = 600").replace("k = [2, 3]", "k = []")
    (tmp_path / "grid.toml").write_text(text)
    process, below = started(program)
    [head] = [pid for pid in below if b"gcs_server" in command_line(pid).partition(b"\0")[0]]
    # Ray's own agents look from time to time whether they are still needed.
    agents = {pid for pid in below if b"Agent" in command_line(pid)}
    os.kill(head, fault)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    assert re.search("^fasttrain: Ray at this machine: the head does not answer", errors, re.M)
    assert "Traceback" not in errors
    assert checkpoints(tmp_path / "store")
    assert not list((tmp_path / "store").glob("*/done.json"))
    assert all_end(below - agents)
    study, how = ft.study(tmp_path / "grid.toml"), {"pack": 2, "processes": 2}
    ft.sweep(study, store=tmp_path / "store", **how)
    ft.sweep(study, store=tmp_path / "whole", **how)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@pytest.fixture
def silent(monkeypatch):
    """A head that says nothing until the test has ended."""
    import ray

    over = threading.Event()
    monkeypatch.setattr(ray, "nodes", over.wait)
    monkeypatch.setattr(ray, "shutdown", over.wait)
    for name in ("AT_ONCE_S", "HEAD_S", "LEFT_S", "STOPPED_S"):
        monkeypatch.setattr(ray_head, name, 0.01)
    yield ray_head.Head("head:6379")
    over.set()


def test_who_asks_for_nodes_does_not_wait_for_ever(silent):
    with pytest.raises(EnvironmentProblem, match="Ray at head:6379: the head does not answer"):
        silent.nodes()
    assert silent.is_lost


def test_what_ray_says_instead_of_its_nodes_is_one_line(silent, monkeypatch):
    def fails():
        raise RuntimeError("RPC error:\n  unavailable")

    monkeypatch.setattr("ray.nodes", fails)
    monkeypatch.setattr(ray_head, "HEAD_S", 600.0)
    with pytest.raises(EnvironmentProblem, match=r"which nodes there are \(RPC error: ") as seen:
        silent.nodes()
    assert "\n" not in str(seen.value) and silent.is_lost


@pytest.mark.parametrize("known", [True, False])
def test_a_process_that_cannot_leave_ray_ends_all_the_same(silent, monkeypatch, known):
    """Whether or not it is known that the head is lost."""
    end = Mock()
    monkeypatch.setattr("atexit.register", end)
    if known:
        with pytest.raises(EnvironmentProblem):
            silent.nodes()
    silent.leave()
    ((end_it, leaving), _) = end.call_args
    assert end_it is ray_head._end and leaving.is_alive()


@pytest.mark.parametrize("is_open", [True, False])
def test_a_process_ends_by_itself_once_it_has_left_ray(monkeypatch, is_open):
    """And else whatever has become of its output."""
    ended = Mock()
    monkeypatch.setattr("os._exit", ended)
    monkeypatch.setattr("sys.stdout", None)
    ray_head._end(Mock(is_alive=lambda: is_open))
    assert ended.called == is_open
