"""Chains of legs: what training at one rate after another does, by epoch and at the end.

arXiv 2410.22113 compares fine-tuning from pre-trainings in one and in two stages; arXiv 1907.04595
and 1908.01878 a large rate that is decayed with a small one.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import path_name, regimes_in_words, starting_regimes
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import by, needed, note_of_count, note_of_seeds, over_seeds
from fasttrain.report.figures.rows import thinned as with_fewer_points
from fasttrain.report.figures.style import frame, legend_below, panels, series_styles
from fasttrain.report.seed_means import number

MOST_LINES = 16
"""paths that one figure can tell apart"""
_QUANTITIES = (
    ("train_loss", "training loss", 1, "log"),
    ("train_accuracy", "training accuracy (%)", 100, "linear"),
    ("test_accuracy", "test accuracy (%)", 100, "linear"),
    ("grad_norm", "effective gradient norm", 1, "log"),
)


def leaves_of(results: SetupResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished legs, and those of them from which nothing starts.

    Of a leaf that was trained for several lengths the longest.

    Raises:
        Missing: there is none.
    """
    stages = needed(results.stages, "No stage has finished yet", "run fasttrain sweep")
    legs = stages[stages["k"].isna()]
    leaves = legs[~legs["stage"].isin(legs["parent"])]
    longest = leaves.groupby(["path", "seed"])["epochs"].transform("max")
    return legs, leaves[leaves["epochs"] == longest]


def _curves(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: quantity, path, epoch, mean, std, n; of whole paths, root to leaf."""
    legs, leaves = leaves_of(results)
    parents = dict(zip(legs["stage"], legs["parent"], strict=True))
    if leaves["path"].nunique() > MOST_LINES:
        raise Missing(
            f"{leaves['path'].nunique()} paths are more than a figure can tell apart"
            f" ({MOST_LINES}): load_epochs has their curves, by path."
        )
    names = [name for name, *_ in _QUANTITIES]
    starts = starting_regimes(results)
    ways = [
        {"stage": stage, "leaf": path}
        for leaf, path in zip(leaves["stage"], leaves["path"], strict=True)
        for stage in way_to(leaf, parents)
    ]
    rows = results.epochs.merge(pd.DataFrame(ways), on="stage").reindex(
        columns=["leaf", "epoch", *names]
    )
    means = over_seeds(rows, ["leaf", "epoch"], names).rename(columns={"leaf": "path"})
    means = means[means["n"] > 0].sort_values(["path", "quantity", "epoch"])
    means["regime"] = means["path"].map(_regimes(leaves, "path", starts))
    columns = ["quantity", "path", "epoch", "mean", "std", "n", "regime"]
    return with_fewer_points(means, ["path", "quantity"])[columns]


def _regimes(legs: pd.DataFrame, column: str, starts: Mapping[str, str]) -> dict[str, str]:
    """The regimes of the first legs of what a column names; empty text where none is judged."""
    return {
        str(name): regimes_in_words(starts[stage] for stage in rows["stage"]) if starts else ""
        for name, rows in legs.groupby(column, sort=False)
    }


def _with_regime(name: str, regime: str) -> str:
    """A label, and the regime of its first leg if that is judged."""
    return f"{name} [{regime}]" if regime else name


def way_to(leaf: str, parents: Mapping[str, str | None]) -> Iterator[str]:
    """The ids of a leg and of those before it."""
    stage: str | None = leaf
    while stage is not None:
        yield stage
        stage = parents.get(stage)


def _draw_curves(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(2, 2)
    styles = series_styles(list(table["path"].unique()))
    handles = {}
    for ax, (name, label, scale, kind) in zip(axes, _QUANTITIES, strict=True):
        ax.set(ylabel=label, yscale=kind)
        frame(ax)
        for path, line in by(table[table["quantity"] == name], "path"):
            colour, mark, dashes = styles[path]
            line = line[line["mean"] > 0] if kind == "log" else line
            every = max(1, len(line) // 8)
            style = {"color": colour, "ls": dashes, "lw": 1.2, "marker": mark, "ms": 3.5}
            (drawn,) = ax.plot(line["epoch"], scale * line["mean"], markevery=every, **style)
            drawn.set_label(_with_regime(path_name(str(path)), str(line["regime"].iloc[0])))
            handles[path] = drawn
    for ax in axes[2:]:
        ax.set_xlabel("epoch, all legs together")
    legend_below(figure, list(handles.values()), columns=3)
    return figure


def _ends(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by last rate and by what came before it: before, last, epoch, mean, ..."""
    _, legs = leaves_of(results)
    split = legs["path"].str.rpartition(">")
    rows = legs.assign(before=split[0].where(split[0] != "", "none"), last=split[2])
    # Points stand beside one another for rates that more than one way ends at.
    ways = rows.groupby("last")["before"].nunique()
    rows = rows[rows["last"].isin(ways[ways > 1].index)]
    if rows.empty:
        raise Missing("No rate is the last of two paths: there is nothing to compare it after.")
    means = over_seeds(rows, ["last", "before", "depth", "epoch"], ["test_accuracy"])
    starts = _regimes(rows[rows["before"] != "none"], "before", starting_regimes(results))
    means["regime"] = [starts.get(before, "") for before in means["before"]]
    columns = ["last", "before", "depth", "epoch", "mean", "std", "n", "regime"]
    means = means.assign(rate=means["last"].str.split().str[0].astype(float))
    return means.sort_values(["rate", "depth", "before"], ignore_index=True)[columns]


def _draw_ends(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, (ax,) = panels(1, 1)
    frame(ax)
    ax.grid(False, axis="x")
    ways = list(table.sort_values(["depth", "before"])["before"].unique())
    lasts = list(dict.fromkeys(table["last"]))
    styles = series_styles(ways)
    width = 0.8 / len(ways)
    handles = []
    for place, way in enumerate(ways):
        bars = table[table["before"] == way].set_index("last").reindex(lasts)
        x = np.arange(len(lasts)) + (place - (len(ways) - 1) / 2) * width
        mean, std = 100 * bars["mean"].to_numpy(), 100 * bars["std"].to_numpy()
        start = "no leg" if way == "none" else path_name(way)
        epochs = bars["epoch"].dropna()
        start = _with_regime(start, "".join(bars["regime"].dropna().unique()))
        label = f"after {start}, {'–'.join(dict.fromkeys(map(number, sorted(epochs))))} epochs"
        style = {"color": styles[way][0], "marker": styles[way][1], "ls": "none", "ms": 6}
        bars = {"capsize": 3, "elinewidth": 1, "label": label}
        handles.append(ax.errorbar(x, mean, yerr=np.nan_to_num(std), **style, **bars))
        for at, value in zip(x, mean, strict=True):
            if not np.isnan(value):
                beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
                ax.annotate(f"{value:.1f}", (at, value), fontsize=7, **beside)
    ax.set_xticks(np.arange(len(lasts)), [f"last rate {last}" for last in lasts], fontsize=8)
    ax.set(ylabel="test accuracy (%)", xlim=(-0.5, len(lasts) - 0.5))
    legend_below(figure, handles, columns=2)
    return figure


CHAIN_CURVES = Drawing(
    name="chains",
    title="Along the chains",
    caption=(
        "Training loss, training and test accuracy and effective gradient norm by epoch, along "
        "every path from the first leg to its last one. In brackets the regime of the first leg, "
        "where the rules hold for the setting. Means over seeds."
    ),
    published="LWM and YLD, a large rate that is decayed against a small one",
    expected=(
        "the decayed large rate ends above the small one, although it is worse before the decay"
    ),
    table=_curves,
    draw=_draw_curves,
    note=note_of_count,
)
CHAIN_ENDS = Drawing(
    name="chain-ends",
    title="What comes before the last rate",
    caption=(
        "Test accuracy at the end of training at the last rate, by the rates before it; the key "
        "has the epochs of all legs together, and in brackets the regime of the first leg, where "
        "the rules hold for the setting."
    ),
    published="WDL, two-stage test",
    expected="paths that pass through a rate of regime 2A end high, whatever came before",
    table=_ends,
    draw=_draw_ends,
    note=note_of_seeds,
)
