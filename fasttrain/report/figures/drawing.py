"""What a figure is: a table taken from the grid, a picture of that table, words, and three files.

Nothing here or in the modules beside touches global state (no pyplot), and the same table gives
the same bytes.
"""

import functools
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, LogFormatterSciNotation

from fasttrain.analysis.tables import SetupResults
from fasttrain.machine.files import write_atomically
from fasttrain.report.figures.svg import compact

Shades = list[tuple[str, float, float]]
"""(regime, from PLR, to PLR), as `fasttrain.analysis.regimes.shades` gives them"""
_DPI = 150
_SCREEN_DPI = 100
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture(Figure):
    """A figure that a notebook shows, whether or not pyplot has been imported there."""

    def _repr_png_(self) -> bytes:
        return _rendered(self, "png", {"Software": None}, _SCREEN_DPI)


class Missing(Exception):
    """What a figure needs and the grid does not have, and what provides it: one sentence."""


def no_note(table: pd.DataFrame) -> str:
    """For drawings whose caption says everything."""
    return ""


@dataclass(frozen=True)
class Drawing:
    """A figure that any grid may have."""

    name: str
    """file stem"""
    title: str
    caption: str
    """what is drawn, and what bars and marks mean"""
    published: str
    """the figure it corresponds to, by its paper and content"""
    expected: str
    """what it shows if the papers are right"""
    table: Callable[[SetupResults, pd.DataFrame], pd.DataFrame]
    """what is drawn, from the grid and its regimes (`classify`); raises Missing"""
    draw: Callable[[pd.DataFrame, Shades], Figure]
    """the figure, from that table alone and the regimes to shade"""
    note: Callable[[pd.DataFrame], str] = no_note
    """what the caption says of this table: how many seeds, what is left out"""


@dataclass(frozen=True)
class Drawn:
    """A drawing of one grid: a table and its figure, or what is missing."""

    drawing: Drawing
    table: pd.DataFrame | None
    shades: Shades
    rate: str
    """what its learning rates are: effective or raw"""
    missing: str = ""
    """why there is no table; empty if there is one"""

    @functools.cached_property
    def figure(self) -> Figure:
        """The picture, drawn when it is first asked for.

        Raises:
            Missing: there is no table.
        """
        if self.table is None:
            raise Missing(self.missing)
        figure = self.drawing.draw(self.table, self.shades)
        _plain_decades(figure)
        _say_rate(figure, self.rate)
        return figure

    @property
    def caption(self) -> str:
        """What is drawn here."""
        note = "" if self.table is None else self.drawing.note(self.table)
        return f"{self.drawing.caption} {note}".strip()

    @property
    def csv(self) -> bytes:
        """What is drawn, as text."""
        return b"" if self.table is None else self.table.to_csv(index=False).encode()


def paths_of(stem: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The files of a figure: picture in pixels and as vectors, and what is drawn."""
    stem = Path(stem)
    png, svg, csv = (stem.with_name(stem.name + suffix) for suffix in (".png", ".svg", ".csv"))
    return png, svg, csv


def save(drawn: Drawn, stem: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Write `paths_of` the stem, a .png of 150 dpi among them, the same bytes each time.

    Raises:
        Missing: there is nothing to draw.
    """
    png, svg, csv = paths_of(stem)
    figure = drawn.figure
    # Without a salt the identifiers in an SVG file are random.
    with rc_context({"svg.hashsalt": "fasttrain", "svg.fonttype": "none"}):
        # Places are found once, for both files.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        write_atomically(png, _rendered(figure, "png", {"Software": None}))
        vector = _rendered(figure, "svg", {"Date": None}).decode()
        write_atomically(svg, compact(vector).encode())
    write_atomically(csv, drawn.csv)
    return png, svg, csv


def _say_rate(figure: Figure, rate: str) -> None:
    """Name the learning rates of axes by what they are."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            label = axis.get_label_text()
            axis.set_label_text(label.replace("learning rate", f"{rate} learning rate"))


def _plain_decades(figure: Figure) -> None:
    """Powers of ten as plain text: typesetting them takes a quarter of the time of a figure."""
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
            axis.set_major_formatter(FuncFormatter(_decade))
            axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def _decade(value: float, _: int | None = None) -> str:
    return "10" + f"{math.log10(value):.0f}".translate(_SUPERSCRIPTS) if value > 0 else ""


def _rendered(figure: Figure, kind: str, metadata: dict[str, None], dpi: int = _DPI) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    return content.getvalue()
