"""All figures in the order of the report, and what a grid has of them."""

from collections.abc import Iterable, Iterator

import pandas as pd

from fasttrain.analysis.regimes import shades
from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import is_chain
from fasttrain.report.figures.accuracy import ACCURACY
from fasttrain.report.figures.angles import MATRIX
from fasttrain.report.figures.bands import BANDS
from fasttrain.report.figures.chains import CHAIN_CURVES, CHAIN_ENDS
from fasttrain.report.figures.convergence import BOUNDARY
from fasttrain.report.figures.dimensions import DIMENSIONS
from fasttrain.report.figures.drawing import Drawing, Drawn, Missing
from fasttrain.report.figures.eigenvalues import EIGENVALUES
from fasttrain.report.figures.geometry import GEOMETRY, LINES
from fasttrain.report.figures.heatmap import CELLS
from fasttrain.report.figures.norms import HETEROGENEITY, HISTOGRAMS
from fasttrain.report.figures.phase import PHASE
from fasttrain.report.figures.regimes import CURVES, OVERVIEW
from fasttrain.report.figures.sets import SETS
from fasttrain.report.figures.sharpness import SHARPNESS
from fasttrain.report.figures.sparsity import SPARSITY, of_features
from fasttrain.report.figures.starts import STARTS
from fasttrain.report.figures.transfer import TRANSFER
from fasttrain.settings.optimizers.kinds import KINDS

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


CHAIN_DRAWINGS: tuple[Drawing, ...] = (CHAIN_CURVES, CHAIN_ENDS)
"""those of chains of legs"""


def drawings_of(results: SetupResults) -> tuple[Drawing, ...]:
    """The figures that fit what a set-up was trained for, and on."""
    fitting = CHAIN_DRAWINGS if is_chain(results) else DRAWINGS
    if len(results.transfer):
        fitting = (*fitting, TRANSFER)
    if of_features(results):
        return (ACCURACY, SPARSITY, *fitting[1:])
    if results.sets["set"].nunique() > 1:
        fitting = (*fitting, SETS)
    return (*fitting, DIMENSIONS) if len(results.dimensions) else fitting


def drawn(
    results: SetupResults, regimes: pd.DataFrame, drawings: Iterable[Drawing] | None = None
) -> Iterator[Drawn]:
    """Drawings of the grid: table and figure of each, or the sentence that says what is missing.

    `regimes` is `classify`'s table of the grid. Figures are drawn when they are asked for.

    Args:
        drawings: those of the grid's experiment if not given.
    """
    bands = shades(regimes)
    rate = KINDS[results.configuration.get("optimizer", {}).get("kind", "sphere")].rate
    for drawing in drawings_of(results) if drawings is None else drawings:
        try:
            yield Drawn(drawing, drawing.table(results, regimes), bands, rate)
        except Missing as missing:
            yield Drawn(drawing, None, bands, rate, str(missing))
