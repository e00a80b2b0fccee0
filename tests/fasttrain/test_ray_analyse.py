"""Analyses on Ray: the tables of the local engine, whatever is lost on the way.

On a real cluster of raylets, as in `test_ray`; faults strike in the worker that measures.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fasttrain as ft
from fasttrain.analysis import analyse, measuring
from fasttrain.analysis.measuring import Measuring
from fasttrain.cli.main import run
from fasttrain.errors import EnvironmentProblem
from fasttrain.store.store import Store

from .conftest import TINY, ended
from .programs import ENVIRONMENT, all_end, command_of
from .raylets import LOOPBACK, connected, descendants, listening

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
# Ray leaves files open, and warns of its own parts.
pytestmark = [pytest.mark.optional, pytest.mark.filterwarnings("ignore")]

NORMS = 4
"""analyses of this kind"""


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of which two have a CPU each; this process is connected to it."""
    with connected(sys.modules[__name__]) as started:
        yield started


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    (folder / "grid.toml").write_text(TINY)
    ft.sweep(folder / "grid.toml", store=folder / "store", pack=2, processes=1)
    return folder / "store"


@pytest.fixture
def fresh(swept, tmp_path):
    """A store that nothing was analysed of."""
    return shutil.copytree(swept, tmp_path / "store")


@pytest.fixture(scope="module", autouse=True)
def packs_of_two():
    """Whoever measures, packs are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analyse, "sizes", lambda *_: (4, 2))
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Images of another data set, in a file."""
    path = tmp_path_factory.mktemp("target") / "other.npz"
    assert run(["data", "write", "digits", str(path)]) == 0
    return {"target": str(path), "target_train": 60, "target_test": 40}


@pytest.fixture(scope="module")
def expected(swept, target, tmp_path_factory):
    """The tables of the local engine."""
    store = shutil.copytree(swept, tmp_path_factory.mktemp("local") / "store")
    ft.analyse(store, processes=2, **target)
    return tables(store)


def tables(store: Path) -> dict[str, bytes]:
    """Every file of the analyses that numbers are read from."""
    paths = sorted((store / "analyses").glob("*/*.parquet"))
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


@dataclass(frozen=True, eq=False)
class Faulty(Measuring):
    """Analyses with a fault that strikes once they are made; but for "always", once of all."""

    fault: str
    mark: Path
    """made when it strikes"""

    def run(self, workbench, report):
        def strike():
            report()
            if self.fault == "always" or not self.mark.exists():
                self.mark.touch()
                if self.fault in ("worker", "node"):
                    os.kill(os.getppid() if self.fault == "node" else os.getpid(), signal.SIGKILL)
                raise RuntimeError("on purpose")

        super().run(workbench, strike)


@pytest.fixture
def struck(fresh, tmp_path, monkeypatch, cluster):
    """`struck(fault)` -> the tables that measurements with it leave."""

    def call(fault):
        monkeypatch.setattr(
            measuring, "Measuring", lambda left, size: Faulty(left, size, fault, tmp_path / "mark")
        )
        monkeypatch.setattr("fasttrain.execution.engines.ray_engine.QUIET_S", 1.0)
        try:
            ft.analyse(fresh, only=["norms"], engine="ray", processes=2)
        finally:
            assert (tmp_path / "mark").exists()
        return tables(fresh)

    return call


def test_all_tables_are_those_of_the_local_engine(fresh, expected, target, cluster, monkeypatch):
    """With a target that is not there any more when tasks begin: its images travel with them."""
    path, choose = Path(target["target"]), analyse.choose

    def gone(*arguments):
        path.rename(path.with_suffix(".gone"))
        choose(*arguments)

    monkeypatch.setattr(analyse, "choose", gone)
    ft.analyse(fresh, engine="ray", processes=2, **target)
    assert tables(fresh) == expected
    assert {Path(name).stem for name in expected} > {"pairs", "angles", "sharpness", "transfer"}
    assert not list(fresh.glob("**/.*.tmp"))


@pytest.mark.parametrize("fault", ["worker", "raises", "node"])
def test_what_ends_in_the_middle_is_measured_again(struck, expected, cluster, fault):
    try:
        found = struck(fault)
    finally:
        if fault == "node":
            cluster.add_node(num_cpus=1)
    assert found == {name: expected[name] for name in found}
    assert len(found) == 2 * NORMS


def test_a_measurement_that_always_raises_fails_alone(struck, fresh):
    with pytest.raises(EnvironmentProblem, match=f"{NORMS} analyses failed.*on purpose"):
        struck("always")
    analyses = Store.open(fresh, create=False).analyses
    failed = [path.parent.name for path in analyses.path.glob("*/failed.txt")]
    assert len(failed) == NORMS
    assert all("on purpose" in (analyses.failure(one) or "") for one in failed)


def test_a_stage_that_is_damaged_leaves_the_others(fresh, expected, cluster):
    stages = ft.load(fresh)
    chosen = stages[(stages["kind"] == "finetune") & (stages["plr"] == 0.01)]["stage"].item()
    state = fresh / chosen / "state.safetensors"
    state.write_bytes(bytes([*state.read_bytes()[:-1], 0]))
    # The place on the driver is named, not that on a node.
    with pytest.raises(EnvironmentProblem, match=f"1 analyses failed.*{fresh / chosen}"):
        ft.analyse(fresh, only=["norms"], engine="ray", processes=2)
    found = tables(fresh)
    assert found == {name: expected[name] for name in found} and len(found) == 2 * (NORMS - 1)


# With nothing measured before, in a cluster of its own.
def test_measurements_that_are_stopped_go_on(fresh, expected):
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrain", "analyse", str(fresh), "--engine", "ray"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not tables(fresh) and not ended(process):
        pass
    below = descendants(process.pid)
    assert listening(below) and listening(below) <= LOOPBACK
    agents = {pid for pid in below if b"Agent" in command_of(pid)}
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "to resume, run again: fasttrain analyse" in errors
    assert "Traceback" not in errors
    assert all_end(below - agents)
    made = tables(fresh)
    assert made and len(made) < len(expected)
    ft.analyse(fresh, processes=2)
    done = tables(fresh)
    assert made == {name: done[name] for name in made}
    assert done.keys() == {name for name in expected if not name.endswith("transfer.parquet")}
