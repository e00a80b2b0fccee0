"""Which frequencies of an image a network uses: test accuracy when only one band is left.

arXiv 2410.22113, section 5: the best starts rely on few features.
"""

import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.rows import (
    analysed,
    by,
    chance_level,
    described,
    ends_and_averages,
    note_of_seeds,
    over_seeds,
)
from fasttrain.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    curve,
    handle,
    legend_below,
    panel_per_series,
)
from fasttrain.report.seed_means import number

_STYLES = ((BLACK, "o", "--"), (BLUE, "s", "-"), (GREEN, "^", "-"), (ORANGE, "D", "-"))
_STYLES += ((RED, "v", "-"), (PINK, "P", "-"), (SKY, "X", "-"))


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: series, band, low, high, plr, mean, std, n, and the chance level."""
    rows = analysed(results.bands, "accuracies per frequency band", "features")
    rows = ends_and_averages(described(results, rows))
    keys = ["place", "series", "band", "low", "high", "plr"]
    table = over_seeds(rows, keys, ["accuracy"]).drop(columns=["place", "quantity"])
    return table.assign(chance=chance_level(results))


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = list(dict.fromkeys(table["series"]))
    figure, axes = panel_per_series(names, table["plr"], shades, "test accuracy (%)", sharey=True)
    for ax, name in zip(axes, names, strict=True):
        rows = table[table["series"] == name]
        rows = rows.assign(mean=100 * rows["mean"], std=100 * rows["std"])
        for band, line in by(rows, "band"):
            curve(ax, line, *_STYLES[band % len(_STYLES)])
        if table["chance"].notna().any():
            ax.axhline(100 * table["chance"].iloc[0], color="0.55", ls=":", lw=1.2, zorder=1)
    handles = []
    for band, rows in by(table.sort_values("band"), "band"):
        limits = f"[{number(rows['low'].iloc[0])}, {number(rows['high'].iloc[0])})"
        label = "whole image" if band == 0 else f"frequencies {limits}"
        handles.append(handle(label, *_STYLES[band % len(_STYLES)]))
    if table["chance"].notna().any():
        handles.append(handle("chance level", "0.55", line=":"))
    legend_below(figure, handles, columns=3)
    return figure


BANDS = Drawing(
    name="bands",
    title="Frequency bands",
    caption=(
        "Test accuracy on images of which only one band of frequencies |kx| + |ky| is left (edges "
        "are those of a 32 x 32 image, scaled to the image's size), against PLR: at the end of "
        "pre-training, after fine-tuning at a low and a high FLR, and of the average."
    ),
    published="WDL, accuracy per frequency band",
    expected="the best starts rely on few bands, small rates on all of them",
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
