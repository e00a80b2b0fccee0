"""Regimes: published boundaries come out of curves with published values, whatever their length."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from fasttrain.analysis.regimes import boundaries, classify, cut, shades
from fasttrain.analysis.rules import Curves, judge, split_equilibrium
from fasttrain.plan.config import load_config

from . import regime_curves as rc

SEEDS = range(10)


def curves(plr: float, curve: rc.Curve, **changes) -> Curves:
    known = {"steps_per_epoch": rc.STEPS, "num_classes": 10, "guess_loss": math.log(10)}
    return Curves(plr, *curve, **(known | changes))


def regime(plr: float, curve: rc.Curve, **changes) -> str:
    return judge(curves(plr, curve, **changes)).regime


def read(table: pd.DataFrame, boundary: str) -> tuple[float, float]:
    row = table.set_index("boundary").loc[boundary]
    return row["low"], row["high"]


@pytest.mark.parametrize("epochs", [1000, 200, 100])
def test_the_three_regimes_come_out_of_their_published_values(epochs):
    runs = {(p, s): c for s in SEEDS for p, c in rc.published(epochs, s).items()}
    table = classify(rc.grid_of(runs))
    expected = {p: "1" for p in rc.CONVERGING} | {p: "2" for p in rc.STATIONARY}
    expected |= {p: "3" for p in rc.DIVERGING}
    wrong = table[table["regime"] != table["plr"].map(expected)]
    assert wrong.empty, wrong[["plr", "seed", "regime", "reason"]]
    found = boundaries(table)
    assert read(found, "1|2") == (5e-4, 1e-3)
    assert read(found, "2|3") == (5e-3, 5e-2)
    assert found["num_seeds"].tolist() == [len(SEEDS), 0, len(SEEDS)]
    assert found["note"].tolist() == ["", "no end points tell 2A from 2B", ""]


@pytest.mark.parametrize("seed", SEEDS)
def test_half_of_a_decided_run_is_never_of_another_regime(seed):
    for plr, curve in rc.published(400, seed).items():
        whole = regime(plr, curve)
        for length in (200, 100, 50, 25, 12, 6, 3, 1):
            part = tuple(series[:length] for series in curve)
            assert regime(plr, part) in (whole, "undecided"), (plr, length)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("plr", "at", "epochs", "expected"),
    [
        (1e-4, 18, 200, {"1"}),
        (2e-4, 26, 200, {"1"}),
        (3e-4, 85, 200, {"1"}),
        # It would converge later: two hundred epochs cannot tell, and must not claim to.
        (3.5e-4, 336, 200, {"undecided"}),
        (3.5e-4, 511, 200, {"undecided"}),
        (3.5e-4, 511, 700, {"1"}),
        (3.9e-4, 2621, 3500, {"1"}),
    ],
)
def test_published_epochs_to_convergence(seed, plr, at, epochs, expected):
    curve = rc.delayed(at, epochs, np.random.default_rng(seed))
    assert regime(plr, curve) in expected
    if "1" in expected:
        (row,) = classify(rc.grid_of({(plr, 0): curve})).to_dict("records")
        assert row["converged_epoch"] == pytest.approx(at, rel=0.1)


def resnet(seed: int) -> tuple[dict, list[float]]:
    """The published PLRs of ResNet-18 on CIFAR-10, those of the figures."""
    rng = np.random.default_rng(seed)
    plrs = [p for p in load_config("cifar10-resnet18").grid.plr if 1e-5 <= p <= 1e-1]
    runs = {}
    for plr in plrs:
        if plr <= 3e-4:
            make, end = rc.converging, (7e-8 / plr, 7e-5 / plr)
        else:
            # 45 at 1e-3 and 22 at 5e-3, as read off the figure of three regimes.
            norm = 45 * (1e-3 / plr) ** 0.45
            make, end = (rc.stationary, (1.0, norm)) if plr < 2e-2 else (rc.diverging, (10.0, 1e4))
        runs[plr, 0] = make(end, 200, rng)
    return runs, plrs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["train_barrier", "angle", "angles"])
def test_the_published_boundaries_of_resnet_18(seed, what):
    runs, plrs = resnet(seed)
    grid = rc.grid_of(runs, rc.end_points(plrs))
    rng = np.random.default_rng(seed)
    one = [5e-5 <= plr <= 1.4e-3 for plr in plrs]
    values = {
        "train_barrier": np.where(one, rng.uniform(0, 1e-3, len(one)), rng.uniform(0.6, 0.85)),
        "angle": np.where(one, rng.uniform(0.02, 0.17, len(one)), rng.uniform(0.82, 1.53)),
    }
    table = pd.DataFrame({"stage_a": [f"{p:g}/1e-05" for p in plrs]})
    table = table.assign(stage_b=[f"{p:g}/0.0003" for p in plrs])
    if what == "angles":
        # Without pairs: the matrix of angles, whichever stage is named first.
        turned = table.rename(columns={"stage_a": "stage_b", "stage_b": "stage_a"})
        grid = dataclasses.replace(grid, angles=turned.assign(angle=values["angle"]))
    else:
        unknown = {"angle": math.nan, "train_barrier": math.nan, "pair": "low-high"}
        pairs = table.assign(**(unknown | {what: values[what]}))
        grid = dataclasses.replace(grid, pairs=pairs)
    regimes = classify(grid)
    found = boundaries(regimes)
    assert read(found, "1|2") == (3e-4, 5e-4)
    assert read(found, "2A|2B") == (1.4e-3, 2e-3)
    assert read(found, "2|3") == (1.4e-2, 2e-2)
    assert found["note"].tolist() == [""] * 3
    assert [regime for regime, *_ in shades(regimes)] == ["1", "2A", "2B", "3"]
    spans = [span[1:] for span in shades(regimes)]
    assert spans[0][0] == plrs[0] and spans[-1][1] == plrs[-1]
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]


def test_what_2a_or_2b_needs_is_said():
    runs, plrs = resnet(0)
    reasons = {}
    for ends in (None, rc.end_points(plrs)):
        table = classify(rc.grid_of(runs, ends)).set_index("plr")
        assert table.loc[1e-3, "regime"] == "2"
        reasons[ends is None] = table.loc[1e-3, "reason"]
    assert reasons[True].endswith("A or B needs fine-tunings at two FLRs")
    assert reasons[False].endswith("A or B needs the angle or barrier between low and high FLR")


def test_one_basin_is_2a_only_if_its_end_points_fit():
    assert split_equilibrium(0.15, 0.0005, 1.0).regime == "2A"
    assert split_equilibrium(0.15, 0.0005, 0.9).regime == "2"
    assert split_equilibrium(0.15, math.nan, math.nan).regime == "2"
    assert split_equilibrium(0.15, 0.7, 1.0).regime == "2B", "the barrier decides where it is known"
    assert split_equilibrium(0.82, math.nan, 0.9).regime == "2B"


def test_runs_that_show_little():
    rng = np.random.default_rng(0)
    flat = rc.stationary((1.0, 45), 50, rng)
    nothing = (np.empty(0),) * 3
    assert regime(1e-3, nothing) == "undecided"
    assert regime(1e-3, nothing, lost=True) == "3"
    lost = (np.array([2.0, math.nan]), np.full(2, 0.1), np.array([9.0, math.nan]))
    assert judge(curves(1e-3, lost)).reason == "the loss became non-finite in epoch 2"
    assert regime(1e-1, rc.diverging((10, 1e4), 10, rng), stopped=True) == "3"
    constant = tuple(np.full(50, value) for value in (1.0, 0.5, 45.0))
    assert regime(1e-3, constant) == "2"
    assert regime(1e-6, constant) == "undecided"
    assert "images is unknown" in judge(curves(1e-3, flat, steps_per_epoch=math.nan)).reason
    no_norms = (flat[0], flat[1], np.full(50, math.nan))
    assert judge(curves(1e-3, no_norms)) == ("undecided", "no gradient norm of it is known")
    few = (np.array([2.3, 1.8, 1.4, 1.1]), np.full(4, 0.3), np.full(4, 30.0))
    assert regime(1e-6, few) == "undecided"
    gaps = tuple(series.copy() for series in flat)
    gaps[2][::7] = math.nan
    assert regime(1e-3, gaps) == "2"


def test_an_isolated_misfit_is_named_and_moves_nothing():
    plrs = [10.0**-n for n in range(8, 0, -1)]
    names = ["1", "1", "2", "1", "1", "2", "3", "3"]
    table = pd.DataFrame({"plr": plrs, "regime": names, "seed": 0})
    found = boundaries(table).set_index("boundary")
    assert (found.loc["1|2", "low"], found.loc["1|2", "high"]) == (plrs[4], plrs[5])
    assert found.loc["1|2", "note"] == "out of order: PLR 1e-06 is 2"
    assert found.loc["1|2", "plr"] == pytest.approx(math.sqrt(plrs[4] * plrs[5]))
    assert found.loc["2|3", "note"] == ""


def test_brackets_are_over_seeds_and_say_what_lies_in_them():
    rows = [(1e-3, "1"), (2e-3, "undecided"), (3e-3, "2"), (1e-2, "3")]
    others = [(1e-3, "1"), (2e-3, "1"), (3e-3, "1"), (1e-2, "2")]
    table = pd.DataFrame(
        [(p, n, seed) for seed, runs in enumerate((rows, others)) for p, n in runs],
        columns=["plr", "regime", "seed"],
    )
    found = boundaries(table).set_index("boundary")
    assert (found.loc["1|2", "low"], found.loc["1|2", "high"]) == (1e-3, 1e-2)
    assert found.loc["1|2", "note"] == "cannot be told at PLR 0.002"
    assert found.loc["2|3", "num_seeds"] == 1
    assert found.loc["2|3", "note"] == "1 of 2 seeds do not show it"


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ("11", "no run above it: it is above PLR 0.002"),
        ("33", "no run below it: it is below PLR 0.001"),
        ("u3", "it is below PLR 0.002; cannot be told at PLR 0.001"),
        ("1u", "it is above PLR 0.001; cannot be told at PLR 0.002"),
        ("uu", "no run is decided"),
        ("", "no run is decided"),
    ],
)
def test_a_boundary_outside_of_the_grid_is_unknown_and_says_why(names, note):
    plrs = [1e-3, 2e-3][: len(names)]
    regimes = [{"u": "undecided"}.get(name, name) for name in names]
    table = pd.DataFrame({"plr": plrs, "regime": regimes, "seed": [0] * len(names)})
    row = boundaries(table).iloc[0]
    assert math.isnan(row["plr"]) and math.isnan(row["ratio"]) and row["note"] == note


def test_seeds_that_disagree_altogether_are_said_to():
    runs = [(1e-3, "1", 0), (1e-2, "1", 0), (1e-3, "2", 1), (1e-2, "2", 1)]
    row = boundaries(pd.DataFrame(runs, columns=["plr", "regime", "seed"])).iloc[0]
    assert row["note"] == "seeds disagree: above PLR 0.01 in some, below 0.001 in others"


def test_a_sub_regime_that_no_run_is_in_is_named():
    rows = [(1.0, "1"), (2.0, "2A"), (3.0, "3")]
    table = pd.DataFrame(rows, columns=["plr", "regime"]).assign(seed=0)
    row = boundaries(table).iloc[1]
    assert (row["low"], row["high"], row["note"]) == (2.0, 3.0, "no run is 2B")


def test_runs_that_cannot_tell_stand_between_or_beyond():
    runs = [(1.0, "undecided"), (2.0, "1"), (3.0, "undecided"), (4.0, "2"), (5.0, "undecided")]
    assert cut("1|2", runs).untold == (3.0,)
    assert cut("1|2", runs[2:]).untold == (3.0,)
    assert cut("1|2", runs[:3]).untold == (3.0,)
    assert cut("2|3", runs).untold == (5.0,)


def test_shades_leave_gaps_where_runs_are_undecided():
    rows = [(1.0, "1"), (2.0, "undecided"), (4.0, "2A"), (4.0, "2B"), (16.0, "2"), (64.0, "3")]
    table = pd.DataFrame(rows, columns=["plr", "regime"]).assign(seed=0)
    assert shades(table) == [("2", 4.0, 32.0), ("3", 32.0, 64.0)]
    table["regime"] = "undecided"
    assert shades(table) == []


def test_a_grid_without_pre_training_has_tables_of_the_same_columns():
    runs = {(1e-3, 0): rc.stationary((1.0, 30), 50, np.random.default_rng(0))}
    grid = rc.grid_of(runs)
    none = dataclasses.replace(grid, stages=grid.stages.iloc[:0], epochs=grid.epochs.iloc[:0])
    table = classify(none)
    assert table.empty and table.dtypes.equals(classify(grid).dtypes)
    assert boundaries(table)["note"].tolist()[0] == "no run is decided"
    assert shades(table) == []
