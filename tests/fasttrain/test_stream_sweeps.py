"""Models on streams, chosen by measurement: recorded with the pack, and the bits of packs of one.

Here, on a CPU, without graphs: what is chosen, kept and trained again is the same.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fasttrain.errors import EnvironmentProblem
from fasttrain.execution import measured as measured_module
from fasttrain.execution import pack_size as tuning
from fasttrain.execution.measured import Timing
from fasttrain.execution.pack_size import fastest
from fasttrain.plan.config import Config
from fasttrain.settings.optimizers.kinds import SGD, Sphere
from fasttrain.store.pack_records import GROUPED, STREAMS, PackRecords, read_record
from fasttrain.store.store import Store
from fasttrain.training.captured import CapturedEpochs

from .conftest import contents
from .test_captured import CPU, StandIn, workbench_of

GRID = ("--plr", "1e-3,3e-3,1e-2", "--flr", "1e-2", "--k", "2")


@pytest.fixture
def streams(monkeypatch, tmp_path):
    """An empty cache, and made-up timings by which streams are the fastest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "ways", lambda workbench: (GROUPED, STREAMS))
    monkeypatch.setattr(tuning, "measure", lambda _, size: Timing(size, 4.0 * size, 1.0, 1))
    made = []

    def measure_streams(workbench, size):
        made.append(size)
        return Timing(size, 1.5 + size / 2, 1.0, 1, way=STREAMS)

    monkeypatch.setattr(tuning, "measure_streams", measure_streams)
    return made


def recorded(store: Path) -> set[str]:
    """The ways of the packs of a store that have several stages."""
    records = [read_record(path) for path in PackRecords(Store(store)).paths()]
    return {r.get("way", GROUPED) for r in records if len(r["members"]) > 1}


def test_the_faster_way_is_taken_and_has_the_bits_of_packs_of_one(
    fasttrain, tiny, tmp_path, streams
):
    together = fasttrain("sweep", tiny, *GRID, "--processes", "1", "--store", "streams")
    assert together.code == 0, together.err
    assert "packs of up to 3 in this process" in together.out and ", on streams;" in together.out
    assert "2: 4e+03, 3: 4e+03, 2 on streams: 1.25e+03, 3 on streams: 1e+03" in together.out
    assert streams == [2, 3] and recorded(tmp_path / "streams") == {STREAMS}
    for name, size in (("alone", "1"), ("grouped", "3")):
        assert fasttrain("sweep", tiny, *GRID, "--pack", size, "--store", name).code == 0
    assert recorded(tmp_path / "grouped") == {GROUPED}
    found = contents(tmp_path / "streams")
    assert found == contents(tmp_path / "alone") != contents(tmp_path / "grouped")


def test_what_is_deleted_or_killed_trains_again_the_way_it_did(
    fasttrain, tiny, tmp_path, streams, killed_at
):
    """Also where streams are no longer the faster ones, and the other way round."""
    sizes = {"streams": (), "grouped": ("--pack", "3")}
    for name, size in sizes.items():
        assert fasttrain("sweep", tiny, *GRID, *size, "--store", name).code == 0
    whole = {name: contents(tmp_path / name) for name in sizes}
    assert whole["streams"] != whole["grouped"]
    for name, now in (("streams", ("--pack", "3")), ("grouped", ())):
        stages = sorted((tmp_path / name).glob("*/stage.json"))
        for path in stages[::2]:
            shutil.rmtree(path.parent)
        assert fasttrain("sweep", tiny, *GRID, *now, "--store", name).code == 0
        assert contents(tmp_path / name) == whole[name]
    killed_at(2, "sweep", tiny, *GRID, "--checkpoint-s", "0", "--store", "killed")
    assert fasttrain("sweep", tiny, *GRID, "--pack", "3", "--store", "killed").code == 0
    for name, content in contents(tmp_path / "killed").items():
        # Pre-trainings had begun on streams; what comes after them had not.
        stage = json.loads((tmp_path / "killed" / Path(name).parent / "stage.json").read_text())
        if stage["kind"] == "pretrain":
            assert content == whole["streams"][name]


def test_what_is_lost_of_a_merged_store_comes_out_the_way_that_it_was_trained(
    fasttrain, tiny, tmp_path, streams, killed_at
):
    """Though the target had begun the same packs the other way."""
    assert fasttrain("sweep", tiny, *GRID, "--store", "streams").code == 0
    killed_at(2, "sweep", tiny, *GRID, "--pack", "3", "--checkpoint-s", "0", "--store", "all")
    store = Store(tmp_path / "all")
    assert recorded(store.path) == {GROUPED} and store.checkpoints.files()
    assert fasttrain("merge", "all", "streams").code == 0
    assert recorded(store.path) == {STREAMS} and not store.checkpoints.files()
    whole = contents(tmp_path / "streams")
    for path in sorted(store.path.glob("*/stage.json"))[::2]:
        shutil.rmtree(path.parent)
    assert fasttrain("sweep", tiny, *GRID, "--pack", "3", "--store", "all").code == 0
    assert contents(store.path) == whole


def test_noise_has_no_streams(fasttrain, tmp_path, streams):
    (tmp_path / "noise.toml").write_text(
        """
[data]
dataset = "digits"
n_train = 100
n_test = 20
[network]
width = 2
[experiment]
kind = "chain"
legs = [{ lr = [1e-3, 1e-2], epochs = 1, noise = [0.0, 0.1] }, { lr = 1e-3, epochs = 1 }]
"""
    )
    assert fasttrain("sweep", tmp_path / "noise.toml", "--store", "noise").code == 0
    records = [read_record(path) for path in PackRecords(Store(tmp_path / "noise")).paths()]
    noisy = [any(leg.get("noise") for leg in r["members"][-1]["path"][-1:]) for r in records]
    assert sorted(zip(noisy, (r.get("way", GROUPED) for r in records), strict=True)) == [
        (False, STREAMS),
        (True, GROUPED),
    ]


def test_a_way_that_is_none_is_a_damaged_record(fasttrain, tiny, tmp_path, streams):
    assert fasttrain("sweep", tiny, *GRID, "--store", "streams").code == 0
    path = PackRecords(Store(tmp_path / "streams")).paths()[0]
    content = path.read_text()
    path.write_text(content.replace('"streams"', '"rivers"'))
    assert path.read_text() != content
    with pytest.raises(EnvironmentProblem, match="does not match its sha256"):
        read_record(path)


def test_ways_are_those_of_the_device_and_of_what_a_step_draws():
    def of(device, optimizer):
        config = Config(optimizer=optimizer)
        return tuning.ways(SimpleNamespace(device=torch.device(device), config=config))

    assert of("cpu", Sphere()) == (GROUPED,)
    assert of("cuda:0", Sphere()) == of("cuda:0", SGD()) == (GROUPED, STREAMS)
    assert of("cuda:0", SGD(gradient_noise=0.1)) == (GROUPED,)


def test_the_smallest_of_the_fastest_is_chosen_whatever_its_way():
    timings = [Timing(1, 4.0, 1, 1), Timing(8, 8.2, 1, 1), Timing(4, 4.1, 1, 1, way=STREAMS)]
    assert fastest(timings).way == STREAMS
    assert fastest([*timings, Timing(2, 2.05, 1, 1)]).way == GROUPED


def test_streams_are_measured_as_they_train(tmp_path, monkeypatch):
    stand_in = StandIn()
    made = []

    def captured(workbench, model, optimizer, loader):
        made.append(CapturedEpochs(model, workbench.loss, optimizer, loader, "fp32", CPU, stand_in))
        return made[-1]

    workbench = workbench_of(tmp_path)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        measured_module.measure_streams(workbench, 2)
    monkeypatch.setattr(measured_module, "captured", captured)
    timing = measured_module.measure_streams(workbench, 3)
    assert (timing.size, timing.way) == (3, STREAMS) and timing.step_s > 0
    assert [one.model.num_models for one in made] == [1, 1, 1]
    # Two sizes of a batch of each, and every step after those that warm up.
    assert stand_in.captures == 6 and stand_in.replays >= 3 * workbench.steps_per_epoch


def test_where_no_streams_can_be_measured_there_is_the_other_way(
    fasttrain, tiny, tmp_path, streams, monkeypatch
):
    def fails(workbench, size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tuning, "measure_streams", fails)
    outcome = fasttrain("sweep", tiny, *GRID, "--store", "grouped")
    # Made up to be as fast in packs of any size.
    assert outcome.code == 0 and "packs of up to 1" in outcome.out
    assert "on streams" not in outcome.out and recorded(tmp_path / "grouped") == set()


def test_there_are_no_more_streams_than_are_of_use(fasttrain, tiny, streams):
    assert fasttrain("sweep", tiny, "--plr", "1e-3:1e-1:40", "--k", "none", "--dry-run").code == 0
    assert streams == [2, 4, 8, 16]
