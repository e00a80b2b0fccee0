"""How the figures look: colours and marks of regimes, shaded axes, lines with error bars.

Colours are Okabe and Ito's and viridis without its palest end: safe for the colour-blind, legible
on white. Nothing is told apart by colour alone: lines have marks, regimes have names.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, NullLocator

from fasttrain.report.figures.drawing import Picture, Shades

PLR_LABEL = "pre-training learning rate (PLR)"
BLACK, BLUE, GREEN, ORANGE = "#000000", "#0072B2", "#009E73", "#E69F00"
RED, PINK, SKY, GREY = "#D55E00", "#CC79A7", "#56B4E9", "#777777"
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
REGIMES = {
    "1": (BLUE, "o", "-", "1: convergence"),
    "2A": (GREEN, "s", "--", "2A: equilibrium, one basin"),
    "2B": (ORANGE, "D", "-.", "2B: equilibrium, several basins"),
    "2": (PINK, "^", "--", "2: equilibrium (A or B unknown)"),
    "3": (RED, "X", ":", "3: divergence"),
    "undecided": (GREY, "P", (0, (5, 1, 1, 1, 1, 1)), "undecided"),
}
"""colour, mark, line and words of each regime"""
_STRIP = 0.055
ABOVE_REGIMES: dict[str, Any] = {"y": 1 + _STRIP, "pad": 3}
"""where the title of a panel stands above the names of the regimes, however high the panel"""
_BY_ERROR = 95.0
"""% from which accuracies are spaced by their error"""
_NO_ERROR = 0.05
_ERROR_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 100)
# Bands closer than this, as a ratio, meet in a boundary; others have something undecided between.
_MEETING = 1.001


def palette() -> Colormap:
    """Viridis for lines on white."""
    return ListedColormap(colormaps["viridis"](np.linspace(0.05, 0.82, 256)))


def plr_colours(plrs: Sequence[float]) -> ScalarMappable:
    """The colours of PLRs: `plr_colours(plrs).to_rgba(plr)`."""
    low, high = min(plrs), max(plrs)
    # A single value needs some width.
    norm = LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)
    return ScalarMappable(norm, palette())


def plr_bar(figure: Figure, axes: Sequence[Axes], colours: ScalarMappable) -> None:
    """What the colours of PLRs mean, beside the panels."""
    # In two lines: one is longer than a row of panels is high.
    label = PLR_LABEL.replace(" ", "\n", 1)
    figure.colorbar(colours, ax=list(axes), label=label, pad=0.015, aspect=32)


def panels(rows: int, columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels, 3.7 x 2.9 inches each (one alone is larger), in order."""
    width, height = (3.7 * columns, 2.9 * rows) if rows * columns > 1 else (6.2, 4.0)
    figure = Picture(figsize=(width, height + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [ax for row in axes for ax in row]


def frame(ax: Axes) -> None:
    """Two spines and a pale grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    # Less than a decade leaves only minor ticks to label, close to each other.
    ax.tick_params(labelsize=8.5)
    ax.tick_params(which="minor", labelsize=6.5)
    ax.grid(True, which="major", color="0.9", lw=0.7)
    ax.set_axisbelow(True)


def plr_axes(axes: Sequence[Axes], plrs: Iterable[float], shades: Shades) -> None:
    """Logarithmic PLR axes with the regimes shaded behind, and lines where they meet.

    To be called before anything is drawn: a single PLR has no extent that could be converted later.
    """
    values = [plr for plr in plrs if np.isfinite(plr) and plr > 0]
    low, high = (min(values) / 1.4, max(values) * 1.4) if values else (1e-3, 1.0)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        frame(ax)
        if high / low > 30:
            ax.tick_params(axis="x", which="minor", bottom=False)
        _shade(ax, [(name, max(a, low), min(b, high)) for name, a, b in shades])
        _boundaries(ax, shades)


def panel_per_series(
    names: Sequence[str], plrs: Iterable[float], shades: Shades, ylabel: str, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A titled panel for each name, two in a row, with PLR axes; options as of plt.subplots."""
    count = len(names)
    figure, axes = panels((count + 1) // 2, min(2, count), sharex=True, **options)
    plr_axes(axes[:count], plrs, shades)
    for ax, name in zip(axes, names, strict=False):
        ax.set_title(name, fontsize=9.5, **ABOVE_REGIMES)
    for ax in axes[count:]:
        ax.set_visible(False)
    for ax in axes[max(0, count - 2) : count]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(PLR_LABEL)
    for ax in axes[:count:2]:
        ax.set_ylabel(ylabel)
    return figure, axes[:count]


def _shade(ax: Axes, bands: Shades) -> None:
    """A pale background, and a strip above the axes with the names of the regimes."""
    across = ax.get_xaxis_transform()
    for name, low, high in bands:
        if low >= high:
            continue
        colour = REGIMES[name][0]
        ax.axvspan(low, high, color=colour, alpha=0.09, lw=0, zorder=0)
        ax.axvspan(low, high, 1.0, 1 + _STRIP, color=colour, alpha=0.4, lw=0, clip_on=False)
        label = ax.text(np.sqrt(low * high), 1 + 0.45 * _STRIP, name, transform=across, fontsize=7)
        label.set(ha="center", va="center", in_layout=False)


def _boundaries(ax: Axes, shades: Shades) -> None:
    low, high = ax.get_xlim()
    for (_, _, end), (_, start, _) in zip(shades, shades[1:], strict=False):
        if start > end * _MEETING or not low < end < high:
            continue
        ax.axvline(end, color="0.45", lw=0.8, ls=(0, (2, 2)), zorder=1)


def curve(
    ax: Axes,
    rows: pd.DataFrame,
    colour: Any,
    mark: str,
    line: Any = "-",
    label: str = "",
    size: float = 4.5,
) -> None:
    """Means against PLR, joined, with bars of ± std: rows with plr, mean and std."""
    rows = rows.sort_values("plr")
    x, mean, std = (rows[name].to_numpy(dtype=float) for name in ("plr", "mean", "std"))
    style = {"marker": mark, "ms": size, "mew": 0.6, "ls": line, "lw": 1.3}
    ax.plot(x, mean, color=colour, label=label or "_", **style)
    # One path for all bars: an object each would be most of the file.
    ends = np.stack([mean - std, mean + std, np.full_like(mean, np.nan)], axis=1)
    ax.plot(np.repeat(x, 3), ends.ravel(), color=colour, lw=1.0, label="_bars")


def accuracy_axis(ax: Axes, accuracies: Iterable[float]) -> None:
    """The vertical axis of accuracies in %: by the logarithm of the error if one is above 95 %.

    There 99.2 and 99.7 differ as 60 and 85 do. No error at all counts as 0.05 %.
    """
    ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]))
    if not any(accuracy > _BY_ERROR for accuracy in accuracies):
        return
    low, high = ax.get_ylim()[0], 100.0
    ax.set_yscale(
        "function",
        functions=(
            lambda percent: (
                -np.log(np.clip(100 + _NO_ERROR - np.asarray(percent), _NO_ERROR, None))
            ),
            lambda place: 100 + _NO_ERROR - np.exp(-np.asarray(place)),
        ),
    )
    ax.set_ylim(low, high)
    ax.set_yticks([tick for tick in _ERROR_TICKS if low <= tick <= high])
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(NullLocator())


def series_styles(names: Sequence[str]) -> dict[str, tuple[Any, str, str]]:
    """Colour, mark and line for named series: pre-training is black and dashed."""
    others = [name for name in names if name != "pre-trained"]
    colours = palette()(np.linspace(0, 1, max(len(others), 1)))
    styles: dict[str, tuple[Any, str, str]] = {"pre-trained": (BLACK, "o", "--")}
    for place, name in enumerate(others):
        styles[name] = (colours[place], MARKS[(place + 1) % len(MARKS)], "-")
    return styles


def handle(label: str, colour: Any = "0.3", mark: str = "", line: Any = "none") -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=colour, marker=mark, ls=line, lw=1.3, ms=5, label=label)


def legend_below(figure: Figure, handles: Sequence[Any], columns: int = 4, **options: Any) -> None:
    """One legend under all panels."""
    if handles:
        options = {"ncols": min(columns, len(handles)), "fontsize": 8.5} | options
        figure.legend(handles=list(handles), loc="outside lower center", frameon=False, **options)


def regime_handles(names: Iterable[str], *, lines: bool = False) -> list[Line2D]:
    """Entries for the regimes that occur, in their order."""
    found = set(names)
    return [
        handle(words, "0.3" if lines else colour, "" if lines else mark, line if lines else "none")
        for name, (colour, mark, line, words) in REGIMES.items()
        if name in found
    ]
