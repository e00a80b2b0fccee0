"""The figures draw the numbers of the tables: means, deviations, marks of what is lost."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from synthetic_grids import NORM, NUM_WEIGHTS, PLRS, published_grid

from fasttrain.analysis.regimes import classify
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures import Drawn, drawn

from .drawings import mark, of

NAN = float("nan")


@pytest.fixture(scope="module")
def results() -> SetupResults:
    return published_grid()


@pytest.fixture(scope="module")
def items(results) -> dict[str, Drawn]:
    return {item.drawing.name: item for item in drawn(results, classify(results))}


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


def test_points_are_means_and_bars_are_sample_standard_deviations(results):
    item = of(results, "accuracy")
    finetuned = _lines(item.figure, 0)
    assert list(finetuned) == ["pre-trained", "FLR 1e-05", "FLR 0.0003"]
    assert list(_lines(item.figure, 1)) == ["pre-trained", "k = 5"]
    points, bars = finetuned["FLR 0.0003"]
    rows = results.stages[(results.stages["kind"] == "finetune") & (results.stages["flr"] == 3e-4)]
    for plr, point, bar in zip(PLRS, points, bars, strict=True):
        values = 100 * rows.loc[rows["plr"] == plr, "test_accuracy"].to_numpy()
        spread = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
        np.testing.assert_allclose(point, (plr, values.mean()))
        np.testing.assert_allclose(bar, (values.mean() - spread, values.mean() + spread))
    chance = [line for line in item.figure.axes[0].lines if list(line.get_ydata()) == [10, 10]]
    assert len(chance) == 1
    assert "n = 3 seeds" in item.caption


def test_one_seed_has_no_error_bar():
    item = of(published_grid(seeds=(7,), analysed=False), "accuracy")
    assert all(np.isnan(bars).all() for _, bars in _lines(item.figure, 0).values())
    assert "n = 1 seed: no error bars" in item.caption


def test_points_at_chance_are_hollow_and_lost_ones_crossed(results):
    changed = mark(results, 0.1, kind="pretrain", plr=1e-2, seed=1)
    changed = mark(changed, kind="finetune", plr=1e-3, flr=1e-5)
    figure = of(changed, "accuracy").figure
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    hollow = [line for line in lines if same_color(line.get_markerfacecolor(), "white")]
    crosses = [line for line in lines if line.get_marker() == "x"]
    # Pre-training at the largest two is at chance in the grid itself.
    assert [list(line.get_xdata()) for line in hollow] == [[1e-2, 3e-2, 1e-1]]
    assert [list(line.get_xdata()) for line in crosses] == [[1e-3]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    marked = "a seed at chance or without a finite loss"
    assert labels == ["chance level", marked, "no finite accuracy"]


def test_training_curves_are_means_over_seeds(results):
    table = of(results, "curves").table
    rows = results.epochs[(results.epochs["kind"] == "pretrain") & (results.epochs["plr"] == 1e-2)]
    line = table[(table["plr"] == 1e-2) & (table["quantity"] == "train_loss")]
    np.testing.assert_allclose(line["mean"], rows.groupby("epoch")["train_loss"].mean())
    accuracy = table[(table["plr"] == 1e-2) & (table["quantity"] == "test_accuracy")]
    # Epochs without a test pass have no point.
    assert accuracy["epoch"].tolist() == list(range(2, 41, 2))


def test_regimes_have_a_point_per_seed(results):
    figure = of(results, "regimes").figure
    for ax in figure.axes[:4]:
        assert sum(len(line.get_xdata()) for line in ax.lines if line.get_ls() == "None") == 27
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "log", "linear"]
    lost = of(
        dataclasses.replace(results, stages=results.stages.assign(train_accuracy=NAN)), "regimes"
    )
    crosses = [line for line in lost.figure.axes[3].lines if line.get_marker() == "x"]
    assert len(crosses) == 1 and len(crosses[0].get_xdata()) == 27


def test_phase_ends_are_last_epochs_of_all_seeds(results):
    table = of(results, "phase").table
    ends = table[table["is_end"]]
    assert len(ends) == 27 and (ends["epoch"] == 40).all()
    last = results.epochs[(results.epochs["kind"] == "pretrain") & (results.epochs["epoch"] == 40)]
    assert sorted(ends["grad_norm"]) == sorted(last["grad_norm"])
    assert set(table.loc[~table["is_end"], "seed"]) == {0}
    assert set(table["measured"]) == {"running means"}


def test_phase_is_of_passes_where_there_are_any_and_says_what_has_none(results):
    epochs = results.epochs
    has = (epochs["epoch"] % 4 == 0) & (epochs["plr"] != 1e-3)
    values = {"pass_loss": 2 * epochs["train_loss"], "pass_grad_norm": 3 * epochs["grad_norm"]}
    epochs = epochs.assign(**{name: value.where(has) for name, value in values.items()})
    item = of(dataclasses.replace(results, epochs=epochs), "phase")
    assert set(item.table["epoch"]) == set(range(4, 41, 4)) and 1e-3 not in set(item.table["plr"])
    ends, last = item.table[item.table["is_end"]], epochs[has & (epochs["epoch"] == 40)]
    last = last[last["kind"] == "pretrain"]
    assert sorted(ends["train_loss"]) == sorted(2 * last["train_loss"])
    assert sorted(ends["grad_norm"]) == sorted(3 * last["grad_norm"])
    assert "fixed weights" in item.caption and "left out: 3" in item.caption
    assert "running means" not in item.caption


def test_convergence_marks_the_runs_that_do_not(results):
    item = of(results, "convergence")
    reached = item.table["converged_epoch"].notna()
    rows = results.epochs[
        (results.epochs["kind"] == "pretrain") & (results.epochs["train_loss"] < 1e-2)
    ]
    first = rows.groupby("stage")["epoch"].min()
    expected = item.table.loc[reached, "stage"].map(first)
    np.testing.assert_array_equal(item.table.loc[reached, "converged_epoch"], expected)
    arrows = [text for text in item.figure.axes[0].texts if hasattr(text, "arrow_patch")]
    assert sorted(arrow.xy[0] for arrow in arrows) == sorted(set(item.table.loc[~reached, "plr"]))
    assert {arrow.xy[1] for arrow in arrows} == {40}
    assert f"{(~reached).sum()} did not converge" in item.caption


def test_starts_are_one_rate_of_each_regime(results):
    with_flr = published_grid((*PLRS[:2], 3e-4 - 1e-9, *PLRS[3:]), (1e-5, 1e-4))
    table = of(with_flr, "starts").table
    assert table["start"].tolist() == ["none", "3", "2B", "2A", "1"] * 2
    assert table["plr"].tolist()[1:5] == [3e-2, 3e-3, 5e-4, 1e-4]
    cells = with_flr.stages[(with_flr.stages["flr"] == 1e-5) & (with_flr.stages["plr"] == 3e-3)]
    np.testing.assert_allclose(table["mean"].iloc[2], cells["test_accuracy"].mean())
    assert table["epochs"].tolist() == [40, 80, 80, 80, 80] * 2
    figure = of(with_flr, "starts").figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["none: trained at the FLR, 40 epochs", "3: PLR 0.03, 80 epochs"]
    # The key stays within the figure.
    figure.canvas.draw()
    box, width = figure.legends[0].get_window_extent(), figure.bbox.width
    assert box.x0 >= 0 and box.x1 <= width
    # FLR 3e-4 is no PLR here: nothing was trained at it from the initialisation.
    apart = of(results, "starts").table
    assert apart.loc[apart["flr"] == 3e-4, "start"].tolist() == ["3", "2B", "2A", "1"]


def test_starts_that_are_not_yet_tuned_at_the_ends_are_left_out():
    results = published_grid((1e-4, 2e-4, 1e-1), (1e-5, 1e-4, 3e-4), seeds=(0,))
    tuned = results.stages["kind"] == "finetune"
    for waiting, starts in (({1e-4}, ["3", "1"]), ({1e-4, 2e-4}, ["3"])):
        gone = tuned & results.stages["plr"].isin(waiting) & (results.stages["flr"] != 1e-4)
        partly = dataclasses.replace(results, stages=results.stages[~gone])
        table = of(partly, "starts").table
        assert table.loc[table["flr"] == 3e-4, "start"].tolist() == starts
        assert 1e-4 not in set(table.loc[table["start"] == "1", "plr"])
    nothing = tuned & (results.stages["plr"] < 1e-1) & (results.stages["flr"] != 1e-4)
    unknown = (results.stages["kind"] == "pretrain") & (results.stages["plr"] == 1e-1)
    partly = dataclasses.replace(results, stages=results.stages[~nothing & ~unknown])
    assert "agree on a regime" in of(partly, "starts").missing


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


def test_eigenvalues_have_the_published_scale_where_all_weights_have_one_norm(results):
    item = of(results, "eigenvalues")
    mean = item.table[item.table["rank"] == 0]
    trace = results.sharpness.merge(results.stages[["stage", "plr", "kind"]], on="stage")
    trace = trace[trace["kind"] == "pretrain"].groupby("plr")["trace"].mean() / NUM_WEIGHTS
    own = mean[mean["series"] == "pre-trained"].set_index("plr")["mean"]
    np.testing.assert_allclose(own.loc[trace.index], trace)
    for ax in item.figure.axes:
        [right] = ax.child_axes
        low, high = ax.get_ylim()
        item.figure.draw_without_rendering()
        np.testing.assert_allclose(right.get_ylim(), [low / NORM**2, high / NORM**2])
        assert right.get_ylabel() == "at norm 28"
    averages = results.stages.loc[results.stages["kind"] == "swa", "stage"]
    shrunk = results.eigenvalues["stage"].isin(averages) & (results.eigenvalues["rank"] == 2)
    values = results.eigenvalues["value_at_norm"].where(~shrunk, lambda v: 2 * v)
    uneven = results.eigenvalues.assign(value_at_norm=values)
    figure = of(dataclasses.replace(results, eigenvalues=uneven), "eigenvalues").figure
    titles = {ax.get_title(): len(ax.child_axes) for ax in figure.axes}
    assert titles == {"pre-trained": 1, "FLR 1e-05": 1, "FLR 0.0003": 1, "k = 5": 0}


def test_eigenvalues_without_a_norm_are_drawn_alone(results):
    tables = {"sharpness": results.sharpness.assign(num_weights=NAN)}
    tables["eigenvalues"] = results.eigenvalues.assign(value_at_norm=NAN)
    item = of(dataclasses.replace(results, **tables), "eigenvalues")
    assert set(item.table["rank"]) == set(range(1, 6))
    assert not any(ax.child_axes for ax in item.figure.axes)


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
