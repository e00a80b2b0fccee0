"""Sharpness against test error among fine-tuned networks that fit their training set alike."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.rules import CONVERGED
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import analysed, described
from fasttrain.report.figures.style import (
    MARKS,
    frame,
    handle,
    legend_below,
    panels,
    plr_bar,
    plr_colours,
)
from fasttrain.report.seed_means import floats, number

_MEASURES = (
    ("effective_grad_norm", "effective gradient norm of a batch"),
    ("eigenvalue", "largest Hessian eigenvalue"),
)


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """One row per fine-tuned stage below the loss: stage, plr, flr, seed, the measures, errors."""
    rows = analysed(results.sharpness, "sharpness", "sharpness")
    columns = ["plr", "flr", "seed", "kind", "test_accuracy"]
    largest = results.eigenvalues[results.eigenvalues["rank"] == 1].rename(
        columns={"value": "eigenvalue"}
    )
    rows = rows.merge(largest[["stage", "eigenvalue"]], on="stage", how="left")
    rows = described(results, rows, columns)
    rows = rows[rows["kind"] == "finetune"]
    if rows.empty:
        raise Missing("No fine-tuned stage has its sharpness: run fasttrain sweep with an --flr.")
    kept = rows[floats(rows["train_loss"]) < CONVERGED]
    if kept.empty:
        raise Missing(
            f"No fine-tuned stage has a training loss below {CONVERGED:g}, so that sharpness "
            "cannot be compared at equal loss: fine-tune for more epochs in fasttrain sweep."
        )
    table = kept.assign(
        test_error=1 - kept["test_accuracy"], num_left_out=len(rows) - len(kept)
    ).sort_values(["flr", "plr", "seed"])
    names = [name for name, _ in _MEASURES]
    columns = ["stage", "plr", "flr", "seed", "train_loss", *names, "test_error", "num_left_out"]
    return table[columns].reset_index(drop=True)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    found = [(n, label) for n, label in _MEASURES if (floats(table[n]) > 0).any()] or _MEASURES[:1]
    figure, axes = panels(1, len(found), sharey=True)
    figure.set_figheight(3.9)
    plrs = sorted(table["plr"].unique())
    colours = plr_colours(plrs)
    flrs = sorted(table["flr"].unique())
    for ax, (name, label) in zip(axes, found, strict=True):
        frame(ax)
        ax.set(xscale="log", xlabel=label)
        values = floats(table[name])
        for place, flr in enumerate(flrs):
            chosen = ((table["flr"] == flr) & (values > 0)).to_numpy()
            chosen_colours = colours.to_rgba(table.loc[chosen, "plr"].to_numpy())
            style = {"c": chosen_colours, "marker": MARKS[place % len(MARKS)], "s": 28}
            error = 100 * table.loc[chosen, "test_error"]
            ax.scatter(values[chosen], error, edgecolors="black", linewidths=0.5, **style)
        ax.set_title(_correlation(values, table["test_error"]), fontsize=8.5)
    axes[0].set_ylabel("test error (%)")
    plr_bar(figure, axes, colours)
    marks = [MARKS[place % len(MARKS)] for place in range(len(flrs))]
    handles = [handle(f"FLR {number(f)}", "0.3", m) for f, m in zip(flrs, marks, strict=True)]
    legend_below(figure, handles)
    return figure


def _correlation(values: np.ndarray, error: pd.Series) -> str:
    """Spearman's rank correlation over the points drawn, and its interval of 95 %.

    The interval is that of Bonett and Wright, Psychometrika 65 (2000): arctanh of the correlation
    is normal with variance (1 + correlation² / 2) / (n - 3).
    """
    drawn = values > 0
    count = int(drawn.sum())
    ranks = pd.Series(values[drawn]).rank(), error[drawn].reset_index(drop=True).rank()
    if count < 4 or min(len(set(rank)) for rank in ranks) < 2:
        return f"n = {count}"
    found = float(ranks[0].corr(ranks[1]))
    within = np.arctanh(np.clip(found, -1 + 1e-12, 1 - 1e-12))
    half = 1.96 * np.sqrt((1 + found**2 / 2) / (count - 3))
    low, high = np.tanh([within - half, within + half])
    return f"rank correlation {found:+.2f} ({low:+.2f} to {high:+.2f}), n = {count}"


def _note(table: pd.DataFrame) -> str:
    left_out = int(table["num_left_out"].iloc[0])
    low, high = table["train_loss"].min(), table["train_loss"].max()
    return (
        f"{len(table)} stages with training losses of {number(low)} to {number(high)}; "
        f"{left_out} are left out because theirs is {CONVERGED:g} or more."
    )


SHARPNESS = Drawing(
    name="sharpness",
    title="Sharpness and test error",
    caption=(
        "Fine-tuned networks that fit the training set alike (training loss below "
        f"{CONVERGED:g}, the published threshold of convergence): the mean gradient norm of a "
        "batch and the largest eigenvalue of the loss's Hessian, both on the unit sphere, against "
        "test error. One point per stage: its colour is the PLR, its shape the FLR. The rank "
        "correlation is Spearman's, with its interval of 95 %."
    ),
    published="WDL, gradient norm against test accuracy; TR, sharpness at equal training loss",
    expected="at equal training loss the points that generalise better are flatter",
    table=_table,
    draw=_draw,
    note=_note,
)
