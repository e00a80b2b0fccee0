"""Sharpness of stages: what training itself measures, packs, scale, and what is left alone."""

from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch

from fasttrain.analysis.records import _joined
from fasttrain.analysis.sharpness import HessianSettings, Measured, curvature, measure
from fasttrain.analysis.tables import TABLES
from fasttrain.plan.config import RunOptions, check, load_config
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import fold
from fasttrain.store.columns import SCORES
from fasttrain.training.pack import Pack, State
from fasttrain.training.workbench import Workbench, open_workbench

HESSIAN = HessianSettings(
    num_images=100, num_eigenvalues=3, tolerance=1e-4, max_iterations=60, num_probes=3
)


@pytest.fixture
def workbench(tiny: Path, tmp_path: Path) -> Workbench:
    config = load_config(str(tiny))
    return open_workbench(config, RunOptions(), tmp_path / "store", torch.device("cpu"), "fp32", {})


@pytest.fixture
def states(workbench: Workbench) -> list[State]:
    """Two trained networks, at different rates."""
    pack = Pack(workbench, 0, [Knobs(lr=1e-3), Knobs(lr=1e-2)], None)
    for epoch in range(2):
        pack.train(epoch, tested=False)
    return pack.states()


def scaled(state: State, workbench: Workbench, factor: float) -> State:
    return {n: v * factor if n in workbench.sphere_names else v for n, v in state.items()}


def test_the_gradient_norm_is_that_of_an_epoch_that_hardly_moves(workbench, states):
    still = Pack(workbench, 0, [Knobs(lr=1e-30)] * 2, states).train(0, tested=False).scores
    table = measure(workbench, states, 0, hessian=None).sharpness
    names = ("train_loss", "train_accuracy", "grad_norm")
    expected = still[:, [SCORES.index(name) for name in names]].numpy()
    found = table[["train_loss", "train_accuracy", "effective_grad_norm"]].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    radius = workbench.config.network.radius
    np.testing.assert_allclose(table.grad_norm * radius, table.effective_grad_norm, rtol=1e-5)


def test_beside_the_unit_sphere_stands_the_hessian_at_the_norm_of_the_weights(tmp_path):
    table = {"data": {"n_train": 60}, "network": {"kind": "mlp", "width": 3, "layers": 1}}
    table["training"] = {"batch_size": 60}
    config = check(table, "here")
    workbench = open_workbench(
        config, RunOptions(), tmp_path / "s", torch.device("cpu"), "fp32", {}
    )
    pack = Pack(workbench, 0, [Knobs(lr=1e-2)], None)
    for epoch in range(30):
        pack.train(epoch, tested=False)
    [state] = pack.states()
    exactly = HessianSettings(num_images=60, num_eigenvalues=3, tolerance=1e-6, num_probes=2000)
    found = measure(workbench, [state], 0, hessian=exactly, dtype=torch.float64)
    model = workbench.new_model(0).double()
    model.load_state_dict(state)
    [(images, labels)] = list(workbench.unaugmented(0).epoch(0))
    [weight] = model.sphere_parameters()
    loss = CrossEntropy()(model(images.double()), labels)[0].sum()
    [gradient] = torch.autograd.grad(loss, [weight], create_graph=True)
    rows = [
        torch.autograd.grad(g, [weight], retain_graph=True)[0].flatten() for g in gradient.flatten()
    ]
    hessian = torch.stack(rows)
    [row] = found.sharpness.to_dict("records")
    assert row["num_weights"] == weight.numel() == len(hessian)
    assert row["norm"] == pytest.approx(workbench.config.network.radius, rel=1e-6)
    error = 4 * row["trace_error"] / row["norm"] ** 2 / len(hessian)
    trace = float(hessian.trace()) / len(hessian)
    assert row["trace_at_norm"] == pytest.approx(trace, abs=error) and error < 0.1 * trace
    largest = torch.linalg.eigvalsh(hessian).flip(0)[:3].numpy()
    np.testing.assert_allclose(found.eigenvalues["value_at_norm"], largest, rtol=1e-2)


def columns_of(table: str) -> dict[str, str]:
    return {name: kind for name, kind in TABLES[table].items() if name != "stage"}


def ranked(found: Measured, model: int, column: str) -> np.ndarray:
    """A column of a model's eigenvalues."""
    rows = found.eigenvalues
    return rows.loc[rows["model"] == model, column].to_numpy()


def test_columns_are_those_of_the_table_whatever_is_asked_for(workbench, states):
    without = measure(workbench, states, 0, hessian=None)
    with_hessian = measure(workbench, states, 0, hessian=HESSIAN)
    for found in (without, with_hessian):
        kinds = [
            {name: str(kind) for name, kind in table.dtypes.items()}
            for table in (found.sharpness, found.eigenvalues)
        ]
        assert kinds == [columns_of("sharpness"), {"model": "int64"} | columns_of("eigenvalues")]
    assert without.sharpness[["trace", "trace_error"]].isna().all(axis=None)
    assert without.eigenvalues.empty
    assert with_hessian.sharpness.notna().all(axis=None)
    assert with_hessian.eigenvalues.notna().all(axis=None)
    for model in (0, 1):
        assert ranked(with_hessian, model, "rank").tolist() == [1, 2, 3]
        assert (np.diff(ranked(with_hessian, model, "value")) < 0).all()
    # Whole batches of 64, of 150 images.
    assert with_hessian.sharpness.num_images.tolist() == [128, 128]
    assert without.sharpness.num_images.tolist() == [0, 0]
    everything = HessianSettings(num_images=10**6, max_iterations=1)
    found = measure(workbench, states, 0, hessian=everything)
    assert found.sharpness.num_images.tolist() == [150, 150]


def test_a_model_is_measured_the_same_alone_and_beside_others(workbench, states):
    broken = {n: v * torch.nan if v.is_floating_point() else v for n, v in states[0].items()}
    together = measure(workbench, [*states, broken], 0, hessian=HESSIAN, dtype=torch.float64)
    for place in (0, 1):
        alone = measure(workbench, [states[place]], 0, hessian=HESSIAN, dtype=torch.float64)
        for column in together.sharpness.columns:
            expected = pytest.approx(alone.sharpness[column][0], rel=1e-9)
            assert together.sharpness[column][place] == expected, column
        # The residual is a difference of large numbers.
        for column, rel in (("value", 1e-9), ("residual", 1e-4)):
            found, expected = ranked(together, place, column), ranked(alone, 0, column)
            np.testing.assert_allclose(found, expected, rtol=rel)
    numbers = together.sharpness.loc[2].drop(["train_accuracy", "num_images", "num_weights"])
    assert numbers.isna().all()
    assert np.isnan(ranked(together, 2, "value")).all()


def test_every_image_of_the_hessian_counts_the_same(workbench, states):
    model = workbench.new_model(0, 2)
    model.load_state_dict(fold(states))
    batches = list(workbench.train_loader(0).epoch(0))
    numbers = [len(labels) for _, labels in batches]
    assert len(set(numbers)) > 1
    # The trace of given probes is linear in the loss.
    parts = [curvature(model, CrossEntropy(), [batch], 0, HESSIAN)[0]["trace"] for batch in batches]
    whole, _ = curvature(model, CrossEntropy(), batches, 0, HESSIAN)
    assert whole["num_images"] == sum(numbers)
    np.testing.assert_allclose(
        whole["trace"], np.average(parts, axis=0, weights=numbers), rtol=1e-4
    )


def test_single_precision_is_enough(workbench, states):
    single, double = (
        measure(workbench, states, 0, hessian=HESSIAN, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    columns = ["grad_norm", "effective_grad_norm", "trace"]
    np.testing.assert_allclose(single.sharpness[columns], double.sharpness[columns], rtol=1e-3)
    values = [found.eigenvalues["value"] for found in (single, double)]
    np.testing.assert_allclose(*values, rtol=1e-3)


def test_what_is_effective_does_not_depend_on_the_radius(workbench, states):
    found = measure(
        workbench,
        [states[0], scaled(states[0], workbench, 4.0)],
        0,
        hessian=HESSIAN,
        dtype=torch.float64,
    )
    table = found.sharpness
    # To the epsilon of batch normalisation.
    for column in ("effective_grad_norm", "trace"):
        assert table[column][1] == pytest.approx(table[column][0], rel=0.02)
    assert table.grad_norm[1] == pytest.approx(table.grad_norm[0] / 4, rel=0.02)
    np.testing.assert_allclose(ranked(found, 1, "value"), ranked(found, 0, "value"), rtol=0.02)


def test_states_and_the_lab_are_left_as_they_are(workbench, states):
    before = [{name: value.clone() for name, value in state.items()} for state in states]
    workbench.compiled = True
    measure(workbench, states, 0, hessian=HESSIAN)
    measure(workbench, states[:1], 0, hessian=HESSIAN)
    assert workbench.compiled
    for state, copy in zip(states, before, strict=True):
        for name, value in copy.items():
            assert torch.equal(state[name], value)


def test_augmentation_of_the_set_up_is_left_out(workbench, states, tiny, tmp_path):
    text = tiny.read_text().replace("n_test = 50", "n_test = 50\nflip = true\ncrop_padding = 2")
    tiny.write_text(text)
    config = load_config(str(tiny))
    augmented = open_workbench(
        config, RunOptions(), tmp_path / "b", torch.device("cpu"), "fp32", {}
    )
    expected = measure(workbench, states, 0, hessian=None).sharpness
    assert measure(augmented, states, 0, hessian=None).sharpness.equals(expected)
    assert not measure(workbench, states, 1, hessian=None).sharpness.equals(expected)


def test_records_of_before_lack_the_scale_at_the_norm_of_the_weights():
    row = {"stage": ["a"], "rank": [1], "value": [2.0], "residual": [0.0]}
    table = _joined("eigenvalues", [pyarrow.table(row)])
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TABLES["eigenvalues"]
    assert table["value"].tolist() == [2.0] and table["value_at_norm"].isna().all()
