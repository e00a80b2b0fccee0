"""Lines against the learning rate and against the epoch: table in, matplotlib figure out.

Every function is pure: it takes the rows of one set-up (ValueError otherwise), draws what
`fasttrain.report.table.seed_means` computes, and touches no global state (no pyplot). Values that
are not finite are left out; stages that diverged are marked, never hidden. Colours come from
viridis without its palest end, which is safe for the colour-blind and legible on white.
"""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fasttrain.files import write_atomically
from fasttrain.report.table import floats, number, seed_means

_VARIABLES = {"finetune": ("flr", "FLR", "fine-tuning"), "swa": ("k", "k", "averaging")}
_PRETRAIN_COLOUR = "black"
_CURVES = (
    ("train_loss", "training loss", "log"),
    ("test_accuracy", "test accuracy (%)", "linear"),
    ("grad_norm", "effective gradient norm", "log"),
)


def accuracy_against_plr(stages: pd.DataFrame, num_classes: int | None) -> Figure:
    """Test accuracy (%) against PLR: one line per FLR, and in a second panel one line per k.

    Points are means over seeds; bars are ± the sample standard deviation, where two seeds or more
    have finished. Hollow points have a diverged seed; a cross on the lower edge stands for
    stages without any finite accuracy. `num_classes` places the chance level (None: no line).
    """
    pretrained = seed_means(stages, "pretrain")
    tables = {kind: seed_means(stages, kind) for kind in _VARIABLES}
    panels = [kind for kind, means in tables.items() if len(means)]
    if not panels and pretrained.empty:
        return message("No finished stage to draw.")
    num_panels = max(1, len(panels))
    num_lines = max([1, *(means[_VARIABLES[kind][0]].nunique() for kind, means in tables.items())])
    # The legend lies under the axes and grows with the number of lines.
    height = 4.6 + 0.07 * num_lines
    figure = Figure(figsize=(5.4 * num_panels + 0.4, height), layout="constrained")
    # The scale comes before the data: one single PLR has no extent that could be converted later.
    log = {"xscale": "log", "xlabel": "pre-training learning rate (PLR)"}
    axes = figure.subplots(1, num_panels, sharey=True, squeeze=False, subplot_kw=log)[0]
    plrs = pd.concat([pretrained["plr"], *(means["plr"] for means in tables.values())])
    for ax, kind in zip(axes, panels or ["pretrain"], strict=True):
        series = [("pre-training", pretrained, _PRETRAIN_COLOUR)]
        if kind in _VARIABLES:
            key, symbol, title = _VARIABLES[kind]
            values = sorted(tables[kind][key].unique())
            colours = _colours()(np.linspace(0, 1, len(values)))
            for value, colour in zip(values, colours, strict=True):
                means = tables[kind][tables[kind][key] == value]
                series.append((f"{symbol} {number(value)}", means, colour))
            ax.set_title(f"Before and after {title}")
        ax.set_xlim(plrs.min() / 1.4, plrs.max() * 1.4)
        _accuracy_panel(ax, series, num_classes)
    axes[0].set_ylabel("test accuracy (%)")
    return figure


def training_curves(epochs: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    """Pre-training, epoch by epoch: training loss, test accuracy and effective gradient norm.

    One line per PLR, the mean over its seeds with a finite value at that epoch (the seed itself
    when there is one); dashed where a seed diverged. Logarithmic axes leave out what is not
    positive.
    """
    means = seed_means(stages, "pretrain")
    diverged = set(means.loc[means["num_diverged"] > 0, "plr"])
    curves = _pretraining_epochs(epochs, stages)
    if curves.empty:
        return message("No epoch of pre-training to draw.")
    plrs = sorted(curves["plr"].unique())
    # LogNorm divides by log(vmax / vmin): a single PLR needs some width.
    norm = LogNorm(plrs[0], plrs[-1]) if len(plrs) > 1 else LogNorm(plrs[0] / 2, plrs[0] * 2)
    figure = Figure(figsize=(13.0, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_CURVES), gridspec_kw={"wspace": 0.06})
    for ax, (name, label, scale) in zip(axes, _CURVES, strict=True):
        ax.set(xlabel="epoch", ylabel=label, yscale=scale)
        _frame(ax)
        for plr in plrs:
            at_plr = curves[curves["plr"] == plr]
            line = at_plr.groupby("epoch")[name].mean().dropna()
            line = line[line > 0] if scale == "log" else 100 * line
            style = "--" if plr in diverged else "-"
            marker = "." if len(line) == 1 else ""
            colour = _colours()(norm(plr))
            ax.plot(line.index, line, style, marker=marker, color=colour, lw=1.3, gid=f"{plr!r}")
    bar = ScalarMappable(norm, _colours())
    figure.colorbar(bar, ax=list(axes), label="pre-training learning rate (PLR)", pad=0.01)
    if diverged.intersection(plrs):
        dashed = Line2D([], [], color="0.3", ls="--", label="dashed: at least one seed diverged")
        figure.legend(handles=[dashed], loc="outside lower center", frameon=False)
    return figure


def save(figure: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write `stem`.png (150 dpi) and `stem`.svg, the same bytes each time; returns both paths."""
    stem = Path(stem)
    png, svg = (stem.with_name(stem.name + suffix) for suffix in (".png", ".svg"))
    # Without a salt the identifiers in an SVG file are random.
    with rc_context({"svg.hashsalt": "fasttrain"}):
        for path, options in ((png, {"Software": None}), (svg, {"Date": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=options)
            write_atomically(path, drawn.getvalue())
    return png, svg


def message(text: str) -> Figure:
    """A small figure that says why there is nothing to see."""
    figure = Figure(figsize=(5.0, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color="0.3")
    return figure


def _pretraining_epochs(epochs: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of the pre-training of `stages`: PLR, epoch and curves, all float64."""
    names = ["plr", "epoch", *(name for name, _, _ in _CURVES)]
    # Empty tables may have no columns.
    if epochs.empty or stages.empty:
        return pd.DataFrame(columns=names)
    # Set-ups may share a stage, and a set-up may have epochs of a stage that is still running.
    rows = epochs[epochs["setup"].isin(stages["setup"]) & epochs["stage"].isin(stages["stage"])]
    rows = rows[rows["kind"] == "pretrain"]
    curves = pd.DataFrame({name: floats(rows[name]) for name in names})
    return curves[curves["plr"] > 0]


def _colours() -> Colormap:
    return ListedColormap(colormaps["viridis"](np.linspace(0.12, 0.88, 256)))


def _frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    # Less than a decade leaves only minor ticks to label, close to each other.
    ax.tick_params(which="minor", labelsize=7)
    ax.grid(True, which="major", color="0.92", lw=0.8)
    ax.set_axisbelow(True)


def _accuracy_panel(ax: Axes, series: list, num_classes: int | None) -> None:
    """Draw (label, means of one line, colour) triples, then the legend under the axes."""
    _frame(ax)
    size = 4.5 if len(series) <= 8 else 3.0
    for level, (label, means, colour) in enumerate(series):
        x, y = means["plr"].to_numpy(), 100 * means["mean"].to_numpy()
        bars = 100 * means["std"].to_numpy()
        # Dashed black is pre-training, whatever the map's darkest colour looks like in print.
        line = "--" if level == 0 else "-"
        style = {"color": colour, "lw": 1.4, "ls": line, "marker": "o", "ms": size}
        ax.errorbar(x, y, yerr=bars, label=label, elinewidth=1.0, capsize=2, **style)
        hollow = (means["num_diverged"] > 0).to_numpy() & np.isfinite(y)
        ax.plot(x[hollow], y[hollow], "o", ms=size, mfc="white", mec=colour, zorder=4)
        lost = ~np.isfinite(y)
        # Stacked, so that crosses of several lines at the same PLR stay apart.
        height = np.full(lost.sum(), 0.015 + 0.03 * level)
        ax.plot(x[lost], height, "x", ms=5, color=colour, transform=ax.get_xaxis_transform())
    handles, _ = ax.get_legend_handles_labels()
    if num_classes:
        handles.append(ax.axhline(100 / num_classes, ls=":", color="0.35", label="chance level"))
    every = pd.concat([means for _, means, _ in series])
    handles += _divergence_handles(every)
    seeds = every.loc[every["n"] > 0, "n"]
    title = None if seeds.empty else _seeds_title(int(seeds.min()), int(seeds.max()))
    ax.legend(
        handles=handles,
        title=title,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=3 if len(series) <= 8 else 4,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _seeds_title(fewest: int, most: int) -> str:
    if most == 1:
        return "n = 1 seed: no error bars"
    n = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"mean ± sample standard deviation, n = {n} seeds"


def _divergence_handles(means: pd.DataFrame) -> list[Line2D]:
    handles = []
    if ((means["num_diverged"] > 0) & means["mean"].notna()).any():
        hollow = Line2D([], [], marker="o", mfc="white", mec="0.3", ls="none")
        hollow.set_label("a seed diverged")
        handles.append(hollow)
    if means["mean"].isna().any():
        handles.append(Line2D([], [], marker="x", color="0.3", ls="none", label="no accuracy"))
    return handles
