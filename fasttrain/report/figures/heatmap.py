"""The grid itself as a picture: one coloured cell per pair of learning rates.

The learning rates of a grid are rarely evenly spaced, so both axes are categorical: one step per
value, whatever its distance from the next.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Missing, Picture, Shades
from fasttrain.report.figures.rows import seeds_in_words, with_regime
from fasttrain.report.figures.style import REGIMES
from fasttrain.report.seed_means import at_least, candidates, number, seed_means

# More columns than this and the numbers in the cells no longer fit.
MAX_ANNOTATED_COLUMNS = 14
_HATCH = {"hatch": "////", "ec": "0.5", "lw": 0.0}


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """`seed_means` of the fine-tuned stages, and the regime of the PLR."""
    if results.stages.empty or (means := seed_means(results.stages, "finetune")).empty:
        raise Missing("No fine-tuning has finished yet: run fasttrain sweep with an --flr.")
    return with_regime(means, regimes)


def _draw(means: pd.DataFrame, shades: Shades) -> Figure:
    """Mean test accuracy (%), PLR across and FLR upwards."""
    plrs, flrs = sorted(means["plr"].unique()), sorted(means["flr"].unique())
    # (num_flr, num_plr)
    grid = {
        name: means.pivot(index="flr", columns="plr", values=name)
        .reindex(index=flrs, columns=plrs)
        .to_numpy(dtype=float)
        for name in ("mean", "std", "n", "num_stages", "num_at_chance", "num_non_finite")
    }
    accuracy = np.ma.masked_invalid(100 * grid["mean"])
    annotated = len(plrs) <= MAX_ANNOTATED_COLUMNS
    width = max(5.0, (0.68 if annotated else 0.3) * len(plrs))
    height = max(1.5, (0.5 if annotated else 0.3) * len(flrs))
    figure = Picture(figsize=(width + 2.0, height + 1.7), layout="constrained")
    ax = figure.subplots()
    lowest = _lowest_colour(accuracy, grid)
    mesh = ax.pcolormesh(accuracy, cmap="viridis", edgecolors="white", linewidth=1.0, vmin=lowest)
    # Hundreds of cells are smaller as pixels than as paths.
    mesh.set_rasterized(not annotated)
    # A single value spans no scale.
    if accuracy.count() > 1:
        below = "min" if lowest > accuracy.min() else "neither"
        figure.colorbar(mesh, ax=ax, label="mean test accuracy (%)", pad=0.02, extend=below)
    _categories(ax, plrs, flrs, vertical_labels=not annotated)
    _name_regimes(ax, means.drop_duplicates("plr").sort_values("plr")["regime"])
    _mark_cells(ax, grid)
    if annotated:
        _annotate_cells(ax, mesh, accuracy, 100 * grid["std"])
    winners = at_least(means, float(candidates(means)["mean"].max()))
    for _, winner in winners.iterrows():
        corner = (plrs.index(winner["plr"]), flrs.index(winner["flr"]))
        ax.add_patch(
            Rectangle(corner, 1, 1, fill=False, ec="tab:red", lw=2.5, zorder=4, clip_on=False)
        )
    _cell_legend(figure, grid, len(winners))
    return figure


def _lowest_colour(accuracy: np.ma.MaskedArray, grid: dict[str, np.ndarray]) -> float:
    """What the colours begin at: the least accuracy but of cells that are at chance altogether.

    Those take the lowest colour, and none from the others; unless there are no others.
    """
    above = accuracy[grid["num_at_chance"] < grid["num_stages"]]
    return float((above if above.count() else accuracy).min()) if accuracy.count() else 0.0


def _categories(ax: Axes, plrs: list, flrs: list, vertical_labels: bool) -> None:
    rotation = 90 if vertical_labels else 0
    labels = [number(plr) for plr in plrs]
    ax.set_xticks(np.arange(len(plrs)) + 0.5, labels, rotation=rotation, fontsize=9)
    ax.set_yticks(np.arange(len(flrs)) + 0.5, [number(flr) for flr in flrs], fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="pre-training learning rate (PLR)", ylabel="fine-tuning\nlearning rate (FLR)")


def _name_regimes(ax: Axes, regimes: pd.Series) -> None:
    """A strip above the cells, coloured and named by the regime of each column."""
    across = ax.get_xaxis_transform()
    for place, name in enumerate(regimes):
        strip = Rectangle((place, 1.02), 1, 0.08, transform=across, clip_on=False)
        strip.set(fc=REGIMES[name][0], alpha=0.4, lw=0)
        ax.add_patch(strip)
        short = "?" if name == "undecided" else name
        label = {"ha": "center", "va": "center", "fontsize": 7.5, "transform": across}
        ax.text(place + 0.5, 1.06, short, **label)


def _marked(grid: dict[str, np.ndarray]) -> np.ndarray:
    """Cells with a seed that is at chance or has no finite loss."""
    return (grid["num_at_chance"] > 0) | (grid["num_non_finite"] > 0)


def _mark_cells(ax: Axes, grid: dict[str, np.ndarray]) -> None:
    for row, column in np.argwhere(_marked(grid)):
        face = "none" if grid["n"][row, column] else "0.85"
        ax.add_patch(Rectangle((column, row), 1, 1, fc=face, **_HATCH))
        # The colour of an edge is also that of the hatching: the gap to the next cell comes after.
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, ec="white", lw=1.0))


def _annotate_cells(ax: Axes, mesh: QuadMesh, accuracy: np.ma.MaskedArray, std: np.ndarray) -> None:
    for row, column in np.argwhere(~np.ma.getmaskarray(accuracy)):
        face = mesh.to_rgba(accuracy[row, column])
        red, green, blue, _ = face
        colour = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        spread = "" if np.isnan(std[row, column]) else f"\n± {std[row, column]:.1f}"
        text = f"{accuracy[row, column]:.1f}{spread}"
        label = ax.text(column + 0.5, row + 0.5, text, color=colour, fontsize=8.5, zorder=5)
        # The box keeps the hatching of a cell away from its numbers.
        label.set(ha="center", va="center", bbox={"fc": face, "ec": "none", "pad": 1.0})


def _cell_legend(figure: Figure, grid: dict[str, np.ndarray], num_best: int) -> None:
    marked, lost = _marked(grid), grid["n"] == 0
    handles = []
    if num_best:
        label = f"best cell{'s' if num_best > 1 else ''} (on the test set)"
        handles.append(Patch(fc="none", ec="tab:red", lw=2, label=label))
    if (marked & ~lost).any():
        label = "a seed at chance or without a finite loss"
        handles.append(Patch(fc="none", label=label, **_HATCH))
    if (marked & lost).any():
        handles.append(Patch(fc="0.85", label="no finite accuracy", **_HATCH))
    if (np.isnan(grid["mean"]) & ~marked).any():
        handles.append(Patch(fc="white", ec="0.7", label="not finished"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=2 if figure.get_figwidth() < 9 else 4,
            frameon=False,
        )


def _note(means: pd.DataFrame) -> str:
    annotated = means["plr"].nunique() <= MAX_ANNOTATED_COLUMNS
    spread = " ± sample standard deviation" if annotated else ""
    return f"Means over seeds{spread}, {seeds_in_words(means['n'])}."


CELLS = Drawing(
    name="heatmap",
    title="Every pair of learning rates",
    caption=(
        "Mean test accuracy after fine-tuning, PLR across and FLR upwards, one step per value. The "
        "best (highest mean, no hatching) are outlined. Hatched: a seed is at chance or has no "
        "finite loss; grey: no finite accuracy; blank: not finished. Colours begin above cells "
        "that are at chance for every seed. The strip names the regime of each PLR."
    ),
    published="WDL, test accuracy against PLR for each FLR, as one picture",
    expected="the best columns lie just above the boundary 1|2 whatever the row",
    table=_table,
    draw=_draw,
    note=_note,
)
