"""The phase diagram: training loss against effective gradient norm while a network trains.

arXiv 2209.03695: regime 1 runs along a line towards zero, regime 2 stops in a cloud, regime 3
leaves. There both are of passes over the training set at fixed weights; where a grid has none
(`training.pass_every`), they are the running means of the epochs.
"""

import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.labels import beside_boundaries, label_lines
from fasttrain.report.figures.regimes import NO_STAGE
from fasttrain.report.figures.rows import by, needed, thinned
from fasttrain.report.figures.style import (
    REGIMES,
    frame,
    legend_below,
    panels,
    plr_bar,
    plr_colours,
    regime_handles,
)
from fasttrain.report.seed_means import floats, number

PASS, RUNNING = "pass", "running means"


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """One row per point: plr, seed, epoch, train_loss, grad_norm, regime, is_end, measured.

    Whole runs of the first seed of each PLR, and the last epoch of every seed. `measured` says how:
    by a "pass" where any run has one, and then runs without are left out, or as "running means".
    """
    needed(regimes, NO_STAGE, "run fasttrain sweep")
    rows = _measured(results.epochs[results.epochs["stage"].isin(regimes["stage"])])
    rows = rows[(floats(rows["train_loss"]) > 0) & (floats(rows["grad_norm"]) > 0)]
    rows = needed(rows, "No epoch of pre-training has a finite loss", "take smaller PLRs")
    rows = rows.sort_values(["plr", "seed", "epoch"])
    columns = ["plr", "seed", "epoch", "train_loss", "grad_norm", "measured", "left_out"]
    first = rows[rows["seed"] == rows.groupby("plr")["seed"].transform("min")]
    points = thinned(first[["stage", *columns]], ["plr"], by_ratio=True).assign(is_end=False)
    ends = rows.groupby("stage", observed=True).tail(1)[["stage", *columns]].assign(is_end=True)
    table = pd.concat([points, ends], ignore_index=True)
    return table.merge(regimes[["stage", "regime"]], on="stage")[[*columns, "regime", "is_end"]]


def _measured(epochs: pd.DataFrame) -> pd.DataFrame:
    """The epochs with a pass, its values for those of the epoch; all if none has one."""
    passed = epochs["pass_loss"].notna() if "pass_loss" in epochs else epochs["epoch"] < 0
    if not passed.any():
        return epochs.assign(measured=RUNNING, left_out=0)
    rows = epochs[passed]
    left_out = epochs["stage"].nunique() - rows["stage"].nunique()
    values = {"train_loss": rows["pass_loss"], "grad_norm": rows["pass_grad_norm"]}
    return rows.assign(**values, measured=PASS, left_out=left_out)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, (ax,) = panels(1, 1)
    figure.set_size_inches(7.0, 5.0)
    frame(ax)
    ax.set(xscale="log", yscale="log", xlabel="training loss", ylabel="effective gradient norm")
    plrs = sorted(table["plr"].unique())
    colours = plr_colours(plrs)
    for plr, run in by(table[~table["is_end"]], "plr"):
        colour, regime = colours.to_rgba(plr), run["regime"].iloc[0]
        ax.plot(run["train_loss"], run["grad_norm"], color=colour, lw=1, ls=REGIMES[regime][2])
    for regime, ends in by(table[table["is_end"]], "regime"):
        style = {"c": colours.to_rgba(ends["plr"].to_numpy()), "marker": REGIMES[regime][1]}
        ends_at = ends["train_loss"], ends["grad_norm"]
        ax.scatter(*ends_at, s=45, edgecolors="black", linewidths=0.7, zorder=3, **style)
    runs = table[~table["is_end"]]
    starts = {plr: run.iloc[0][["train_loss", "grad_norm"]] for plr, run in by(runs, "plr")}
    label_lines(ax, {plr: tuple(starts[plr]) for plr in beside_boundaries(runs)}, inside=True)
    plr_bar(figure, [ax], colours)
    handles = regime_handles(table["regime"])
    for entry in handles:
        entry.set(color="white", markeredgecolor="black")
    legend_below(figure, handles, columns=3)
    return figure


def _note(table: pd.DataFrame) -> str:
    ends = int(table["is_end"].sum())
    text = f"{number(table['plr'].nunique())} PLRs, {ends} end points. "
    if table["measured"].iloc[0] == RUNNING:
        return text + "Both are running means over the epoch, of weights that move."
    text += "Both are of a pass over the training set in train mode at fixed weights, as published."
    left_out = int(table["left_out"].iloc[0])
    return text + (f" Runs without a pass, left out: {left_out}." if left_out else "")


PHASE = Drawing(
    name="phase",
    title="Phase diagram",
    caption=(
        "Training loss against effective gradient norm, epoch by epoch: the first seed of each "
        "PLR as a line, the last epoch of every seed as a point whose shape is the regime. PLRs "
        "beside a boundary are labelled at their first epoch."
    ),
    published="TR, phase diagram of training loss and effective gradient norm",
    expected=(
        "runs of regime 1 go down one common line, those of regime 2 stop in a cloud each, "
        "those of regime 3 leave upwards"
    ),
    table=_table,
    draw=_draw,
    note=_note,
)
