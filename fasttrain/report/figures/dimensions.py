"""Pairs of patterns: the error on each pattern alone against their dimension.

arXiv 1907.04595 proves for the limit of large dimensions that a large rate which is decayed learns
the noisy pattern P from all samples that hold it, a small one from those alone that lack Q.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import path_name
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import by, note_of_seeds, over_seeds
from fasttrain.report.figures.style import frame, legend_below, panels, series_styles
from fasttrain.report.seed_means import number


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds at the ends of all legs: set, path, dimension, mean, std, n."""
    found = results.dimensions
    if found["dimension"].nunique() < 2:
        raise Missing(
            "The store has pairs of patterns of one dimension: sweep --dimension 200 into it, too."
        )
    rows = found.assign(error=1 - found["accuracy"])
    means = over_seeds(rows, ["set", "path", "dimension"], ["error"])
    columns = ["set", "path", "dimension", "mean", "std", "n"]
    return means[means["n"] > 0][columns].reset_index(drop=True)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = sorted(set(table["set"]))
    figure, axes = panels(-(-len(names) // 2), 2, sharex=True)
    styles = series_styles(list(table["path"].unique()))
    handles = {}
    for ax, name in zip(axes, names, strict=False):
        frame(ax)
        ax.set_title(name, fontsize=9.5)
        ax.set(xlabel="dimension d", ylabel="error (%)", xscale="log")
        ax.xaxis.set_major_locator(FixedLocator(sorted(set(table["dimension"]))))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda value, _: number(value))
        for path, line in by(table[table["set"] == name], "path"):
            colour, mark, dashes = styles[path]
            mean, std = 100 * line["mean"].to_numpy(), 100 * line["std"].to_numpy()
            style = {"color": colour, "marker": mark, "ls": dashes, "ms": 4.5, "lw": 1.3}
            bars = {"capsize": 2.5, "elinewidth": 1, "label": path_name(str(path))}
            handles[path] = ax.errorbar(
                line["dimension"], mean, yerr=np.nan_to_num(std), **style, **bars
            )
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    legend_below(figure, list(handles.values()), columns=4)
    return figure


DIMENSIONS = Drawing(
    name="dimensions",
    title="Patterns by dimension",
    caption=(
        "Error at the end of every leg on pairs of patterns and on each pattern alone, against "
        "their dimension d. A reconstruction: no simulation of this setting is published."
    ),
    published="LWM, theorems on a large initial and on a small rate",
    expected=(
        "after the large rate, decayed, the error on P alone falls with more samples; the "
        "small rate's does not"
    ),
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
