"""The engine of Ray clusters: the bits of the local engine, whatever is lost on the way.

On a real cluster of raylets on this machine. What happens to a worker is done by the worker itself:
its task is pickled with this module's code. Without Ray they are skipped;
FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fasttrain as ft
from fasttrain.errors import EnvironmentProblem
from fasttrain.execution import run as driver
from fasttrain.execution.engines.tasks import Training
from fasttrain.machine.files import sha256_hex
from fasttrain.store.store import Store

from .conftest import TINY, contents, ended
from .programs import ENVIRONMENT, all_end, checkpoints, command_of
from .raylets import LOOPBACK, connected, descendants, listening

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
# Ray leaves files open, and warns of its own parts.
pytestmark = [pytest.mark.optional, pytest.mark.filterwarnings("ignore")]

NUM_EPOCHS = 60
HOW = {"pack": 2, "processes": 2, "checkpoint_s": 0.0}


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of which two have a CPU each; this process is connected to it."""
    with connected(sys.modules[__name__]) as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Six stages in four packs; the first two have most of the epochs."""
    path = tmp_path_factory.mktemp("study") / "grid.toml"
    text = TINY.replace("epochs = 3", f"epochs = {NUM_EPOCHS}").replace("k = [2, 3]", "k = [2]")
    path.write_text(text.replace("plr = [1e-2, 1e-1]", "plr = [1e-3, 3e-3, 1e-2, 3e-2]"))
    return ft.study(path)


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The results of the local engine, without an interruption."""
    store = tmp_path_factory.mktemp("whole") / "store"
    ft.sweep(study, store=store, **HOW)
    return contents(store)


@dataclass(frozen=True, eq=False)
class Faulty(Training):
    """A pack with a fault that strikes at an epoch of it, the first one that gets there.

    "three kills" strike the same pack again and again, some epochs on.
    """

    fault: str
    mark: Path
    """made when it strikes"""
    epoch: int = NUM_EPOCHS // 2

    def run(self, workbench, report):
        def strike(stage, epoch, scores):
            report(stage, epoch, scores)
            struck = self.mark.read_text().split() if self.mark.exists() else []
            times = 3 if self.fault == "three kills" else 1
            mine = not struck or struck[0] == self.stages[0].id
            if self.fault == "always" or (
                epoch >= self.epoch + 5 * len(struck) and len(struck) < times and mine
            ):
                self.mark.write_text(" ".join([*struck, self.stages[0].id]))
                if self.fault in ("killed", "three kills", "node"):
                    os.kill(os.getppid() if self.fault == "node" else os.getpid(), signal.SIGKILL)
                raise RuntimeError("on purpose")

        super().run(workbench, strike)


@pytest.fixture
def struck(study, tmp_path, monkeypatch, cluster):
    """`struck(fault)` -> what a sweep with it leaves, and how often each epoch was trained."""
    told = []

    def call(fault):
        def faulty(stages):
            return Faulty(stages, fault, tmp_path / "mark")

        def report(self, stage, epoch, scores):
            told.append((stage.id, epoch))
            sweep_report(self, stage, epoch, scores)

        sweep_report = driver._Sweep.report
        monkeypatch.setattr(driver, "Training", faulty)
        monkeypatch.setattr(driver._Sweep, "report", report)
        monkeypatch.setattr("fasttrain.execution.engines.ray_engine.QUIET_S", 1.0)
        ft.sweep(study, store=tmp_path / "store", engine="ray", **HOW)
        assert (tmp_path / "mark").exists()
        assert not checkpoints(tmp_path / "store")
        return contents(tmp_path / "store"), told

    return call


def test_it_ends_in_the_bits_of_the_local_engine(study, whole, cluster, tmp_path):
    found = ft.sweep(study, store=tmp_path / "store", engine="ray", **HOW)
    assert contents(tmp_path / "store") == whole
    assert set(found.stages["state"]) <= {"done", "at-chance"}
    assert not list((tmp_path / "store").glob("**/.*.tmp"))


@pytest.mark.parametrize("fault", ["killed", "raises"])
def test_a_worker_that_ends_costs_what_was_trained_since_its_checkpoint(struck, whole, fault):
    found, told = struck(fault)
    assert found == whole
    again = {event for event in told if told.count(event) > 1}
    # A checkpoint an epoch: the last one may have been on its way.
    assert len({epoch for _, epoch in again}) <= 2
    assert len(told) >= NUM_EPOCHS * 4


def test_workers_that_are_lost_are_no_failure_of_a_pack_that_goes_on(struck, whole):
    """More often than a pack that fails is tried as a whole: it is not divided, nor given up."""
    found, told = struck("three kills")
    assert found == whole
    again = {event for event in told if told.count(event) > 1}
    assert len({epoch for _, epoch in again}) <= 6


def test_a_node_that_is_lost_is_not_needed(struck, whole, cluster):
    found, told = struck("node")
    cluster.add_node(num_cpus=1)
    assert found == whole
    assert len({epoch for event in told if told.count(event) > 1 for epoch in event[1:]}) <= 2


def test_what_is_lost_on_its_way_is_trained_again(struck, whole, monkeypatch):
    import ray

    num_taken, get = 0, ray.get

    def lose_one(what):
        nonlocal num_taken
        num_taken += 1
        if num_taken == 20:
            raise ray.exceptions.ObjectLostError("0" * 56, None, "")
        return get(what)

    monkeypatch.setattr(ray, "get", lose_one)
    found, told = struck("raises")
    assert num_taken > 20
    assert found == whole


def test_a_task_that_always_raises_fails_alone(struck, tmp_path):
    with pytest.raises(EnvironmentProblem, match="on purpose"):
        struck("always")
    store = Store.open(tmp_path / "store", create=False)
    failed = [path.parent.name for path in (tmp_path / "store").glob("*/failed.txt")]
    assert len(failed) == 4
    assert all("on purpose" in (store.failure(stage) or "") for stage in failed)


def test_a_node_of_other_versions_is_refused_by_name(study, cluster, tmp_path, monkeypatch):
    wanted = {"fasttrain": "0.0.1", "torch": "1.13"}
    monkeypatch.setattr("fasttrain.execution.engines.ray_engine.versions", lambda: wanted)
    with pytest.raises(EnvironmentProblem, match=f"node {os.uname().nodename} has .*torch 1.13"):
        ft.sweep(study, store=tmp_path / "store", engine="ray", **HOW)
    assert not list((tmp_path / "store").glob("*/done.json"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "cuda"}, "GPUs 0: packs need a GPU"),
        ({"processes": 9}, "CPUs 2, GPUs 0: at most 2 packs"),
    ],
)
def test_what_the_cluster_does_not_have_is_said_at_once(study, cluster, tmp_path, asked, said):
    with pytest.raises(EnvironmentProblem, match=said):
        ft.sweep(study, store=tmp_path / "store", engine="ray", **{**HOW, **asked})


def test_an_address_that_nothing_answers_at_is_one_line(tmp_path):
    (tmp_path / "grid.toml").write_text(TINY)
    command = "sweep grid.toml --engine ray --address 127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-m", "fasttrain", *command.split()],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no Ray cluster answers at 127.0.0.1:1: Connection refused" in done.stderr


@pytest.mark.parametrize("name", ["../ab-{}.safetensors", "ab-{}.json", "ab-0{}.safetensors"])
def test_a_checkpoint_is_written_under_its_own_name_alone(tmp_path, name):
    from fasttrain.execution.engines.ray_checkpoints import save_checkpoint

    store = Store.open(tmp_path / "store", create=True)
    with pytest.raises(EnvironmentProblem, match="which is not what it says"):
        save_checkpoint(store, name.format(sha256_hex(b"x")[:16]), b"x")
    assert not list(tmp_path.glob("**/*ab-*"))


def start(folder: Path, *flags: str) -> subprocess.Popen:
    """A sweep on a cluster of its own, long enough to be stopped."""
    text = TINY.replace("epochs = 3", "epochs = 400").replace("k = [2, 3]", "k = []")
    (folder / "grid.toml").write_text(text)
    command = "sweep grid.toml --store store --engine ray --pack 2 --processes 2"
    return subprocess.Popen(
        [sys.executable, "-m", "fasttrain", *command.split(), *flags],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs_told(store: Path) -> bool:
    """Whether the driver has been told of an epoch."""
    with contextlib.suppress(FileNotFoundError):
        return re.search("epoch [1-9]", (store / "progress.json").read_text()) is not None
    return False


# Who is stopped has its tasks tell their last epoch; who is killed has what they told by then.
@pytest.mark.parametrize(("stop", "interval"), [(signal.SIGTERM, "600"), (signal.SIGKILL, "0")])
def test_a_driver_that_is_stopped_or_killed_goes_on(tmp_path, stop, interval):
    process = start(tmp_path, "--checkpoint-s", interval)
    begun = checkpoints if stop == signal.SIGKILL else epochs_told
    while not begun(tmp_path / "store") and not ended(process):
        pass
    below = descendants(process.pid)
    assert listening(below) and listening(below) <= LOOPBACK
    # Ray's own agents look from time to time whether they are still needed.
    agents = {pid for pid in below if b"Agent" in command_of(pid)}
    process.send_signal(stop)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == (-stop if stop == signal.SIGKILL else 128 + stop), errors
    assert "Traceback" not in errors
    assert checkpoints(tmp_path / "store")
    assert not list((tmp_path / "store").glob("*/done.json"))
    assert all_end(below - agents)
    study = ft.study(tmp_path / "grid.toml")
    how = {"pack": 2, "processes": 2}
    ft.sweep(study, store=tmp_path / "store", **how)
    ft.sweep(study, store=tmp_path / "whole", **how)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
