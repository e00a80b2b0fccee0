"""How long convergence takes as the learning rate nears the boundary of regimes 1 and 2.

arXiv 2410.22113, appendix: the number of epochs grows without bound there.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from fasttrain.analysis.rules import CONVERGED
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.regimes import NO_STAGE
from fasttrain.report.figures.rows import described, needed
from fasttrain.report.figures.style import (
    BLUE,
    GREY,
    PLR_LABEL,
    handle,
    legend_below,
    panels,
    plr_axes,
)
from fasttrain.report.seed_means import floats


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """One row per pre-training: stage, plr, seed, regime, converged_epoch (or NaN), epochs run."""
    needed(regimes, NO_STAGE, "run fasttrain sweep")
    rows = described(results, regimes, ["epoch"]).rename(columns={"epoch": "epochs_run"})
    if not np.isfinite(floats(rows["converged_epoch"])).any():
        raise Missing(
            f"No pre-training reaches a training loss below {CONVERGED:g}: "
            "take smaller PLRs or more epochs in fasttrain sweep."
        )
    columns = ["stage", "plr", "seed", "regime", "converged_epoch", "epochs_run"]
    return rows[columns].sort_values(["plr", "seed"], ignore_index=True)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, (ax,) = panels(1, 1)
    plr_axes([ax], table["plr"], shades)
    ax.set(yscale="log", xlabel=PLR_LABEL, ylabel="epochs to convergence")
    epochs = floats(table["converged_epoch"])
    reached = np.isfinite(epochs)
    means = pd.Series(epochs[reached]).groupby(table.loc[reached, "plr"].to_numpy()).mean()
    ax.plot(means.index, means, color=BLUE, lw=1.2, zorder=2)
    ax.plot(table.loc[reached, "plr"], epochs[reached], "o", color=BLUE, ms=5, mec="white", mew=0.5)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    waiting = table[~reached]
    for place in waiting[["plr", "epochs_run"]].drop_duplicates().itertuples(index=False):
        ends = {"xytext": (0, 14), "textcoords": "offset points", "annotation_clip": False}
        # The head is at the text's end.
        arrow = {"arrowstyle": "<-", "color": GREY, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", place, arrowprops=arrow, **ends)
        ax.plot(*place, "_", color=GREY, ms=8)
    ax.set_ylim(top=1.8 * max(table["epochs_run"].max(), np.nanmax(epochs)))
    handles = [handle("converged (one point per seed)", BLUE, "o", "-")]
    if len(waiting):
        handles.append(handle("not within the run", GREY, r"$\uparrow$"))
        handles[-1].set_markersize(10)
    legend_below(figure, handles)
    return figure


def _note(table: pd.DataFrame) -> str:
    waiting = int(table["converged_epoch"].isna().sum())
    seeds = table["seed"].nunique()
    return (
        f"{len(table)} runs, {seeds} seed{'s' if seeds > 1 else ''}; "
        f"{waiting} did not converge within the run (arrows, from its length upwards)."
    )


BOUNDARY = Drawing(
    name="convergence",
    title="Epochs to convergence",
    caption=(
        f"The first epoch with a training loss below {CONVERGED:g} against the learning rate: "
        "one point per seed, the line joins the means of the seeds that converged."
    ),
    published="WDL, epochs to convergence near the boundary of regimes 1 and 2",
    expected=(
        "epochs fall with the rate and grow without bound towards the boundary 1|2; beyond "
        "it no run converges"
    ),
    table=_table,
    draw=_draw,
    note=_note,
)
