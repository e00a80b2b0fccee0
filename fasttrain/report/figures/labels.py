"""Labels of lines, one a PLR, which colours alone would tell apart: where one regime gives way to
another it matters which line is which."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes

from fasttrain.report.seed_means import number

_GAP = 0.055
"""between labels, in heights of the axes"""
_BACKGROUND = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}
"""of labels among clouds of points and other lines"""


def beside_boundaries(table: pd.DataFrame) -> list[float]:
    """The PLRs whose neighbour is of another regime, ascending.

    Args:
        table: rows with `plr` and `regime`, of which a PLR's first counts.
    """
    regime = table.groupby("plr")["regime"].first().sort_index()
    pairs = [(a, b) for a, b in pairwise(regime.index) if regime[a] != regime[b]]
    return sorted({float(plr) for pair in pairs for plr in pair})


def label_lines(
    ax: Axes, ends: Mapping[float, tuple[float, float]], *, inside: bool = False
) -> None:
    """Write PLRs right of the axes, each joined to the end of its line.

    To be called when all is drawn: the limits of the axes stay.

    Args:
        ends: one end of the line of each PLR.
        inside: write them a little right of the ends instead.
    """
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    to_axes = ax.transData + ax.transAxes.inverted()
    places = {plr: to_axes.transform(end) for plr, end in ends.items()}
    order = sorted(places, key=lambda plr: places[plr][1])
    heights = _apart([places[plr][1] for plr in order])
    for plr, height in zip(order, heights, strict=True):
        ax.annotate(
            number(plr),
            ends[plr],
            (places[plr][0] + 0.03 if inside else 1.035, height),
            textcoords="axes fraction",
            annotation_clip=False,
            fontsize=7,
            color="0.15",
            va="center",
            zorder=6,
            bbox=_BACKGROUND if inside else None,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkA": 1, "shrinkB": 0},
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, moved so that labels do not cover each other, and end below 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _GAP) if placed else height)
    top = 1.0
    for at in reversed(range(len(placed))):
        placed[at] = min(placed[at], top)
        top = placed[at] - _GAP
    return placed
