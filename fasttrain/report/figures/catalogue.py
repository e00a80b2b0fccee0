"""All figures in the order of the report, and what a grid has of them."""

from collections.abc import Iterable, Iterator

import pandas as pd

from fasttrain.analysis.regimes import shades
from fasttrain.analysis.tables import Grid
from fasttrain.report.figures.accuracy import ACCURACY
from fasttrain.report.figures.bands import BANDS
from fasttrain.report.figures.boundary import BOUNDARY
from fasttrain.report.figures.cells import CELLS
from fasttrain.report.figures.drawing import Drawing, Drawn, Missing
from fasttrain.report.figures.eigenvalues import EIGENVALUES
from fasttrain.report.figures.geometry import GEOMETRY, LINES
from fasttrain.report.figures.matrix import MATRIX
from fasttrain.report.figures.norms import HETEROGENEITY, HISTOGRAMS
from fasttrain.report.figures.overview import CURVES, OVERVIEW
from fasttrain.report.figures.phase import PHASE
from fasttrain.report.figures.sharpness import SHARPNESS
from fasttrain.report.figures.starts import STARTS
from fasttrain.settings.optimizers import KINDS

DRAWINGS: tuple[Drawing, ...] = (
    ACCURACY,
    CELLS,
    OVERVIEW,
    CURVES,
    PHASE,
    BOUNDARY,
    STARTS,
    GEOMETRY,
    LINES,
    MATRIX,
    HISTOGRAMS,
    HETEROGENEITY,
    SHARPNESS,
    EIGENVALUES,
    BANDS,
)


def drawn(
    grid: Grid, regimes: pd.DataFrame, drawings: Iterable[Drawing] = DRAWINGS
) -> Iterator[Drawn]:
    """Drawings of the grid: table and figure of each, or the sentence that says what is missing.

    `regimes` is `classify`'s table of the grid. Figures are drawn when they are asked for.
    """
    bands = shades(regimes)
    rate = KINDS[grid.configuration.get("optimizer", {}).get("kind", "sphere")].rate
    for drawing in drawings:
        try:
            yield Drawn(drawing, drawing.table(grid, regimes), bands, rate)
        except Missing as missing:
            yield Drawn(drawing, None, bands, rate, str(missing))
