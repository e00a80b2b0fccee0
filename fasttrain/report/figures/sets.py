"""Accuracy on every evaluation set: what is learned of the test set, and of each probe set.

Special metrics of the papers are accuracies on such sets: images that show a patch alone
(arXiv 1907.04595), mislabelled training images (arXiv 1908.01878), one feature (arXiv 2410.22113).
"""

import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.chains import is_chain, path_name
from fasttrain.report.figures.chains import MOST_LINES, leaves_of, way_to
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import by, note_of_count, over_seeds, thinned
from fasttrain.report.figures.style import PLR_LABEL, frame, legend_below, panels, series_styles

MOST_SETS = 9
"""sets that one figure has room for"""


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: set, series, x (epoch of a chain, PLR of a grid), mean, std, n."""
    names = results.sets["set"].nunique()
    if names < 2:
        raise Missing(
            "The data have no probe sets beside the test set: docs/how-to/data.md has how."
        )
    if names > MOST_SETS:
        raise Missing(f"{names} sets are more than a figure has room for: load_sets has them.")
    rows = _of_chain(results) if is_chain(results) else _of_grid(results)
    means = over_seeds(rows, ["set", "series", "x"], ["accuracy"])
    means = means[means["n"] > 0].assign(by="epoch" if is_chain(results) else "plr")
    columns = ["by", "set", "series", "x", "mean", "std", "n"]
    return thinned(means.sort_values(["set", "series", "x"]), ["set", "series"])[columns]


def _of_chain(results: SetupResults) -> pd.DataFrame:
    legs, leaves = leaves_of(results)
    if leaves["path"].nunique() > MOST_LINES:
        raise Missing(f"{leaves['path'].nunique()} paths are too many for a figure: load_sets.")
    parents = dict(zip(legs["stage"], legs["parent"], strict=True))
    ways = [
        {"stage": stage, "series": path_name(path)}
        for leaf, path in zip(leaves["stage"], leaves["path"], strict=True)
        for stage in way_to(leaf, parents)
    ]
    return results.sets.merge(pd.DataFrame(ways), on="stage").rename(columns={"epoch": "x"})


def _of_grid(results: SetupResults) -> pd.DataFrame:
    """The last epoch of every stage, named as in other figures."""
    last = results.sets.sort_values("epoch").groupby(["stage", "set"], sort=False).tail(1)
    about = results.stages[["stage", "kind", "plr", "flr", "k"]]
    rows = last.merge(about, on="stage")
    words = {
        "pretrain": lambda row: "pre-trained",
        "finetune": lambda row: f"FLR {row['flr']:g}",
        "swa": lambda row: f"k = {row['k']}",
    }
    series = [words[row["kind"]](row) for row in rows.to_dict("records")]
    return rows.assign(series=series).rename(columns={"plr": "x"})


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    names = ["test", *sorted(set(table["set"]) - {"test"})]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = panels(rows, columns, sharey=True)
    styles = series_styles(list(table["series"].unique()))
    handles = {}
    by_epoch = table["by"].iloc[0] == "epoch"
    for ax, name in zip(axes, names, strict=False):
        frame(ax)
        ax.set_title(name, fontsize=9.5)
        ax.set(xlabel="epoch, all legs together" if by_epoch else PLR_LABEL)
        if not by_epoch:
            ax.set_xscale("log")
        for series, line in by(table[table["set"] == name], "series"):
            colour, mark, dashes = styles[series]
            style = {"color": colour, "ls": dashes, "marker": mark, "ms": 3.5, "lw": 1.2}
            every = max(1, len(line) // 8) if by_epoch else 1
            (drawn,) = ax.plot(line["x"], 100 * line["mean"], markevery=every, **style)
            if by_epoch and line["n"].max() > 1:
                low, high = (100 * (line["mean"] + s * line["std"]) for s in (-1, 1))
                ax.fill_between(line["x"], low, high, color=colour, alpha=0.15, lw=0)
            drawn.set_label(str(series))
            handles[series] = drawn
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel("accuracy (%)")
    legend_below(figure, list(handles.values()), columns=4)
    return figure


SETS = Drawing(
    name="sets",
    title="Accuracy on every evaluation set",
    caption=(
        "Accuracy on the test set and on each probe set of the data: of a grid at the end of every "
        "stage against PLR, of chains by epoch along every path. Means over seeds; bands of chains "
        "are ± sample standard deviation."
    ),
    published="LWM, accuracy on clean and on patch-only images",
    expected=(
        "what only small rates learn early, and large ones after their decay, shows on the "
        "set that isolates it"
    ),
    table=_table,
    draw=_draw,
    note=note_of_count,
)
