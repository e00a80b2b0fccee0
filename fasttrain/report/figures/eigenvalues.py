"""The largest eigenvalues of the Hessian on the unit sphere, against PLR."""

import numpy as np
import pandas as pd
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


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: series, rank, plr, mean, std, n."""
    rows = analysed(results.eigenvalues, "eigenvalues", "sharpness")
    rows = ends_and_averages(described(results, rows)).rename(columns={"value": "eigenvalue"})
    keys = ["place", "series", "rank", "plr"]
    return over_seeds(rows, keys, ["eigenvalue"]).drop(columns=["place", "quantity"])


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = list(dict.fromkeys(table["series"]))
    # Not one y for all: curvature of lost pre-trainings is decades above everything else.
    figure, axes = panel_per_series(names, table["plr"], shades, "eigenvalue")
    ranks = sorted(table["rank"].unique())
    colours = dict(zip(ranks, palette()(np.linspace(0, 1, len(ranks))), strict=True))
    for ax, name in zip(axes, names, strict=True):
        for rank, line in by(table[table["series"] == name], "rank"):
            line = line[line["mean"] > 0].sort_values("plr")
            style = {"marker": MARKS[(rank - 1) % len(MARKS)], "ms": 4, "mew": 0.5, "lw": 1.1}
            ax.plot(line["plr"], line["mean"], color=colours[rank], **style)
        ax.set_yscale("log")
    marks = {rank: MARKS[(rank - 1) % len(MARKS)] for rank in ranks}
    legend_below(
        figure, [handle(f"rank {rank}", colours[rank], marks[rank], "-") for rank in ranks], 5
    )
    return figure


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
        "of the average. Each panel has its own scale."
    ),
    published="no published counterpart",
    table=_table,
    draw=_draw,
    note=_note,
)
