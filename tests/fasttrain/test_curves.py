"""Curves packed for the page: near enough to draw, first and last kept, within their bytes."""

import json
import string

import numpy as np
import pandas as pd
import pytest

from fasttrain.report.page.curves import MAX_BYTES, packed_curves

from .pages import NAN, make_grid

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


def _share(low: float, high: float, levels: str) -> list[float | None]:
    """Where the values lie between the lowest and the highest; None: nothing to draw."""
    pairs = [levels[at : at + 2] for at in range(0, len(levels), 2)]
    numbers = [64 * DIGITS.index(a) + DIGITS.index(b) for a, b in pairs]
    return [None if number == 4095 else number / 4094 for number in numbers]


def _losses(values: list[float]) -> pd.DataFrame:
    epochs = {"stage": "a", "epoch": np.arange(1, len(values) + 1), "train_loss": values}
    return pd.DataFrame(epochs | {"test_accuracy": 0.5, "grad_norm": 1.0})


def test_values_are_levels_of_the_scale_they_are_drawn_on():
    values = [2.0, 0.5, 1e-4, 0.0, np.inf, NAN, 0.03]
    (curve,) = packed_curves(_losses(values), ["a"])["curves"]
    low, high = curve[1:3]
    assert (low, high) == (1e-4, 2.0)
    expected = np.log(np.array([2.0, 0.5, 1e-4, 0.03]) / low) / np.log(high / low)
    found = _share(*curve[1:4])
    assert [place for place, share in enumerate(found) if share is None] == [3, 4, 5]
    shares = [share for share in found if share is not None]
    np.testing.assert_allclose(shares, expected, atol=0.5001 / 4094)


def test_accuracies_are_levels_of_the_logarithm_of_their_error():
    accuracy = np.array([0.1, 0.9, 0.99, 0.999, 1.0])
    epochs = _losses([1.0] * 5).assign(test_accuracy=accuracy)
    (curve,) = packed_curves(epochs, ["a"])["curves"]
    assert curve[4:6] == [10, 100]
    expected = np.log(90.05 / (100.05 - 100 * accuracy)) / np.log(90.05 / 0.05)
    np.testing.assert_allclose(_share(*curve[4:7]), expected, atol=0.5001 / 4094)


@pytest.mark.parametrize("values", [[0.3], [0.3] * 4, [0.3, 0.3000000001]])
def test_a_flat_curve_is_its_value(values):
    (curve,) = packed_curves(_losses(values), ["a"])["curves"]
    assert curve[1:3] == [0.3, 0.3] and _share(*curve[1:4]) == [0.0] * len(values)


def test_a_curve_without_a_finite_value_draws_nothing():
    (curve,) = packed_curves(_losses([NAN, np.inf]), ["a"])["curves"]
    assert curve[1:4] == [None, None, "////"]


def test_ends_and_tested_epochs_are_kept():
    grid = make_grid(plrs=(1e-3,), flrs=(1e-2,), seeds=(0,), num_epochs=1001)
    epochs = grid.epochs.copy()
    epochs.loc[epochs["epoch"] % 5 != 0, "test_accuracy"] = NAN
    stages = grid.stages["stage"].to_list()
    packed = packed_curves(epochs[epochs["stage"] != stages[2]], stages)
    assert packed["points"] == 60 and packed["curves"][2] is None
    for curve, (first, last) in zip(packed["curves"][:2], ((1, 1001), (1002, 2002)), strict=True):
        kept = packed["epochs"][curve[0]]
        assert (kept[0], kept[-1]) == (first, last) and len(kept) == 60
        assert all(epoch % 5 == 0 for epoch in kept[1:-1])
        rows = grid.epochs[grid.epochs["stage"] == stages[0 if first == 1 else 1]]
        loss = np.log(rows.set_index("epoch").loc[kept, "train_loss"])
        low, high = np.log(curve[1:3])
        shares = np.array(_share(*curve[1:4]), dtype=float)
        np.testing.assert_allclose(low + shares * (high - low), loss, atol=(high - low) / 4000)


def test_short_runs_are_whole():
    grid = make_grid(num_epochs=7)
    packed = packed_curves(grid.epochs, grid.stages["stage"].to_list())
    assert packed["points"] is None and {len(epochs) for epochs in packed["epochs"]} == {7}
    nothing = {"epochs": [], "curves": [None], "points": None}
    assert packed_curves(pd.DataFrame(), ["a"]) == nothing


@pytest.mark.parametrize("num_stages", [10, 2000])
def test_many_curves_have_fewer_points(num_stages):
    stages = [f"{place:04d}" for place in range(num_stages)]
    values = np.random.default_rng(0).uniform(0.1, 1, (200, 3))
    one = pd.DataFrame(values, columns=["train_loss", "test_accuracy", "grad_norm"])
    epochs = pd.concat([one.assign(stage=s, epoch=range(200)) for s in stages])
    packed = packed_curves(epochs, stages)
    assert len(json.dumps(packed["curves"], separators=(",", ":"))) < MAX_BYTES
    assert packed["points"] == (60 if num_stages == 10 else 26)
