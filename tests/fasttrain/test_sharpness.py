"""Sharpness of stages: what training itself measures, packs, scale, and what is left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrain.analysis.sharpness import HessianSettings, curvature, measure
from fasttrain.analysis.tables import TABLES
from fasttrain.config import RunOptions, load_config
from fasttrain.lab import Lab, open_lab
from fasttrain.models import fold
from fasttrain.pack import Pack, State

HESSIAN = HessianSettings(num_images=100, tolerance=1e-4, max_iterations=60, num_probes=3)


@pytest.fixture
def lab(tiny: Path, tmp_path: Path) -> Lab:
    config = load_config(str(tiny))
    return open_lab(config, RunOptions(), tmp_path / "store", torch.device("cpu"), "fp32", {})


@pytest.fixture
def states(lab: Lab) -> list[State]:
    """Two trained networks, at different rates."""
    pack = Pack(lab, 0, [1e-3, 1e-2], None)
    for epoch in range(2):
        pack.train(epoch, tested=False)
    return pack.states()


def scaled(state: State, lab: Lab, factor: float) -> State:
    return {n: v * factor if n in lab.sphere_names else v for n, v in state.items()}


def test_the_gradient_norm_is_that_of_an_epoch_that_hardly_moves(lab, states):
    still = Pack(lab, 0, [1e-30, 1e-30], states).train(0, tested=False).scores
    table = measure(lab, states, 0, hessian=None)
    expected = still[:, :3].numpy()
    found = table[["train_loss", "train_accuracy", "effective_grad_norm"]].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    radius = lab.config.network.radius
    np.testing.assert_allclose(table.grad_norm * radius, table.effective_grad_norm, rtol=1e-5)


def test_columns_are_those_of_the_table_whatever_is_asked_for(lab, states):
    columns = {name: kind for name, kind in TABLES["sharpness"].items() if name != "stage"}
    unknown = ["eigenvalue", "eigenvalue_residual", "trace", "trace_error"]
    without = measure(lab, states, 0, hessian=None)
    with_hessian = measure(lab, states, 0, hessian=HESSIAN)
    for table in (without, with_hessian):
        assert {name: str(kind) for name, kind in table.dtypes.items()} == columns
    assert without[unknown].isna().all(axis=None)
    assert with_hessian.notna().all(axis=None)
    # Whole batches of 64, of 150 images.
    assert with_hessian.num_images.tolist() == [128, 128]
    assert without.num_images.tolist() == [0, 0]
    everything = HessianSettings(num_images=10**6, max_iterations=1)
    assert measure(lab, states, 0, hessian=everything).num_images.tolist() == [150, 150]


def test_a_model_is_measured_the_same_alone_and_beside_others(lab, states):
    broken = {n: v * torch.nan if v.is_floating_point() else v for n, v in states[0].items()}
    together = measure(lab, [*states, broken], 0, hessian=HESSIAN, dtype=torch.float64)
    for place in (0, 1):
        alone = measure(lab, [states[place]], 0, hessian=HESSIAN, dtype=torch.float64)
        for column in together.columns:
            # The residual is a difference of large numbers.
            rel = 1e-4 if column == "eigenvalue_residual" else 1e-9
            expected = pytest.approx(alone[column][0], rel=rel)
            assert together[column][place] == expected, column
    numbers = together.loc[2].drop(["train_accuracy", "num_images"])
    assert numbers.isna().all()


def test_every_image_of_the_hessian_counts_the_same(lab, states):
    model = lab.new_model(0, 2)
    model.load_state_dict(fold(states))
    batches = list(lab.train_loader(0).epoch(0))
    numbers = [len(labels) for _, labels in batches]
    assert len(set(numbers)) > 1
    # The trace of given probes is linear in the loss.
    parts = [curvature(model, [batch], 0, HESSIAN)["trace"] for batch in batches]
    whole = curvature(model, batches, 0, HESSIAN)
    assert whole["num_images"] == sum(numbers)
    np.testing.assert_allclose(
        whole["trace"], np.average(parts, axis=0, weights=numbers), rtol=1e-4
    )


def test_single_precision_is_enough(lab, states):
    single, double = (
        measure(lab, states, 0, hessian=HESSIAN, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    columns = ["grad_norm", "effective_grad_norm", "eigenvalue", "trace"]
    np.testing.assert_allclose(single[columns], double[columns], rtol=1e-3)


def test_what_is_effective_does_not_depend_on_the_radius(lab, states):
    table = measure(
        lab, [states[0], scaled(states[0], lab, 4.0)], 0, hessian=HESSIAN, dtype=torch.float64
    )
    # To the epsilon of batch normalisation.
    for column in ("effective_grad_norm", "eigenvalue", "trace"):
        assert table[column][1] == pytest.approx(table[column][0], rel=0.02)
    assert table.grad_norm[1] == pytest.approx(table.grad_norm[0] / 4, rel=0.02)


def test_states_and_the_lab_are_left_as_they_are(lab, states):
    before = [{name: value.clone() for name, value in state.items()} for state in states]
    lab.compiled = True
    measure(lab, states, 0, hessian=HESSIAN)
    measure(lab, states[:1], 0, hessian=HESSIAN)
    assert lab.compiled
    for state, copy in zip(states, before, strict=True):
        for name, value in copy.items():
            assert torch.equal(state[name], value)


def test_augmentation_of_the_set_up_is_left_out(lab, states, tiny, tmp_path):
    text = tiny.read_text().replace("n_test = 50", "n_test = 50\nflip = true\ncrop_padding = 2")
    tiny.write_text(text)
    config = load_config(str(tiny))
    augmented = open_lab(config, RunOptions(), tmp_path / "b", torch.device("cpu"), "fp32", {})
    expected = measure(lab, states, 0, hessian=None)
    assert measure(augmented, states, 0, hessian=None).equals(expected)
    assert not measure(lab, states, 1, hessian=None).equals(expected)
