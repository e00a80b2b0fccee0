"""Transfer: what a linear classifier of another data set makes of a network's features.

A reconstruction of the transfer study of arXiv 1908.01878: what is learned at later, smaller rates
is said to carry less, so that a gain on the images trained on brings less of one on others.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import is_chain, path_name
from fasttrain.report.figures.chains import MOST_LINES, leaves_of, way_to
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import by, ends_and_averages, note_of_seeds, over_seeds
from fasttrain.report.figures.style import (
    PLR_LABEL,
    curve,
    frame,
    legend_below,
    panels,
    series_styles,
)

_QUANTITIES = ("source", "target", "source_gain", "target_gain")
_KEYS = ["target_set", "place", "series", "step", "x"]


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, accuracies as fractions, and the gain on the target per gain on the source.

    target_set, series, step (of a chain the leg, of a grid the series), x (epoch of a chain, PLR of
    a grid), mean, std and n of the accuracy on the target, source (the stages' own test accuracy),
    the gains of both over the stage before it, and ratio, of those means.
    """
    if results.transfer.empty:
        raise Missing(
            "No transfer yet: fasttrain analyse STORE --only transfer --target DATASET makes it."
        )
    rows = _measured(results)
    rows = _of_chain(results, rows) if is_chain(results) else _of_grid(rows)
    means = over_seeds(rows, _KEYS, _QUANTITIES)
    wide = means.pivot(index=_KEYS, columns="quantity", values=["mean", "std", "n"])
    gains = wide["mean"]["source_gain"], wide["mean"]["target_gain"]
    table = pd.DataFrame(
        {
            "by": "epoch" if is_chain(results) else "plr",
            "mean": wide["mean"]["target"],
            "std": wide["std"]["target"],
            "n": wide["n"]["target"].astype(int),
            "source": wide["mean"]["source"],
            "source_gain": gains[0],
            "source_gain_std": wide["std"]["source_gain"],
            "target_gain": gains[1],
            "target_gain_std": wide["std"]["target_gain"],
            # Of what has lost accuracy, or gained none, it means nothing.
            "ratio": np.where(gains[0] > 0, gains[1] / gains[0].where(gains[0] > 0), np.nan),
        }
    ).reset_index()
    ordered = table.sort_values(["target_set", "place", "series", "x"], ignore_index=True)
    return ordered.drop(columns="place")


def _measured(results: SetupResults) -> pd.DataFrame:
    """Stages with accuracies on source and target, and the gains over the stage before."""
    found = results.transfer.rename(columns={"target": "target_set", "accuracy": "target"})
    found = found[["stage", "target_set", "target"]]
    stages = results.stages.rename(columns={"test_accuracy": "source"})
    rows = stages.merge(found, on="stage")
    before = rows[["stage", "target_set", "source", "target"]]
    before = before.rename(columns={"stage": "parent"})
    rows = rows.merge(before, on=["parent", "target_set"], how="left", suffixes=("", "_before"))
    return rows.assign(
        source_gain=rows["source"] - rows["source_before"],
        target_gain=rows["target"] - rows["target_before"],
    )


def _of_grid(rows: pd.DataFrame) -> pd.DataFrame:
    rows = ends_and_averages(rows)
    return rows.assign(x=rows["plr"], step=rows["series"])


def _of_chain(results: SetupResults, rows: pd.DataFrame) -> pd.DataFrame:
    """The legs of every path from root to leaf."""
    legs, leaves = leaves_of(results)
    if leaves["path"].nunique() > MOST_LINES:
        raise Missing(
            f"{leaves['path'].nunique()} paths are more than a figure can tell apart"
            f" ({MOST_LINES}): load_analyses has their transfer."
        )
    parents = dict(zip(legs["stage"], legs["parent"], strict=True))
    ways = [
        {"stage": stage, "series": path_name(path)}
        for leaf, path in zip(leaves["stage"], leaves["path"], strict=True)
        for stage in way_to(leaf, parents)
    ]
    rows = rows.merge(pd.DataFrame(ways), on="stage")
    step = [path_name(path) for path in rows["path"]]
    return rows.assign(x=rows["epoch"], step=step, place=rows["series"].map(len))


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    targets = list(dict.fromkeys(table["target_set"]))
    figure, axes = panels(len(targets), 2)
    figure.set_figheight(3.1 * len(targets) + 0.5)
    styles = series_styles(list(dict.fromkeys(table["series"])))
    handles = {}
    for target, left, right in zip(targets, axes[::2], axes[1::2], strict=True):
        rows = table[table["target_set"] == target]
        frame(left)
        frame(right)
        by_epoch = rows["by"].iloc[0] == "epoch"
        left.set(xlabel="epoch, all legs together" if by_epoch else PLR_LABEL)
        left.set_ylabel(f"linear test accuracy on {target} (%)", fontsize=8.5)
        if not by_epoch:
            left.set_xscale("log")
        for series, line in by(rows, "series"):
            colour, mark, dashes = styles[series]
            scaled = line.assign(plr=line["x"], mean=100 * line["mean"], std=100 * line["std"])
            curve(left, scaled, colour, mark, dashes, label=str(series))
            handles[series] = left.lines[-2]
        _draw_gains(right, rows, styles)
    legend_below(figure, list(handles.values()), columns=3)
    return figure


def _draw_gains(ax: Axes, rows: pd.DataFrame, styles: dict) -> None:
    """Gain on the target against gain on the source, and where both are the same."""
    ax.set(xlabel="gain on the test set of the source (points)")
    ax.set_ylabel("gain on that of the target (points)", fontsize=8.5)
    ax.axhline(0, color="0.6", lw=0.8, zorder=1)
    ax.axvline(0, color="0.6", lw=0.8, zorder=1)
    # What several paths have in common is drawn once.
    known = rows.dropna(subset=["source_gain", "target_gain"]).drop_duplicates(["step", "x"])
    for series, points in by(known, "series"):
        colour, mark, _ = styles[series]
        ax.errorbar(
            100 * points["source_gain"],
            100 * points["target_gain"],
            xerr=100 * points["source_gain_std"].fillna(0),
            yerr=100 * points["target_gain_std"].fillna(0),
            **{"color": colour, "marker": mark, "ls": "none", "ms": 5, "elinewidth": 0.8},
        )
        if rows["by"].iloc[0] == "epoch":
            for point in points.to_dict("records"):
                at = 100 * point["source_gain"], 100 * point["target_gain"]
                beside = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 7}
                ax.annotate(point["step"], at, **beside)
    ax.axline((0, 0), slope=1, color="0.6", lw=0.8, ls=":", zorder=1)


TRANSFER = Drawing(
    name="transfer",
    title="Transfer to other images",
    caption=(
        "Left: test accuracy on another data set of a linear classifier (logistic regression) that "
        "is trained there on the features of each stage, which stay as they are. Right: what a "
        "stage gains on that over the stage it started from, against what it gains on the test set "
        "of its own images; on the dotted line both are equal. A reconstruction: data, networks "
        "and classifier are not the published ones."
    ),
    published="YLD, gain on the target over gain on the source, by stage of the learning rate",
    expected="what a later, smaller rate adds carries over less: points below the dotted line",
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
