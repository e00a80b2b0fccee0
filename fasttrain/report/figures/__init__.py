"""The figures of a grid: each a table, a picture drawn from that table alone, and its caption."""

from fasttrain.report.figures.catalogue import DRAWINGS, drawings_of, drawn
from fasttrain.report.figures.drawing import Drawing, Drawn, Missing, Shades, paths_of, save

__all__ = [
    "DRAWINGS",
    "Drawing",
    "Drawn",
    "Missing",
    "Shades",
    "drawings_of",
    "drawn",
    "paths_of",
    "save",
]
