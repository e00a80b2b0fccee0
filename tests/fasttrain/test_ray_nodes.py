"""What lies on the nodes of a Ray cluster: images that need not travel, and GPUs that packs share.

On a head, where the driver is, and one node that claims to have two GPUs. Without Ray these are
skipped; FASTTRAIN_REQUIRE_OPTIONAL=1 makes that a failure.
"""

import dataclasses
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import fasttrain as ft
from fasttrain.execution import run as driver
from fasttrain.execution.engines.tasks import Training
from fasttrain.machine.files import write_atomically
from fasttrain.plan.config import RunOptions

from .conftest import TINY, contents, moment
from .raylets import connected

if os.environ.get("FASTTRAIN_REQUIRE_OPTIONAL") != "1":
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
from fasttrain.execution.engines import ray_cluster, ray_engine  # noqa: E402

# Ray leaves files open, and warns of its own parts.
pytestmark = [pytest.mark.optional, pytest.mark.filterwarnings("ignore")]

NUM_BYTES = 1000 * 32 * 32 * 3
"""of the images"""
HOW = {"pack": 1, "processes": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def node():
    """A node of two CPUs and two GPUs, on the cluster that this process is connected to."""
    with connected(sys.modules[__name__], {"num_cpus": 2, "num_gpus": 2}) as cluster:
        import ray

        [worker] = cluster.worker_nodes
        [found] = [n for n in ray.nodes() if n["NodeID"] == worker.node_id]
        yield found


def write_images(path: Path, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", 100), ("test", 900)):
        arrays[f"{split}_images"] = drawn.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)


@pytest.fixture
def travelled(node, monkeypatch):
    """Whether images had come to the node, at the end of each sweep."""
    from ray.experimental import get_object_locations

    found = []

    def leave(engine, *raised):
        (images,) = ray_cluster.cluster(RunOptions(engine="ray")).kept.values()
        (where,) = get_object_locations([images.reference]).values()
        assert where["object_size"] > NUM_BYTES
        found.append(node["NodeID"] in where["node_ids"])
        left(engine, *raised)

    left = ray_engine.RayEngine.__exit__
    monkeypatch.setattr(ray_engine.RayEngine, "__exit__", leave)
    return found


class Noted(NamedTuple):
    """What a pack was given."""

    given: str
    """GPUs, by Ray"""
    seen: str
    """CUDA_VISIBLE_DEVICES of its process"""
    share: str
    """of a GPU"""


@dataclass(frozen=True, eq=False)
class Sharing(Training):
    """A pack that notes what it is given. The first four wait until they are all there."""

    folder: Path

    def run(self, workbench, report):
        import ray

        given = ",".join(map(str, ray.get_gpu_ids()))
        share = ray.get_runtime_context().get_assigned_resources()["GPU"]
        note = self.folder / f"{self.stages[0].id}.gpu"
        note.write_text(f"{given} {os.environ['CUDA_VISIBLE_DEVICES']} {share:g}")
        together = self.folder / "together"
        until = time.monotonic() + 600
        while not together.exists() and time.monotonic() < until:
            notes = list(self.folder.glob("*.gpu"))
            if len(notes) == 4:
                # None of them goes on before this is there.
                text = " ".join(sorted(path.read_text().split()[0] for path in notes))
                write_atomically(together, text.encode())
            moment()
        super().run(workbench, report)


@pytest.mark.parametrize(
    ("lies_there", "travels"), [("the same", False), ("nothing", True), ("another", True)]
)
def test_images_travel_to_a_node_once_unless_they_lie_there(
    travelled, tmp_path, monkeypatch, capsys, lies_there, travels
):
    path = tmp_path / "images.npz"
    # Processes of the node keep what they have had.
    write_images(path, seed=["the same", "nothing", "another"].index(lies_there))
    study = TINY.replace('dataset = "digits"\nn_train = 150\nn_test = 50', f'dataset = "{path}"')
    (tmp_path / "grid.toml").write_text(study)
    study = ft.study(tmp_path / "grid.toml")
    ft.sweep(study, store=tmp_path / "local", **HOW)

    def setting(*arguments):
        # The driver has read them: this is what the node has.
        if lies_there == "nothing":
            path.unlink(missing_ok=True)
        elif lies_there == "another":
            write_images(path, seed=9)
        return of_driver(*arguments)

    of_driver = ray_engine.setting_of
    monkeypatch.setattr(ray_engine, "setting_of", setting)
    ft.sweep(study, store=tmp_path / "store", engine="ray", **HOW)
    assert contents(tmp_path / "store") == contents(tmp_path / "local")
    assert travelled == [travels]
    line = f"{path} there has the digest "
    assert capsys.readouterr().err.count(line) == (lies_there == "another")


def test_packs_share_gpus_as_they_are_told(node, tmp_path, monkeypatch):
    """The CPU stands in for the device itself: what a pack is given is Ray's."""
    folder = tmp_path / "packs"
    folder.mkdir()

    def setting(*arguments):
        return dataclasses.replace(of_driver(*arguments), device="cpu")

    of_driver = ray_engine.setting_of
    monkeypatch.setattr(ray_engine, "setting_of", setting)
    monkeypatch.setattr(driver, "Training", lambda stages: Sharing(stages, folder))
    text = TINY.replace("plr = [1e-2, 1e-1]", "plr = [1e-3, 1e-2, 1e-1, 1, 10, 100]")
    (tmp_path / "grid.toml").write_text(text.replace("k = [2, 3]", "k = []"))
    study = ft.study(tmp_path / "grid.toml", precision="fp32")
    how = {"pack": 1, "device": "cuda", "per_gpu": 2}
    ft.sweep(study, store=tmp_path / "store", engine="ray", **how)
    packs = [Noted(*path.read_text().split()) for path in folder.glob("*.gpu")]
    assert len(packs) > 4
    for pack in packs:
        assert pack.share == "0.5"
        # One, so that its index is 0 to torch; and the one that Ray has given.
        assert pack.given == pack.seen in ("0", "1")
    assert (folder / "together").read_text() == "0 0 1 1"
