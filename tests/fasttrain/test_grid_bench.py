"""`bench grid`: what it counts, what it measures, and what it prints."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.grid.cases import CASES, SIZES, Case, generate, grid_of, with_dataset
from bench.grid.counts import dispatched_operations, traffic_bytes, work
from bench.grid.measure import run_job, tree_bytes
from bench.grid.ours import OurSweep
from bench.grid.profiling import PARTS, REST, profile
from bench.grid.roofline import Roofs
from bench.grid.tables import compare, differences
from fasttrain.errors import EnvironmentProblem
from fasttrain.plan.config import GridConfig, RunOptions, load_config
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain_data import load


@pytest.fixture
def case(tiny, tmp_path, monkeypatch) -> Case:
    """2 cells on 150 digits; what is measured to choose packs stays out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = load_config(str(tiny))
    grid = GridConfig(plr=(1e-2,), flr=(1e-3, 1e-2), k=())
    return Case("tiny", dataclasses.replace(config, grid=grid))


def test_work_is_counted_by_the_shapes():
    found = work(ConvNet(width=32), side=32, channels=3)
    assert found.parameters == 387_936
    # Multiply-adds of the convs at 32, 32, 16 and 8 pixels a side, and of the head.
    convs = 9 * (3 * 32 * 32**2 + 32 * 64 * 32**2 + 64 * 128 * 16**2 + 128 * 256 * 8**2)
    assert found.flops == 3 * 2 * (convs + 256 * 10)
    assert found.outputs == 32 * 32**2 + 64 * 32**2 + 128 * 16**2 + 256 * 8**2
    assert found.inputs == 3 * 32**2 + 32 * 32**2 + 64 * 16**2 + 128 * 8**2
    assert traffic_bytes(found, "fp32") == 2 * traffic_bytes(found, "bf16")
    assert work(ResNet18(width=32), 32, 3).parameters == 2_790_240


def test_a_pack_dispatches_as_many_operations_whatever_its_size():
    network = ConvNet(width=2)
    one, two, five = (dispatched_operations(network, 8, 1, size, "fp32") for size in (1, 2, 5))
    assert two == five < 2 * one


def test_small_networks_are_bound_by_launches_and_packs_end_that():
    small = work(ConvNet(width=8), 8, 1)
    roofs = Roofs.of(small, 64, 100)
    assert roofs.graph_launches > max(roofs.flops, roofs.eager_bytes)
    size = roofs.models_to_fill(roofs.graph_launches)
    assert size * roofs.eager_bytes >= roofs.graph_launches > (size - 1) * roofs.eager_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_all_processes():
    code = "x = bytearray(b'1') * 2**26; print('ready', flush=True); input()"
    before = tree_bytes(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        assert tree_bytes(os.getpid()) - before > 0.9 * 2**26
        child.communicate(b"\n")


def test_differences_are_those_of_the_means():
    ours, theirs = np.array([[0.5, 0.9], [0.7, 0.9]]), np.array([[0.9, 0.8], [0.9, 0.8]])
    found, expected = differences(ours, theirs)
    assert found == pytest.approx(np.sqrt((0.3**2 + 0.1**2) / 2))
    # One cell of one side has a variance of 0.02 over two seeds.
    assert expected == pytest.approx(np.sqrt(0.01 / 2))


def test_grids_have_the_cells_they_are_named_for():
    assert [grid_of(cells).cells() for cells in SIZES] == list(SIZES)
    assert all(case.config.grid.k == () for case in CASES.values())


def test_a_profile_accounts_for_all_the_time(case, tmp_path):
    sweep = OurSweep(case.config, RunOptions(device="cpu", processes=1), tmp_path / "store", 0)
    found = profile(sweep, tmp_path / "profile")
    assert list(found.seconds) == [*PARTS, REST]
    assert all(seconds > 0 for seconds in found.seconds.values())
    training = sum(found.seconds[part] for part in PARTS[:4])
    # A pre-training of 3 epochs and 2 fine-tunings of 2, of 3 steps each.
    assert found.step_ms == pytest.approx(training / (3 * (3 + 2 * 2)) * 1e3)


def test_what_warms_the_processes_up_is_no_part_of_the_grid(case, tmp_path):
    training = dataclasses.replace(case.config.training, epochs=1)
    config = dataclasses.replace(case.config, training=training)
    sweep = OurSweep(config, RunOptions(device="cpu", processes=1), tmp_path / "store", 0)
    started = [stage for pack in sweep.start_packs() for stage in pack]
    assert len(started) == 1
    assert not {stage.id for stage in started} & {stage.id for stage in sweep.stages}


def test_both_sides_train_the_grid(case):
    text = "\n".join(compare(case, 1, None, None))
    assert "2 cells, 7 epochs" in text
    for quantity in ("cells per hour", "model-images per second", "peak memory", "forward and"):
        assert f"| {quantity}" in text
    assert text.count("| 0.01 | 0.001 |") == text.count("| 0.01 | 0.01 |") == 1
    assert "published loop" in text and "loader workers" in text


def test_a_job_that_fails_is_an_error_of_one_line(case):
    with pytest.raises(EnvironmentProblem, match=r"published: exit code 1: .*none\.npz") as error:
        run_job("published", with_dataset(case, "none.npz").config, 0, None)
    assert "\n" not in str(error.value)


def test_generated_images_are_a_data_set(tmp_path):
    generate(tmp_path / "made.npz", 50, 20)
    data = load(tmp_path / "made.npz")
    assert data.train_images.shape == (50, 32, 32, 3) and data.num_classes == 10
    assert len(data.test_labels) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "digts"], "digits"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--dataset", "none.npz"], "none.npz"),
    ],
)
def test_a_mistake_is_one_line(fasttrain, arguments, message):
    outcome = fasttrain("bench", "grid", *arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
