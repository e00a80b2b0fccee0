"""The largest eigenvalues of the Hessian on the unit sphere, against PLR."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.rows import (
    analysed,
    by,
    described,
    ends_and_averages,
    note_of_count,
    over_seeds,
)
from fasttrain.report.figures.style import MARKS, handle, legend_below, palette, panel_per_series
from fasttrain.report.seed_means import floats, number

SAME_NORM = 1e-3
"""relative difference of norms of weights below which they are the same: rounding"""


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: series, rank, plr, mean, std, n, norm.

    Rank 0 is the mean of all eigenvalues, trace / N; norm is that of the weights.
    """
    rows = analysed(results.eigenvalues, "eigenvalues", "sharpness")
    rows = pd.concat([rows, _means_of_all(results.sharpness)], ignore_index=True)
    rows = ends_and_averages(described(results, rows)).rename(columns={"value": "eigenvalue"})
    rows["norm"] = (rows["eigenvalue"] / rows["value_at_norm"]) ** 0.5
    keys = ["place", "series", "rank", "plr"]
    norms = rows.groupby(keys, as_index=False)["norm"].mean()
    table = over_seeds(rows, keys, ["eigenvalue"]).merge(norms, on=keys)
    return table.drop(columns=["place", "quantity"])


def _means_of_all(sharpness: pd.DataFrame) -> pd.DataFrame:
    """The trace of every stage that has it as rows of eigenvalues, of rank 0."""
    rows = sharpness[sharpness["trace"].notna() & sharpness["num_weights"].notna()]
    mean = floats(rows["trace"]) / floats(rows["num_weights"])
    rows = rows.assign(rank=0, value=mean, value_at_norm=floats(rows["trace_at_norm"]))
    return rows[["stage", "rank", "value", "value_at_norm"]]


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = list(dict.fromkeys(table["series"]))
    # Not one y for all: curvature of lost pre-trainings is decades above everything else.
    figure, axes = panel_per_series(names, table["plr"], shades, "eigenvalue")
    ranks = sorted(table["rank"].unique())
    colours = dict(zip(ranks, palette()(np.linspace(0, 1, len(ranks))), strict=True))
    colours |= {0: "0.35"} if 0 in ranks else {}
    marks = {rank: MARKS[(rank - 1) % len(MARKS)] if rank else "" for rank in ranks}
    styles = {rank: "-" if rank else "--" for rank in ranks}
    for ax, name in zip(axes, names, strict=True):
        for rank, line in by(table[table["series"] == name], "rank"):
            line = line[line["mean"] > 0].sort_values("plr")
            style = {"marker": marks[rank], "ms": 4, "mew": 0.5, "lw": 1.1, "ls": styles[rank]}
            ax.plot(line["plr"], line["mean"], color=colours[rank], **style)
        ax.set_yscale("log")
        _show_at_norm(ax, table.loc[table["series"] == name, "norm"].dropna())
    words = {rank: f"rank {rank}" if rank else "mean of all, trace / N" for rank in ranks}
    handles = [handle(words[rank], colours[rank], marks[rank], styles[rank]) for rank in ranks]
    legend_below(figure, handles, 3)
    return figure


def _show_at_norm(ax: Axes, norms: pd.Series) -> None:
    """The published scale on the right, where all weights have one norm n: values / n^2."""
    if norms.empty or norms.max() > (1 + SAME_NORM) * norms.min():
        return
    square = float(norms.mean()) ** 2
    scales = (lambda v: np.asarray(v) / square, lambda v: np.asarray(v) * square)
    right = ax.secondary_yaxis("right", functions=scales)
    right.set_ylabel(f"at norm {number(square**0.5)}", fontsize=8)
    right.tick_params(labelsize=8)


def _note(table: pd.DataFrame) -> str:
    hidden = int((table["mean"] <= 0).sum())
    left_out = f" {hidden} means that are not positive are not drawn." if hidden else ""
    return f"Means over seeds, {note_of_count(table)}{left_out}"


EIGENVALUES = Drawing(
    name="eigenvalues",
    title="Largest Hessian eigenvalues",
    caption=(
        "The largest eigenvalues of the loss's Hessian on the unit sphere (rank 1 is the largest), "
        "against PLR: at the end of pre-training, after fine-tuning at a low and a high FLR, and "
        "of the average; dashed their mean over all directions, trace / N. Each panel has its own "
        "scale; on its right stands that of the Hessian at the norm of the weights, as published, "
        "where all have the same."
    ),
    published="TR, Hessian trace / N and eigenvalues at the norm of the weights (10 Lanczos steps)",
    expected="within regime 1 curvature falls as the rate grows",
    table=_table,
    draw=_draw,
    note=_note,
)
