"""How many features a network uses: its accuracy where one feature alone is informative.

Probe sets `feature-01`, `feature-02`, ... have one feature each that tells the classes apart. Which
one a run prefers is chance, so that their accuracies are sorted within a run before the mean over
runs (arXiv 2410.22113, synthetic example).
"""

import re

import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import is_chain
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.rows import by, ends_and_averages, needed, note_of_seeds, over_seeds
from fasttrain.report.figures.style import curve, handle, legend_below, palette, panel_per_series

FEATURE = re.compile(r"feature-\d+")
CHANCE = 0.5
NAMED = (1, 2, 3)
"""ranks with a line of their own in the legend"""


def of_features(results: SetupResults) -> bool:
    """Whether the probe sets of a grid of PLR x FLR are those of single features."""
    names = set(results.sets["set"]) - {"test"}
    return len(names) > 1 and all(map(FEATURE.fullmatch, names)) and not is_chain(results)


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over runs: series, rank (1 is the best feature of a run), plr, mean, std, n."""
    probes = results.sets[results.sets["set"] != "test"]
    needed(probes, "No stage has a test pass yet", "run fasttrain sweep")
    last = probes[probes["epoch"] == probes.groupby("stage")["epoch"].transform("max")]
    about = results.stages[["stage", "kind", "plr", "flr", "k", "seed"]]
    rows = ends_and_averages(last.merge(about, on="stage"))
    ranks = rows.groupby("stage")["accuracy"].rank(method="first", ascending=False)
    rows = rows.assign(rank=ranks.astype("int64"))
    table = over_seeds(rows, ["place", "series", "rank", "plr"], ["accuracy"])
    return table.drop(columns=["place", "quantity"])


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = list(dict.fromkeys(table["series"]))
    label = "accuracy on one feature (%)"
    figure, axes = panel_per_series(names, table["plr"], shades, label, sharey=True)
    num_ranks = int(table["rank"].max())
    colours = palette().reversed()
    handles = []
    for ax, name in zip(axes, names, strict=True):
        rows = table[table["series"] == name]
        rows = rows.assign(mean=100 * rows["mean"], std=100 * rows["std"])
        # The best one last, so that it lies on top.
        for rank, line in by(rows.sort_values("rank", ascending=False), "rank"):
            colour = colours((num_ranks - rank) / max(1, num_ranks - 1))
            if rank > NAMED[0]:
                line = line.assign(std=float("nan"))
            curve(ax, line, colour, "o" if rank in NAMED else "", size=3.5)
        ax.axhline(100 * CHANCE, color="0.55", ls=":", lw=1.2, zorder=1)
    for rank in NAMED[: min(len(NAMED), num_ranks)]:
        words = {1: "best feature of a run", 2: "second", 3: "third"}[rank]
        handles.append(handle(words, colours((num_ranks - rank) / max(1, num_ranks - 1)), "o", "-"))
    if num_ranks > NAMED[-1]:
        handles.append(handle(f"4th to {num_ranks}th", colours(0.0), line="-"))
    handles.append(handle("chance level", "0.55", line=":"))
    legend_below(figure, handles, columns=5)
    return figure


SPARSITY = Drawing(
    name="sparsity",
    title="Sparsity of the learnt features",
    caption=(
        "Accuracy where one feature alone tells the classes apart, against PLR: sorted within "
        "every run from its best feature to its worst, then averaged over runs; bars are those of "
        "the best one."
    ),
    published="WDL, feature sparsity of the synthetic example",
    expected=(
        "just above the boundary 1|2 one feature carries the network; small rates use many, "
        "each a little"
    ),
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
