"""The figures draw the numbers of the tables: means, deviations, marks of what is lost."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from synthetic_grids import FLRS, PLRS, published_grid, regime_of

from fasttrain.analysis.regimes import classify
from fasttrain.analysis.tables import Grid
from fasttrain.report.figures import Drawn, drawn

NAN = float("nan")


def _of(grid: Grid, name: str) -> Drawn:
    return next(item for item in drawn(grid, classify(grid)) if item.drawing.name == name)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return published_grid()


@pytest.fixture(scope="module")
def items(grid) -> dict[str, Drawn]:
    return {item.drawing.name: item for item in drawn(grid, classify(grid))}


def _mark(grid: Grid, accuracy: float = NAN, **cell: float | str) -> Grid:
    """Cells without a finite loss, or with an accuracy at chance."""
    state = "non-finite" if np.isnan(accuracy) else "at-chance"
    stages = grid.stages.copy()
    chosen = np.logical_and.reduce([stages[key] == value for key, value in cell.items()])
    stages.loc[chosen, ["state", "test_accuracy"]] = [state, accuracy]
    return dataclasses.replace(grid, stages=stages)


def _lines(figure: Figure, panel: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> points (num_plr, 2) and the ends of bars (num_plr, 2) of one panel."""
    found, lines = {}, figure.axes[panel].lines
    for place, line in enumerate(lines):
        if not line.get_label().startswith("_") and len(line.get_xdata()):
            bars = lines[place + 1] if place + 1 < len(lines) else None
            if bars is not None and bars.get_label() == "_bars":
                ends = np.reshape(bars.get_ydata(), (-1, 3))[:, :2]
                found[line.get_label()] = line.get_xydata(), ends
    return found


def _mean(rows: pd.DataFrame, column: str) -> np.ndarray:
    return rows.groupby("plr")[column].mean().to_numpy()


def test_points_are_means_and_bars_are_sample_standard_deviations(grid):
    item = _of(grid, "accuracy")
    finetuned = _lines(item.figure, 0)
    assert list(finetuned) == ["pre-trained", "FLR 1e-05", "FLR 0.0003"]
    assert list(_lines(item.figure, 1)) == ["pre-trained", "k = 5"]
    points, bars = finetuned["FLR 0.0003"]
    rows = grid.stages[(grid.stages["kind"] == "finetune") & (grid.stages["flr"] == 3e-4)]
    for plr, point, bar in zip(PLRS, points, bars, strict=True):
        values = 100 * rows.loc[rows["plr"] == plr, "test_accuracy"].to_numpy()
        spread = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
        np.testing.assert_allclose(point, (plr, values.mean()))
        np.testing.assert_allclose(bar, (values.mean() - spread, values.mean() + spread))
    chance = [line for line in item.figure.axes[0].lines if list(line.get_ydata()) == [10, 10]]
    assert len(chance) == 1
    assert "n = 3 seeds" in item.caption


def test_one_seed_has_no_error_bar():
    item = _of(published_grid(seeds=(7,), analysed=False), "accuracy")
    assert all(np.isnan(bars).all() for _, bars in _lines(item.figure, 0).values())
    assert "n = 1 seed: no error bars" in item.caption


def test_points_at_chance_are_hollow_and_lost_ones_crossed(grid):
    changed = _mark(grid, 0.1, kind="pretrain", plr=1e-2, seed=1)
    changed = _mark(changed, kind="finetune", plr=1e-3, flr=1e-5)
    figure = _of(changed, "accuracy").figure
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    hollow = [line for line in lines if same_color(line.get_markerfacecolor(), "white")]
    crosses = [line for line in lines if line.get_marker() == "x"]
    # Pre-training at the largest two is at chance in the grid itself.
    assert [list(line.get_xdata()) for line in hollow] == [[1e-2, 3e-2, 1e-1]]
    assert [list(line.get_xdata()) for line in crosses] == [[1e-3]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    marked = "a seed at chance or without a finite loss"
    assert labels == ["chance level", marked, "no finite accuracy"]


def test_heatmap_holds_the_means_and_outlines_the_best(grid):
    changed = _mark(grid, 0.1, kind="finetune", plr=1e-1, flr=3e-4)
    changed = _mark(changed, kind="finetune", plr=1e-2, flr=3e-4, seed=0)
    changed = _mark(changed, kind="finetune", plr=1e-3, flr=1e-5)
    gone = (changed.stages["plr"] == 1e-5) & (changed.stages["flr"] == 3e-4)
    changed = dataclasses.replace(changed, stages=changed.stages[~gone])
    figure = _of(changed, "heatmap").figure
    cells = figure.axes[0].collections[0].get_array().reshape(len(FLRS), len(PLRS))
    rows = changed.stages[changed.stages["kind"] == "finetune"]
    expected = 100 * rows.pivot_table(index="flr", columns="plr", values="test_accuracy")
    kept = ~np.ma.getmaskarray(cells)
    assert [tuple(cell) for cell in np.argwhere(~kept)] == [(0, 4), (1, 0)]
    np.testing.assert_allclose(cells[kept], expected.to_numpy()[kept])
    patches = figure.axes[0].patches
    assert [patch.get_xy() for patch in patches if patch.get_hatch()] == [(4, 0), (6, 1), (8, 1)]
    place = np.unravel_index(np.nanargmax(np.where(kept, cells, np.nan)), cells.shape)
    assert patches[-1].get_xy() == (place[1], place[0])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:] == [
        "a seed at chance or without a finite loss",
        "no finite accuracy",
        "not finished",
    ]
    # The cell that is at chance shows its accuracy, and takes no colours from the others.
    assert "10.0\n± 0.0" in [text.get_text() for text in figure.axes[0].texts]
    above = np.sort(np.asarray(cells[kept]))[1:]
    assert figure.axes[0].collections[0].get_clim()[0] == above.min() > 10.1
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[: len(PLRS)] == [regime_of(plr) for plr in PLRS]
    first = rows[(rows["plr"] == PLRS[0]) & (rows["flr"] == FLRS[0])]["test_accuracy"]
    assert f"{expected.iloc[0, 0]:.1f}\n± {100 * first.std(ddof=1):.1f}" in texts


def test_heatmap_outlines_all_that_are_equally_good(grid):
    ties = [(1e-3, 1e-5), (1e-2, 3e-4)]
    for plr, flr in ties:
        grid = _mark(grid, 0.999, kind="finetune", plr=plr, flr=flr)
    grid.stages.loc[grid.stages["test_accuracy"] == 0.999, "state"] = "done"
    figure = _of(grid, "heatmap").figure
    outlined = [patch.get_xy() for patch in figure.axes[0].patches if patch.get_linewidth() == 2.5]
    assert outlined == [(PLRS.index(plr), FLRS.index(flr)) for plr, flr in ties]
    label, *_ = [text.get_text() for text in figure.legends[0].get_texts()]
    assert label == "best cells (on the test set)"


def test_heatmap_of_few_rates_has_room_for_its_labels():
    few = published_grid((1e-3, 1e-2), (1e-4, 1e-3), (), (0,), num_epochs=12, analysed=False)
    figure = _of(few, "heatmap").figure
    figure.draw_without_rendering()
    ax = figure.axes[0]
    for label in (ax.xaxis.label, ax.yaxis.label):
        box = label.get_window_extent()
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_wide_heatmap_has_no_numbers():
    wide = published_grid(tuple(np.geomspace(1e-5, 0.1, 20)), ks=(), seeds=(0,), analysed=False)
    ax = _of(wide, "heatmap").figure.axes[0]
    assert len(ax.texts) == 20 and len(ax.get_xticklabels()) == 20


def test_training_curves_are_means_over_seeds(grid):
    table = _of(grid, "curves").table
    rows = grid.epochs[(grid.epochs["kind"] == "pretrain") & (grid.epochs["plr"] == 1e-2)]
    line = table[(table["plr"] == 1e-2) & (table["quantity"] == "train_loss")]
    np.testing.assert_allclose(line["mean"], rows.groupby("epoch")["train_loss"].mean())
    accuracy = table[(table["plr"] == 1e-2) & (table["quantity"] == "test_accuracy")]
    # Epochs without a test pass have no point.
    assert accuracy["epoch"].tolist() == list(range(2, 41, 2))


def test_regimes_have_a_point_per_seed(grid):
    figure = _of(grid, "regimes").figure
    for ax in figure.axes[:4]:
        assert sum(len(line.get_xdata()) for line in ax.lines if line.get_ls() == "None") == 27
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "log", "linear"]
    lost = _of(dataclasses.replace(grid, stages=grid.stages.assign(train_accuracy=NAN)), "regimes")
    crosses = [line for line in lost.figure.axes[3].lines if line.get_marker() == "x"]
    assert len(crosses) == 1 and len(crosses[0].get_xdata()) == 27


def test_phase_ends_are_last_epochs_of_all_seeds(grid):
    table = _of(grid, "phase").table
    ends = table[table["is_end"]]
    assert len(ends) == 27 and (ends["epoch"] == 40).all()
    last = grid.epochs[(grid.epochs["kind"] == "pretrain") & (grid.epochs["epoch"] == 40)]
    assert sorted(ends["grad_norm"]) == sorted(last["grad_norm"])
    assert set(table.loc[~table["is_end"], "seed"]) == {0}


def test_convergence_marks_the_runs_that_do_not(grid):
    item = _of(grid, "convergence")
    reached = item.table["converged_epoch"].notna()
    rows = grid.epochs[(grid.epochs["kind"] == "pretrain") & (grid.epochs["train_loss"] < 1e-2)]
    first = rows.groupby("stage")["epoch"].min()
    expected = item.table.loc[reached, "stage"].map(first)
    np.testing.assert_array_equal(item.table.loc[reached, "converged_epoch"], expected)
    arrows = [text for text in item.figure.axes[0].texts if hasattr(text, "arrow_patch")]
    assert sorted(arrow.xy[0] for arrow in arrows) == sorted(set(item.table.loc[~reached, "plr"]))
    assert {arrow.xy[1] for arrow in arrows} == {40}
    assert f"{(~reached).sum()} did not converge" in item.caption


def test_starts_are_one_rate_of_each_regime(grid):
    with_flr = published_grid((*PLRS[:2], 3e-4 - 1e-9, *PLRS[3:]), (1e-5, 1e-4))
    table = _of(with_flr, "starts").table
    assert table["start"].tolist() == ["none", "3", "2B", "2A", "1"] * 2
    assert table["plr"].tolist()[1:5] == [3e-2, 3e-3, 5e-4, 1e-4]
    cells = with_flr.stages[(with_flr.stages["flr"] == 1e-5) & (with_flr.stages["plr"] == 3e-3)]
    np.testing.assert_allclose(table["mean"].iloc[2], cells["test_accuracy"].mean())
    assert table["epochs"].tolist() == [40, 80, 80, 80, 80] * 2
    figure = _of(with_flr, "starts").figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["none: trained at the FLR, 40 epochs", "3: PLR 0.03, 80 epochs"]
    # The key stays within the figure.
    figure.canvas.draw()
    box, width = figure.legends[0].get_window_extent(), figure.bbox.width
    assert box.x0 >= 0 and box.x1 <= width
    # FLR 3e-4 is no PLR here: nothing was trained at it from the initialisation.
    apart = _of(grid, "starts").table
    assert apart.loc[apart["flr"] == 3e-4, "start"].tolist() == ["3", "2B", "2A", "1"]


def test_starts_that_are_not_yet_tuned_at_the_ends_are_left_out():
    grid = published_grid((1e-4, 2e-4, 1e-1), (1e-5, 1e-4, 3e-4), seeds=(0,))
    tuned = grid.stages["kind"] == "finetune"
    for waiting, starts in (({1e-4}, ["3", "1"]), ({1e-4, 2e-4}, ["3"])):
        gone = tuned & grid.stages["plr"].isin(waiting) & (grid.stages["flr"] != 1e-4)
        partly = dataclasses.replace(grid, stages=grid.stages[~gone])
        table = _of(partly, "starts").table
        assert table.loc[table["flr"] == 3e-4, "start"].tolist() == starts
        assert 1e-4 not in set(table.loc[table["start"] == "1", "plr"])
    nothing = tuned & (grid.stages["plr"] < 1e-1) & (grid.stages["flr"] != 1e-4)
    unknown = (grid.stages["kind"] == "pretrain") & (grid.stages["plr"] == 1e-1)
    partly = dataclasses.replace(grid, stages=grid.stages[~nothing & ~unknown])
    assert "agree on a regime" in _of(partly, "starts").missing


def test_geometry_is_the_mean_of_the_pairs(grid):
    table = _of(grid, "geometry").table
    pairs = grid.pairs.merge(grid.stages[["stage", "plr"]], left_on="stage_a", right_on="stage")
    for name in ("angle", "train_barrier", "test_loss_barrier"):
        rows = table[(table["quantity"] == name) & (table["series"] == "swa-high")]
        np.testing.assert_allclose(rows["mean"], _mean(pairs[pairs["pair"] == "swa-high"], name))
    distance = table[(table["quantity"] == "distance") & (table["series"] == "pre-trained")]
    last = grid.epochs[(grid.epochs["kind"] == "pretrain") & (grid.epochs["epoch"] == 40)]
    np.testing.assert_allclose(distance["mean"], _mean(last, "distance"))


def test_what_was_analysed_at_other_rates_is_named_by_them():
    """The sweep has gone on to rates beyond those of the pairs."""
    shared = {"plrs": (1e-4, 1e-3), "seeds": (0,), "num_epochs": 12}
    grid = published_grid(flrs=(1e-6, 1e-5, 3e-4, 1e-3), **shared)
    tuned = grid.stages[grid.stages["flr"].isin([1e-5, 3e-4])]
    keys = ["plr", "flr"]
    pairs, paths = grid.pairs.copy(), grid.paths.copy()
    stages = grid.stages.set_index("stage")
    moved = tuned.set_index(keys)["stage"].to_dict()
    other = {1e-6: 1e-5, 1e-3: 3e-4}
    ids = {
        name: moved[row["plr"], other[row["flr"]]]
        for name, row in stages[stages["flr"].isin(other)].iterrows()
    }
    for table in (pairs, paths):
        table[["stage_a", "stage_b"]] = table[["stage_a", "stage_b"]].replace(ids)
    grid = dataclasses.replace(grid, pairs=pairs, paths=paths)
    for name in ("geometry", "lines"):
        item = _of(grid, name)
        assert "The low FLR is 1e-05. The high FLR is 0.0003." in item.caption
        assert "lowest" not in item.caption and "n = 1 seed" in item.caption
        assert (item.table["flr_low"] == 1e-5).all() and (item.table["flr_high"] == 3e-4).all()
    table = _of(grid, "geometry").table
    travelled = table.loc[table["quantity"] == "distance", "series"]
    assert list(dict.fromkeys(travelled)) == ["pre-trained", "FLR 1e-05", "FLR 0.0003"]


def test_lines_are_those_from_low_to_high(grid):
    table = _of(grid, "lines").table
    line = table[(table["plr"] == 1e-2) & (table["quantity"] == "train_accuracy")]
    assert len(line) == 21 and line["n"].eq(3).all()
    lowest = grid.pairs.merge(grid.stages[["stage", "plr"]], left_on="stage_a", right_on="stage")
    lowest = lowest[(lowest["plr"] == 1e-2) & (lowest["pair"] == "low-high")]["train_barrier"]
    np.testing.assert_allclose(1 - line["mean"].min(), lowest.mean())


def test_angles_are_ordered_by_plr(grid):
    table = _of(grid, "angles").table
    size = 4 * len(PLRS)
    assert len(table) == size * (size - 1) // 2 and (table["place_a"] < table["place_b"]).all()
    assert (table["plr_a"] <= table["plr_b"]).all() and set(table["seed"]) == {0}
    matrix = _of(grid, "angles").figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(matrix, matrix.T)
    stages = grid.stages[(grid.stages["seed"] == 0)].set_index(["plr", "kind"])["stage"]
    pair = {stages[(1e-5, "pretrain")], stages[(1e-1, "pretrain")]}
    row = grid.angles[grid.angles["stage_a"].isin(pair) & grid.angles["stage_b"].isin(pair)]
    np.testing.assert_allclose(matrix[0, size - 4], row["angle"])


def test_histograms_are_shares_of_the_largest_plr(grid):
    item = _of(grid, "norms")
    panels = ["initialisation", "after pre-training", "then FLR 1e-05", "then FLR 0.0003"]
    assert list(dict.fromkeys(item.table["panel"])) == panels
    np.testing.assert_allclose(item.table.groupby("panel")["share"].sum(), 1)
    assert set(item.table["plr"]) == {0.1} and "regime 3; 3 seeds together" in item.caption
    stages = grid.stages[(grid.stages["plr"] == 0.1) & (grid.stages["flr"] == 3e-4)]["stage"]
    counts = grid.histograms[grid.histograms["stage"].isin(stages)]
    counts = counts.groupby("log10_low")["count"].sum()
    last = item.table[item.table["panel"] == panels[-1]]
    np.testing.assert_allclose(last["share"], counts / counts.sum())


def test_heterogeneity_is_of_filters_at_the_end(grid):
    table = _of(grid, "heterogeneity").table
    rows = table[(table["view"] == "end") & (table["series"] == "FLR 1e-05")]
    spread = rows[rows["quantity"] == "spread"].set_index("plr")["mean"]
    assert spread[1e-1] == 1.0 and spread[1e-4] == 0.15
    share = rows[rows["quantity"] == "effective_share"].set_index("plr")["mean"]
    np.testing.assert_allclose(share[1e-1], 0.5)
    epochs = table[(table["view"] == "epoch") & (table["plr"] == 1e-1)]["epoch"]
    assert sorted(set(epochs)) == [0, 20, 40]


def test_sharpness_compares_at_equal_loss_only(grid):
    item = _of(grid, "sharpness")
    tuned = grid.stages[grid.stages["kind"] == "finetune"]
    fits = tuned["train_loss"] < 1e-2
    assert sorted(item.table["stage"]) == sorted(tuned.loc[fits, "stage"])
    assert f"{(~fits).sum()} are left out" in item.caption
    errors = item.table.set_index("stage")["test_error"]
    np.testing.assert_allclose(errors, 1 - tuned.set_index("stage")["test_accuracy"][errors.index])
    high = grid.sharpness.assign(train_loss=1.0)
    assert "below 0.01" in _of(dataclasses.replace(grid, sharpness=high), "sharpness").missing


def test_bands_are_means_per_series(grid):
    item = _of(grid, "bands")
    assert list(dict.fromkeys(item.table["series"])) == [
        "pre-trained", "FLR 1e-05", "FLR 0.0003", "k = 5",
    ]  # fmt: skip
    rows = item.table[(item.table["series"] == "FLR 1e-05") & (item.table["band"] == 0)]
    tuned = grid.stages[(grid.stages["flr"] == 1e-5)]
    np.testing.assert_allclose(rows["mean"], _mean(tuned, "test_accuracy"))


# Figure: of each panel the rows of the table that it shows, their columns on x and y, y's scale.
PANELS: dict[str, list[tuple[dict, str, str, float]]] = {
    "accuracy": [({"panel": kind}, "plr", "mean", 100) for kind in ("finetune", "swa")],
    "regimes": [({}, "plr", name, 1) for name in ("train_loss", "grad_norm", "step_angle")]
    + [({}, "plr", "train_accuracy", 100)],
    "curves": [
        ({"quantity": name}, "epoch", "mean", scale)
        for name, scale in zip(
            ("train_loss", "grad_norm", "test_accuracy", "distance"), (1, 1, 100, 1), strict=True
        )
    ],
    "phase": [({}, "train_loss", "grad_norm", 1)],
    "convergence": [({}, "plr", "converged_epoch", 1)],
    "geometry": [({"quantity": name}, "plr", "mean", 1) for name in ("angle", "distance")]
    + [({"quantity": f"{name}_barrier"}, "plr", "mean", 100) for name in ("train", "test")]
    + [({"quantity": f"{name}_loss_barrier"}, "plr", "mean", 1) for name in ("train", "test")],
    "lines": [({"quantity": f"{n}_accuracy"}, "alpha", "mean", 100) for n in ("train", "test")],
    "heterogeneity": [
        ({"view": view, "quantity": name}, x, "mean", scale)
        for view, x in (("epoch", "epoch"), ("end", "plr"))
        for name, scale in (("spread", 1), ("effective_share", 100))
    ],
    "sharpness": [({}, name, "test_error", 100) for name in ("effective_grad_norm", "eigenvalue")],
    "eigenvalues": [
        ({"series": name}, "plr", "mean", 1)
        for name in ("pre-trained", "FLR 1e-05", "FLR 0.0003", "k = 5")
    ],
    "bands": [
        ({"series": name}, "plr", "mean", 100)
        for name in ("pre-trained", "FLR 1e-05", "FLR 0.0003", "k = 5")
    ],
}


@pytest.mark.parametrize("name", PANELS)
def test_what_is_drawn_is_the_table(items, name):
    for place, (chosen, x, y, scale) in enumerate(PANELS[name]):
        rows = items[name].table
        for column, value in chosen.items():
            rows = rows[rows[column] == value]
        expected = np.stack([rows[x].to_numpy(float), scale * rows[y].to_numpy(float)], axis=1)
        expected = expected[np.isfinite(expected).all(axis=1)]
        ax = items[name].figure.axes[place]
        # Not the bars around the means.
        lines = [line.get_xydata() for line in ax.lines if line.get_label() != "_bars"]
        points = np.concatenate([*lines, *(dots.get_offsets() for dots in ax.collections)])
        assert len(expected) >= 2
        for point in expected:
            assert np.isclose(points, point, rtol=1e-9, atol=0).all(axis=1).any(), (place, point)


def test_bars_and_steps_are_those_of_the_table(items):
    starts = items["starts"]
    heights = [bar.get_height() for bar in starts.figure.axes[0].patches]
    # A bar without a value has no height, and a dash.
    drawn_heights = sorted(height for height in heights if height)
    np.testing.assert_allclose(drawn_heights, sorted(100 * starts.table["mean"]))
    norms = items["norms"]
    for ax, (_, rows) in zip(
        norms.figure.axes, norms.table.groupby("panel", sort=False), strict=True
    ):
        for steps in ax.patches:
            np.testing.assert_allclose(steps.get_data().values, 100 * rows["share"])
            np.testing.assert_allclose(steps.get_data().edges[:-1], rows["log10_low"])
