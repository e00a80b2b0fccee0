"""The regimes at a glance: the end of every pre-training against its learning rate, and its curve.

Loss, effective gradient norm, angle of a step and accuracy tell convergence, chaotic equilibrium
and divergence apart (arXiv 2209.03695, section 4; arXiv 2410.22113, section 3).
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasttrain.analysis.regimes import not_judged
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.labels import beside_boundaries, label_lines
from fasttrain.report.figures.rows import (
    by,
    described,
    needed,
    note_of_count,
    over_seeds,
    thinned,
    with_regime,
)
from fasttrain.report.figures.style import (
    PLR_LABEL,
    REGIMES,
    frame,
    handle,
    legend_below,
    panels,
    plr_axes,
    plr_bar,
    plr_colours,
    regime_handles,
)
from fasttrain.report.seed_means import floats

NO_STAGE = "No pre-training has finished yet"
_ENDS = (
    ("train_loss", "training loss", 1, "log"),
    ("grad_norm", "effective gradient norm", 1, "log"),
    ("step_angle", "angle of a step (rad)", 1, "log"),
    ("train_accuracy", "training accuracy (%)", 100, "linear"),
)
_CURVES = (
    ("train_loss", "training loss", 1, "log"),
    ("grad_norm", "effective gradient norm", 1, "log"),
    ("test_accuracy", "test accuracy (%)", 100, "linear"),
    ("distance", "angle from the start (rad)", 1, "linear"),
)


def _ends(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """One row per pre-training: stage, plr, seed, regime, reason, and the quantities."""
    needed(regimes, NO_STAGE, "run fasttrain sweep")
    rows = described(results, regimes, ["train_accuracy"])
    names = [name for name, *_ in _ENDS]
    if not_judged(results.configuration):
        # There is no angle without a sphere.
        names.remove("step_angle")
    return rows[["stage", "plr", "seed", "regime", "reason", *names]].sort_values(
        ["plr", "seed"], ignore_index=True
    )


def _draw_ends(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(2, 2, sharex=True)
    plr_axes(axes, table["plr"], shades)
    lost = False
    known = [quantity for quantity in _ENDS if quantity[0] in table]
    for ax in axes[len(known) :]:
        ax.set_visible(False)
    for ax, (name, label, scale, kind) in zip(axes, known, strict=False):
        values = scale * floats(table[name])
        lost |= _points(ax, table, np.where(values > 0, values, np.nan), kind)
        ax.set_ylabel(label)
    for ax in axes[len(known) - 2 : len(known)]:
        ax.set_xlabel(PLR_LABEL)
        ax.tick_params(labelbottom=True)
    handles = regime_handles(table["regime"])
    if lost:
        handles.append(handle("not finite", "0.3", "x"))
    legend_below(figure, handles, columns=3)
    return figure


def _points(ax: Axes, table: pd.DataFrame, values: np.ndarray, kind: str) -> bool:
    """One point per seed, and a line through their medians; whether a value is not finite."""
    plr, regime = table["plr"].to_numpy(), table["regime"].to_numpy()
    ax.set_yscale(kind)
    medians = pd.Series(values).groupby(plr).median().dropna()
    ax.plot(medians.index, medians, color="0.6", lw=0.9, zorder=2)
    for name, (colour, mark, _, _) in REGIMES.items():
        chosen = regime == name
        ax.plot(plr[chosen], values[chosen], mark, color=colour, ms=5.5, mec="white", mew=0.5)
    lost = ~np.isfinite(values)
    if lost.any():
        across = ax.get_xaxis_transform()
        ax.plot(plr[lost], np.full(lost.sum(), 0.96), "x", color="0.3", ms=5, transform=across)
    return bool(lost.any())


def _curves(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: quantity, plr, epoch, mean, std, n, and the regime of the PLR."""
    needed(regimes, NO_STAGE, "run fasttrain sweep")
    rows = results.epochs[results.epochs["stage"].isin(regimes["stage"])]
    rows = needed(rows, "No epoch of pre-training is known", "run fasttrain sweep")
    names = [name for name, *_ in _CURVES]
    means = over_seeds(rows.reindex(columns=["plr", "epoch", *names]), ["plr", "epoch"], names)
    means = means[means["n"] > 0]
    return with_regime(thinned(means, ["quantity", "plr"]), regimes)


def _draw_curves(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(2, 2)
    plrs = sorted(table["plr"].unique())
    colours, labelled = plr_colours(plrs), beside_boundaries(table)
    for ax, (name, label, scale, kind) in zip(axes, _CURVES, strict=True):
        ax.set(ylabel=label, yscale=kind)
        frame(ax)
        rows = table[table["quantity"] == name]
        if rows.empty:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="0.4")
        ends = {}
        for plr, line in by(rows, "plr"):
            line = line[line["mean"] > 0] if kind == "log" else line
            line = line[line["mean"].notna()]
            style = REGIMES[line["regime"].iloc[0]][2] if len(line) else "-"
            mark = "." if len(line) == 1 else ""
            colour = colours.to_rgba(plr)
            ax.plot(
                line["epoch"], scale * line["mean"], color=colour, lw=1.2, ls=style, marker=mark
            )
            if plr in labelled and len(line):
                ends[plr] = (line["epoch"].iloc[-1], scale * line["mean"].iloc[-1])
        label_lines(ax, ends)
    for ax in axes[2:]:
        ax.set_xlabel("epoch of pre-training")
    plr_bar(figure, axes, colours)
    legend_below(figure, regime_handles(table["regime"], lines=True), columns=3)
    return figure


def _note_of_ends(table: pd.DataFrame) -> str:
    undecided = int((table["regime"] == "undecided").sum())
    seeds = table["seed"].nunique()
    text = f"{len(table)} runs, {seeds} seed{'s' if seeds > 1 else ''}."
    return text + (f" Undecided: {undecided}; the reasons are in its CSV." if undecided else "")


OVERVIEW = Drawing(
    name="regimes",
    title="Regimes of pre-training",
    caption=(
        "The end of every pre-training, one point per seed, and the median over seeds (grey line): "
        "training loss, effective gradient norm, the angle by which a step turns the weights, and "
        "training accuracy against PLR. A cross on the upper edge stands for a value that is not "
        "finite or zero."
    ),
    published="TR, training metrics of the three regimes; WDL, accuracy of pre-training",
    expected=(
        "loss and gradient norm jump at the boundary 1|2, and beyond 2|3 a step turns the "
        "weights by about 90° and accuracy is that of a guess"
    ),
    table=_ends,
    draw=_draw_ends,
    note=_note_of_ends,
)
CURVES = Drawing(
    name="curves",
    title="Training curves",
    caption=(
        "Pre-training by epoch: training loss, effective gradient norm, test accuracy, and the "
        "angle between the weights and those at the start. Means over the seeds with a finite "
        "value, one line per PLR; the line's style is its regime. PLRs beside "
        "a boundary are labelled."
    ),
    published="TR, training curves of the three regimes",
    expected=(
        "regime 1 falls to zero loss, regime 2 becomes stationary at a loss that rises with "
        "the rate, regime 3 stays at that of a guess"
    ),
    table=_curves,
    draw=_draw_curves,
    note=note_of_count,
)
