"""Figures of what was analysed draw the numbers of its tables."""

import dataclasses

import numpy as np
import pytest
from synthetic_grids import PLRS, published_grid

from fasttrain.analysis.tables import SetupResults

from .drawings import mean_of, of


@pytest.fixture(scope="module")
def results() -> SetupResults:
    return published_grid()


def test_geometry_is_the_mean_of_the_pairs(results):
    table = of(results, "geometry").table
    pairs = results.pairs.merge(
        results.stages[["stage", "plr"]], left_on="stage_a", right_on="stage"
    )
    for name in ("angle", "train_barrier", "test_loss_barrier"):
        rows = table[(table["quantity"] == name) & (table["series"] == "swa-high")]
        np.testing.assert_allclose(rows["mean"], mean_of(pairs[pairs["pair"] == "swa-high"], name))
    distance = table[(table["quantity"] == "distance") & (table["series"] == "pre-trained")]
    last = results.epochs[(results.epochs["kind"] == "pretrain") & (results.epochs["epoch"] == 40)]
    np.testing.assert_allclose(distance["mean"], mean_of(last, "distance"))


def test_what_was_analysed_at_other_rates_is_named_by_them():
    """The sweep has gone on to rates beyond those of the pairs."""
    shared = {"plrs": (1e-4, 1e-3), "seeds": (0,), "num_epochs": 12}
    results = published_grid(flrs=(1e-6, 1e-5, 3e-4, 1e-3), **shared)
    tuned = results.stages[results.stages["flr"].isin([1e-5, 3e-4])]
    keys = ["plr", "flr"]
    pairs, paths = results.pairs.copy(), results.paths.copy()
    stages = results.stages.set_index("stage")
    moved = tuned.set_index(keys)["stage"].to_dict()
    other = {1e-6: 1e-5, 1e-3: 3e-4}
    ids = {
        name: moved[row["plr"], other[row["flr"]]]
        for name, row in stages[stages["flr"].isin(other)].iterrows()
    }
    for table in (pairs, paths):
        table[["stage_a", "stage_b"]] = table[["stage_a", "stage_b"]].replace(ids)
    results = dataclasses.replace(results, pairs=pairs, paths=paths)
    for name in ("geometry", "lines"):
        item = of(results, name)
        assert "The low FLR is 1e-05. The high FLR is 0.0003." in item.caption
        assert "lowest" not in item.caption and "n = 1 seed" in item.caption
        assert (item.table["flr_low"] == 1e-5).all() and (item.table["flr_high"] == 3e-4).all()
    table = of(results, "geometry").table
    travelled = table.loc[table["quantity"] == "distance", "series"]
    assert list(dict.fromkeys(travelled)) == ["pre-trained", "FLR 1e-05", "FLR 0.0003"]


def test_lines_are_those_from_low_to_high(results):
    table = of(results, "lines").table
    line = table[(table["plr"] == 1e-2) & (table["quantity"] == "train_accuracy")]
    assert len(line) == 21 and line["n"].eq(3).all()
    lowest = results.pairs.merge(
        results.stages[["stage", "plr"]], left_on="stage_a", right_on="stage"
    )
    lowest = lowest[(lowest["plr"] == 1e-2) & (lowest["pair"] == "low-high")]["train_barrier"]
    np.testing.assert_allclose(1 - line["mean"].min(), lowest.mean())


def test_angles_are_ordered_by_plr(results):
    table = of(results, "angles").table
    size = 4 * len(PLRS)
    assert len(table) == size * (size - 1) // 2 and (table["place_a"] < table["place_b"]).all()
    assert (table["plr_a"] <= table["plr_b"]).all() and set(table["seed"]) == {0}
    matrix = of(results, "angles").figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(matrix, matrix.T)
    roots = results.stages[(results.stages["seed"] == 0) & (results.stages["kind"] == "pretrain")]
    stages = roots.set_index("plr")["stage"]
    pair = {stages[1e-5], stages[1e-1]}
    row = results.angles[
        results.angles["stage_a"].isin(pair) & results.angles["stage_b"].isin(pair)
    ]
    np.testing.assert_allclose(matrix[0, size - 4], row["angle"])


def test_histograms_are_shares_of_the_largest_plr(results):
    item = of(results, "norms")
    panels = ["initialisation", "after pre-training", "then FLR 1e-05", "then FLR 0.0003"]
    assert list(dict.fromkeys(item.table["panel"])) == panels
    np.testing.assert_allclose(item.table.groupby("panel")["share"].sum(), 1)
    assert set(item.table["plr"]) == {0.1} and "regime 3; 3 seeds together" in item.caption
    stages = results.stages[(results.stages["plr"] == 0.1) & (results.stages["flr"] == 3e-4)][
        "stage"
    ]
    counts = results.histograms[results.histograms["stage"].isin(stages)]
    counts = counts.groupby("log10_low")["count"].sum()
    last = item.table[item.table["panel"] == panels[-1]]
    np.testing.assert_allclose(last["share"], counts / counts.sum())


def test_heterogeneity_is_of_filters_at_the_end(results):
    table = of(results, "heterogeneity").table
    rows = table[(table["view"] == "end") & (table["series"] == "FLR 1e-05")]
    spread = rows[rows["quantity"] == "spread"].set_index("plr")["mean"]
    assert spread[1e-1] == 1.0 and spread[1e-4] == 0.15
    share = rows[rows["quantity"] == "effective_share"].set_index("plr")["mean"]
    np.testing.assert_allclose(share[1e-1], 0.5)
    epochs = table[(table["view"] == "epoch") & (table["plr"] == 1e-1)]["epoch"]
    assert sorted(set(epochs)) == [0, 20, 40]


def test_sharpness_compares_at_equal_loss_only(results):
    item = of(results, "sharpness")
    tuned = results.stages[results.stages["kind"] == "finetune"]
    fits = tuned["train_loss"] < 1e-2
    assert sorted(item.table["stage"]) == sorted(tuned.loc[fits, "stage"])
    assert f"{(~fits).sum()} are left out" in item.caption
    errors = item.table.set_index("stage")["test_error"]
    np.testing.assert_allclose(errors, 1 - tuned.set_index("stage")["test_accuracy"][errors.index])
    high = results.sharpness.assign(train_loss=1.0)
    assert "below 0.01" in of(dataclasses.replace(results, sharpness=high), "sharpness").missing


def test_bands_are_means_per_series(results):
    item = of(results, "bands")
    assert list(dict.fromkeys(item.table["series"])) == [
        "pre-trained", "FLR 1e-05", "FLR 0.0003", "k = 5",
    ]  # fmt: skip
    rows = item.table[(item.table["series"] == "FLR 1e-05") & (item.table["band"] == 0)]
    tuned = results.stages[(results.stages["flr"] == 1e-5)]
    np.testing.assert_allclose(rows["mean"], mean_of(tuned, "test_accuracy"))


# Figure: of each panel the rows of the table that it shows, their columns on x and y, y's scale.
