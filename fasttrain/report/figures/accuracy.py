"""Test accuracy after fine-tuning and averaging, against the learning rate of the pre-training.

The main result of arXiv 2410.22113: the best starts lie just above the convergence threshold.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.rows import chance_level, needed, note_of_seeds
from fasttrain.report.figures.style import (
    ABOVE_REGIMES,
    PLR_LABEL,
    accuracy_axis,
    curve,
    handle,
    legend_below,
    panels,
    plr_axes,
    series_styles,
)
from fasttrain.report.seed_means import is_marked, number, seed_means

_PANELS = {
    "finetune": ("flr", "FLR", "Before and after fine-tuning"),
    "swa": ("k", "k =", "Before and after averaging"),
}


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Rows of `seed_means` with their panel, series and the chance level of the data set."""
    if results.stages.empty:
        needed(results.stages, "No stage has finished yet", "run fasttrain sweep")
    pretrained = seed_means(results.stages, "pretrain").assign(series="pre-trained", place=0.0)
    parts = []
    for kind, (key, symbol, _) in _PANELS.items():
        means = seed_means(results.stages, kind)
        if means.empty:
            continue
        means = means.assign(series=f"{symbol} " + means[key].map(number), place=means[key])
        parts.append(pd.concat([pretrained, means.drop(columns=key)]).assign(panel=kind))
    table = pd.concat(parts or [pretrained.assign(panel="pretrain")], ignore_index=True)
    table["chance"] = chance_level(results)
    columns = ["panel", "series", "plr", "mean", "std", "n", "num_stages"]
    columns += ["num_at_chance", "num_non_finite", "chance"]
    return table.sort_values(["panel", "place", "plr"])[columns].reset_index(drop=True)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    kinds = list(table["panel"].unique())
    figure, axes = panels(1, len(kinds), sharey=True)
    figure.set_figheight(4.2 + 0.09 * table.groupby("panel")["series"].nunique().max())
    plr_axes(axes, table["plr"], shades)
    for ax, kind in zip(axes, kinds, strict=True):
        rows = table[table["panel"] == kind]
        ax.set_xlabel(PLR_LABEL)
        if kind in _PANELS:
            ax.set_title(_PANELS[kind][2], fontsize=9.5, **ABOVE_REGIMES)
        _panel(ax, rows)
    axes[0].set_ylabel("test accuracy (%)")
    accuracy_axis(axes[0], 100 * table["mean"].dropna())
    handles = _states(table)
    if table["chance"].notna().any():
        handles.insert(0, handle("chance level", "0.55", line=":"))
    legend_below(figure, handles)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    names = list(rows["series"].unique())
    styles = series_styles(names)
    for name in names:
        line = rows[rows["series"] == name]
        line = line.assign(mean=100 * line["mean"], std=100 * line["std"])
        colour, mark, dashes = styles[name]
        curve(ax, line, colour, mark, dashes, label=name)
        hollow = line[is_marked(line) & line["mean"].notna()]
        ax.plot(hollow["plr"], hollow["mean"], mark, ms=4.5, mfc="white", mec=colour, zorder=4)
        lost = line.loc[line["mean"].isna(), "plr"]
        # An empty line that is not clipped would still claim the corner of the figure.
        if lost.empty:
            continue
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        ax.plot(lost, np.zeros(len(lost)), "x", ms=6, color=colour, **edge)
    chance = rows["chance"].iloc[0]
    if np.isfinite(chance):
        ax.axhline(100 * chance, color="0.55", ls=":", lw=1.2, zorder=1)
    box = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False}
    columns = 2 if len(names) <= 8 else 3
    ax.legend(ncols=columns, fontsize=8, columnspacing=1.2, **box)


def _states(table: pd.DataFrame) -> list:
    handles = []
    if (is_marked(table) & table["mean"].notna()).any():
        handles.append(handle("a seed at chance or without a finite loss", "0.3", "o"))
        handles[-1].set_markerfacecolor("white")
    if table["mean"].isna().any():
        handles.append(handle("no finite accuracy", "0.3", "x"))
    return handles


ACCURACY = Drawing(
    name="accuracy",
    title="Fine-tuning and averaging",
    caption=(
        "Test accuracy against PLR: at the end of pre-training, after fine-tuning at each FLR, and "
        "of the average of k checkpoints. A hollow point has a seed that is at chance or has no "
        "finite loss, a cross on the lower edge no finite accuracy. Where accuracies exceed 95 %, "
        "the axis is logarithmic in the error."
    ),
    published="WDL and LLR, test accuracy of fine-tuning and SWA against PLR",
    expected=(
        "in regime 1 every later point lies near the pre-trained one; fine-tuned and "
        "averaged points rise with the PLR, are best just above the boundary 1|2, at every "
        "FLR, and fall before regime 3"
    ),
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
