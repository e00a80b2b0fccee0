"""Where the end points lie: angles, distances and barriers, and the lines between end points.

arXiv 2410.22113, section 4: from just above the convergence threshold, fine-tuning at any small
rate and averaging end in one linearly connected basin.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.labels import beside_boundaries, label_lines
from fasttrain.report.figures.rows import (
    analysed,
    by,
    described,
    ends_and_averages,
    note_of_count,
    note_of_seeds,
    over_seeds,
    thinned,
    with_regime,
)
from fasttrain.report.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    PLR_LABEL,
    REGIMES,
    curve,
    frame,
    handle,
    legend_below,
    panels,
    plr_axes,
    plr_bar,
    plr_colours,
    regime_handles,
    series_styles,
)
from fasttrain.report.seed_means import floats, number

PAIRS = {
    "low-high": (BLUE, "o", "-", "low – high FLR"),
    "swa-low": (GREEN, "s", "--", "average – low FLR"),
    "swa-high": (ORANGE, "^", "-.", "average – high FLR"),
}
_QUANTITIES = (
    ("angle", "angle between end points (rad)", 1),
    ("distance", "angle travelled by a stage (rad)", 1),
    ("train_barrier", "training accuracy barrier (%)", 100),
    ("test_barrier", "test accuracy barrier (%)", 100),
    ("train_loss_barrier", "training loss barrier", 1),
    ("test_loss_barrier", "test loss barrier", 1),
)
_PATHS = (
    ("train_accuracy", "training accuracy (%)", 100),
    ("test_accuracy", "test accuracy (%)", 100),
)


def _geometry(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: quantity, series, plr, mean, std, n; flr_low, flr_high.

    The series is a pair of end points, and of distances a kind of stage; the FLRs are those of the
    end points, NaN for one that there is not.
    """
    pairs = analysed(results.pairs, "angles and barriers", "geometry")
    rates = _rates(results, pairs)
    pairs = described(results, pairs.assign(stage=pairs["stage_a"], series=pairs["pair"]), ["plr"])
    names = [name for name, *_ in _QUANTITIES if name != "distance"]
    parts = [over_seeds(pairs, ["series", "plr"], names)]
    if "distance" in results.epochs:
        # Of all columns a large grid would be in memory twice.
        epochs = results.epochs[["stage", "epoch", "distance"]].sort_values("epoch")
        last = epochs.groupby("stage", observed=True)["distance"].last().reset_index()
        stages = described(results, last)
        chosen = stages["kind"] == "pretrain"
        chosen |= (stages["kind"] == "finetune") & stages["flr"].isin(list(rates.values()))
        stages = ends_and_averages(stages[chosen])
        parts.append(over_seeds(stages, ["place", "series", "plr"], ["distance"]))
    table = pd.concat(parts, ignore_index=True)
    columns = ["quantity", "series", "plr", "mean", "std", "n"]
    return table.loc[table["n"] > 0, columns].reset_index(drop=True).assign(**rates)


def _rates(results: SetupResults, pairs: pd.DataFrame) -> dict[str, float]:
    """The low and the high FLR of the pairs: `fasttrain analyse` takes one of each for a set-up."""
    flrs = dict(zip(results.stages["stage"], floats(results.stages["flr"]), strict=True))
    first, last = pairs["stage_a"].map(flrs), pairs["stage_b"].map(flrs)
    joined = pairs["pair"] == "low-high"
    low = pd.concat([first[joined], last[pairs["pair"] == "swa-low"]]).min()
    high = pd.concat([last[joined], last[pairs["pair"] == "swa-high"]]).max()
    return {"flr_low": float(low), "flr_high": float(high)}


def _rates_in_words(table: pd.DataFrame) -> str:
    rates = {name: float(table[f"flr_{name}"].iloc[0]) for name in ("low", "high")}
    return " ".join(f"The {name} FLR is {number(f)}." for name, f in rates.items() if f == f)


def _draw_geometry(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(3, 2, sharex=True)
    plr_axes(axes, table["plr"], shades)
    for ax, (name, label, scale) in zip(axes, _QUANTITIES, strict=True):
        rows = table[table["quantity"] == name]
        rows = rows.assign(mean=scale * rows["mean"], std=scale * rows["std"])
        ax.set_ylabel(label, fontsize=9)
        if name == "distance":
            styles = series_styles(rows["series"].unique())
            for series, line in by(rows, "series"):
                curve(ax, line, *styles[series], label=series)
            if len(rows):
                ax.legend(fontsize=7.5, framealpha=0.8, edgecolor="none")
        else:
            for place, (series, line) in enumerate(by(rows, "series")):
                # Points of equal height stay visible under each other.
                curve(ax, line, *PAIRS[series][:3], size=6.5 - 1.4 * place)
        if rows.empty:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="0.4")
        if "angle" in label and len(rows):
            ax.axhline(np.pi / 2, color="0.55", ls=":", lw=1)
        ax.set_ylim(bottom=0)
    for ax in axes[4:]:
        ax.set_xlabel(PLR_LABEL)
    found = [PAIRS[name] for name in PAIRS if name in set(table["series"])]
    handles = [handle(words, colour, mark, line) for colour, mark, line, words in found]
    legend_below(figure, [*handles, handle("orthogonal", "0.55", line=":")])
    return figure


def _lines(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds on the lines low-high: quantity, plr, alpha, mean, std, n, FLRs, regime."""
    paths = analysed(results.paths, "lines between end points", "geometry")
    paths = paths[paths["pair"] == "low-high"]
    paths = analysed(paths, "lines between two FLRs (it takes two FLRs)", "geometry")
    rates = _rates(results, paths)
    paths = described(results, paths.assign(stage=paths["stage_a"]), ["plr"])
    means = over_seeds(paths, ["plr", "alpha"], [name for name, *_ in _PATHS])
    means = thinned(means[means["n"] > 0], ["quantity", "plr"])
    return with_regime(means.assign(**rates), regimes)


def _draw_lines(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(1, 2)
    plrs = sorted(table["plr"].unique())
    colours, labelled = plr_colours(plrs), beside_boundaries(table)
    for ax, (name, label, scale) in zip(axes, _PATHS, strict=True):
        ends = {}
        frame(ax)
        ax.set(xlabel="low FLR  ←  place on the line  →  high FLR", ylabel=label)
        for plr, line in by(table[table["quantity"] == name], "plr"):
            dashes = REGIMES[line["regime"].iloc[0]][2]
            colour = colours.to_rgba(plr)
            ax.plot(line["alpha"], scale * line["mean"], color=colour, lw=1.2, ls=dashes)
            if plr in labelled:
                ends[plr] = (line["alpha"].iloc[-1], scale * line["mean"].iloc[-1])
        label_lines(ax, ends)
    plr_bar(figure, axes, colours)
    legend_below(figure, regime_handles(table["regime"], lines=True), 3)
    return figure


def _rates_and_seeds(table: pd.DataFrame) -> str:
    return f"{_rates_in_words(table)} {note_of_seeds(table)}"


def _rates_and_count(table: pd.DataFrame) -> str:
    return f"{_rates_in_words(table)} {note_of_count(table)}"


GEOMETRY = Drawing(
    name="geometry",
    title="Angles and barriers",
    caption=(
        "Against PLR: the angle between the end points of one pre-training (fine-tuned at a "
        "low and a high FLR, and averaged), the angle that pre-training and fine-tuning "
        "travelled from where they started, and the barriers on the straight line between the end "
        "points: how far accuracy drops below, and loss rises above, the line through their values."
    ),
    published="WDL, angles and linear connectivity between fine-tuned and averaged points",
    expected=(
        "in regime 2A small angles and no barrier between low FLR, high FLR and average; in "
        "2B and at small PLRs a barrier between low and high FLR"
    ),
    table=_geometry,
    draw=_draw_geometry,
    note=_rates_and_seeds,
)
LINES = Drawing(
    name="lines",
    title="Between low and high FLR",
    caption=(
        "Accuracy along the straight line between the points fine-tuned at a low and at a high "
        "FLR, every point rescaled to the sphere, where there is one, and its batch-norm "
        "statistics estimated anew; means over seeds, one line per PLR, its style the regime. "
        "PLRs beside a boundary are labelled."
    ),
    published="WDL, barriers (which are read off these lines)",
    expected=(
        "in regime 2A accuracy does not fall on the way; where it falls, the two ends lie in "
        "different basins"
    ),
    table=_lines,
    draw=_draw_lines,
    note=_rates_and_count,
)
