"""A Ray cluster of nodes of different kinds: each measures its own packs, and trains those.

On raylets of this machine, of which two claim to be of other kinds by a label: what they answer and
measure goes by that. Without Ray these are skipped; FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a
failure.
"""

import dataclasses
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fasttrain as ft
from fasttrain.errors import EnvironmentProblem
from fasttrain.execution import choosing
from fasttrain.execution import run as driver
from fasttrain.execution.engines.tasks import Training
from fasttrain.execution.measured import Timing
from fasttrain.store.pack_records import PackRecords, read_record
from fasttrain.store.store import Store

from .conftest import TINY, Killed, contents
from .raylets import connected

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
from fasttrain.execution.engines import ray_kinds  # noqa: E402
from fasttrain.execution.engines.ray_cluster import Cluster, Node, Room  # noqa: E402

# Ray leaves files open, and warns of its own parts.
pytestmark = [pytest.mark.optional, pytest.mark.filterwarnings("ignore")]

STEPS_S = {"fast": {1: 4.0, 2: 3.0, 4: 1.0}, "slow": {1: 6.0, 2: 5.0, 4: 7.0}}
"""per model, of packs on nodes of a kind: their own sizes are 4 and 2"""


def claimed(uses_gpus=False):
    """The kind of this process's node."""
    import ray

    return ray.get_runtime_context().get_node_labels().get("claims", "other")


def measured(workbench, largest, sharing, compiled):
    """Made-up timings of this node."""
    return [Timing(n, n * s, 0.001, 1) for n, s in STEPS_S[claimed()].items()]


def too_small(workbench, largest, sharing, compiled):
    """Nodes of one kind cannot train at all."""
    if claimed() == "slow":
        raise EnvironmentProblem("the network cannot be run on cpu: out of memory")
    return measured(workbench, largest, sharing, compiled)


def lost_there(workbench, largest, sharing, compiled):
    """A process of one kind ends, as the system ends one that takes too much memory."""
    if claimed() == "slow":
        os._exit(1)
    return measured(workbench, largest, sharing, compiled)


def one_kind(uses_gpus):
    """As if all nodes were alike."""
    return "fast"


def measured_alike(workbench, largest, sharing, compiled):
    return [Timing(n, n * s, 0.001, 1) for n, s in STEPS_S["fast"].items()]


@dataclass(frozen=True, eq=False)
class Placed(Training):
    """A pack that notes where it trains; the first on a node that is to be lost loses it."""

    folder: Path
    lost: str

    def run(self, workbench, report):
        kind = claimed()
        (self.folder / f"{len(self.stages)}-{self.stages[0].id}").write_text(kind)
        if kind == self.lost:
            os.kill(os.getppid(), signal.SIGKILL)
        super().run(workbench, report)


@pytest.fixture(scope="module")
def cluster():
    """A head, and a node of a CPU of each kind; this process is connected to it."""
    nodes = [{"num_cpus": 1, "labels": {"claims": kind}} for kind in STEPS_S]
    with connected(sys.modules[__name__], *nodes) as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Eight pre-trainings, and a fine-tuning from each."""
    path = tmp_path_factory.mktemp("study") / "grid.toml"
    rates = "plr = [1e-3, 2e-3, 3e-3, 4e-3, 1e-2, 2e-2, 3e-2, 4e-2]"
    path.write_text(TINY.replace("plr = [1e-2, 1e-1]", rates).replace("k = [2, 3]", "k = []"))
    return ft.study(path)


@pytest.fixture
def swept(cluster, study, tmp_path, monkeypatch):
    """`swept()` -> the sizes of the packs that trained on each kind, by a sweep into `store`."""

    def call(lost="", alike=False, measure=measured):
        shutil.rmtree(tmp_path / "packs", ignore_errors=True)
        (tmp_path / "packs").mkdir()
        monkeypatch.setattr(ray_kinds, "about_node", one_kind if alike else claimed)
        monkeypatch.setattr(choosing, "measure_ways", measured_alike if alike else measure)
        monkeypatch.setattr(ray_kinds, "QUIET_S", 1.0)
        monkeypatch.setattr("fasttrain.execution.engines.ray_engine.QUIET_S", 1.0)
        monkeypatch.setattr(driver, "Training", lambda s: Placed(s, tmp_path / "packs", lost))
        ft.sweep(study, store=tmp_path / "store", engine="ray", checkpoint_s=0.0, quiet=False)
        found: dict[str, list[int]] = {}
        for path in (tmp_path / "packs").iterdir():
            found.setdefault(path.read_text(), []).append(int(path.name.partition("-")[0]))
        return found

    return call


def oracle(study, folder: Path) -> dict[str, bytes]:
    """The results of the local engine in the packs that the store has recorded."""
    shutil.copytree(folder / "store" / "packs", folder / "oracle" / "packs")
    shutil.copy(folder / "store" / "store.json", folder / "oracle")
    ft.sweep(study, store=folder / "oracle", processes=1, pack=4)
    return contents(folder / "oracle")


def recorded(store: Path) -> set[tuple[str, ...]]:
    records = [read_record(path) for path in PackRecords(Store(store)).paths()]
    return {tuple(member["stage"] for member in record["members"]) for record in records}


def test_every_kind_of_node_trains_packs_of_its_own_size(study, swept, tmp_path, capsys):
    found = swept()
    assert found.keys() == STEPS_S.keys()
    assert max(found["slow"]) == 2 and max(found["fast"]) == 4
    said = capsys.readouterr().out
    assert "packs of up to 4 in 2 processes, 1 threads each\n" in said
    assert "fast: 1 of them, packs of up to 4; ms per step and model in packs of 1: 4e+03" in said
    assert "slow: 1 of them, packs of up to 2; ms" in said
    assert contents(tmp_path / "store") == oracle(study, tmp_path)


def test_a_sweep_that_is_killed_goes_on_in_the_same_packs(study, swept, tmp_path, monkeypatch):
    def kill(_, __, epoch, ___):
        if epoch == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fasttrain.execution.progress.ProgressView.epoch", kill)
        with pytest.raises(Killed):
            swept()
    before = recorded(tmp_path / "store")
    swept()
    after = recorded(tmp_path / "store")
    assert before and before <= after
    # No stage has started in two packs.
    assert sum(map(len, after)) == len(set().union(*after)) == 16
    assert contents(tmp_path / "store") == oracle(study, tmp_path)


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (too_small, "^slow: the network cannot be run on cpu: out of memory; take its nodes out"),
        (lost_there, "^slow: .+; take its nodes out of the cluster, or give --pack"),
    ],
)
def test_a_kind_that_cannot_be_measured_is_named(swept, measure, said):
    with pytest.raises(EnvironmentProblem, match=said):
        swept(measure=measure)


def test_nodes_of_one_kind_are_not_told_apart(study, swept, tmp_path, capsys):
    found = swept(alike=True)
    assert {size for sizes in found.values() for size in sizes} == {4}
    line = "packs of up to 4 in 2 processes, 1 threads each; ms per step and model in packs of 1: "
    said = capsys.readouterr().out
    assert line in said and "fast" not in said
    ft.sweep(study, store=tmp_path / "local", processes=2, pack=4)
    assert contents(tmp_path / "store") == contents(tmp_path / "local")


def test_a_node_that_joins_later_gets_the_smallest_packs(cluster, capsys):
    from fasttrain.execution.engines.ray_cluster import cluster as connected
    from fasttrain.execution.engines.ray_cluster import disconnect
    from fasttrain.execution.pack_size import Choice
    from fasttrain.plan.config import RunOptions

    # Of a cluster without an address the environment would say what nodes are started with.
    options = RunOptions(engine="ray", address="auto")
    found = connected(options)
    room = found.room(9, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_kinds, "about_node", claimed)
        room = dataclasses.replace(room, processes=9)
        pools = ray_kinds.Pools(found, room, {"fast": Choice(4), "slow": Choice(2)})
        while len(pools.free({"fast": 0})) < 2:
            pools.kinds.look(1.0)
        joined = cluster.add_node(num_cpus=2, labels={"claims": "new"})
        while not pools.joined(0.0):
            pools.kinds.look(1.0)
        assert pools.free({"slow": 1}) == ["fast", "slow", "slow"]
        assert joined.node_id in pools.where("slow")["label_selector"]["ray.io/node-id"]
        assert joined.node_id not in pools.where("fast")["label_selector"]["ray.io/node-id"]
        cluster.remove_node(joined)
    disconnect()
    assert re.search(": new, not measured: packs of up to 2 there", capsys.readouterr().err)


class Silent(ray_kinds.Kinds):
    """Asks, and gets no answer of nodes on a host that is named so."""

    def _ask(self, node):
        import ray

        if "silent" not in node.host:
            return ray.put(node.num_cpus)
        # Of a task that never begins.
        return ray.remote(num_cpus=1000)(claimed).remote()


def of_hosts(*hosts):
    """A cluster of these hosts, of which the numbers of CPUs differ."""
    found = Cluster("head:6379", mine=False)
    found.nodes = lambda: [Node(host, host, at + 1, 0, host) for at, host in enumerate(hosts)]
    return found


@pytest.fixture
def unanswered(cluster, monkeypatch):
    """No node on a silent host says its kind; and nobody waits long for it."""
    monkeypatch.setattr(ray_kinds, "Kinds", Silent)
    monkeypatch.setattr(ray_kinds, "QUIET_S", 0.1)
    monkeypatch.setattr(ray_kinds, "ANSWER_S", 0.5)
    return Room(3, 1, 1.0, 0.0)


def test_packs_are_chosen_without_a_node_that_does_not_say_its_kind(unanswered, capsys):
    found = ray_kinds.kinds_of(of_hosts("a", "silent", "b"), unanswered)
    assert {kind: [node.host for node in nodes] for kind, nodes in found.items()} == {
        "1": ["a"],
        "3": ["b"],
    }
    assert (
        "silent does not answer for 0.5 s: packs are chosen without it" in capsys.readouterr().err
    )
    with pytest.raises(EnvironmentProblem, match="no node answers for 0.5 s"):
        ray_kinds.kinds_of(of_hosts("silent 1", "silent 2"), unanswered)


def test_a_node_that_is_lost_before_it_says_its_kind_is_not_waited_for(unanswered):
    lost = of_hosts("a", "silent")
    kinds = Silent(lost, unanswered)
    kinds.look()
    assert [node.host for node in kinds.asked.values()] == ["silent"]
    lost.nodes = of_hosts("a").nodes
    kinds.look()
    assert not kinds.asked and list(kinds.nodes) == ["1"]


def test_packs_of_a_kind_that_is_lost_go_to_the_other_as_they_are(
    study, swept, cluster, tmp_path, capsys
):
    found = swept(lost="fast")
    cluster.add_node(num_cpus=1, labels={"claims": "fast"})
    assert found.keys() == {"slow"} and max(found["slow"]) == 4
    assert set(found["slow"]) <= {1, 2, 4}
    assert "no node is left of fast: its packs go to the others, as they are" in (
        capsys.readouterr().err
    )
    assert contents(tmp_path / "store") == oracle(study, tmp_path)
