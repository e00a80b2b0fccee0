"""What a start is worth: fine-tuning from one learning rate of each regime, and from none.

The single-stage columns of the two-stage test of arXiv 2410.22113. There the run without a start
is longer than the others; a grid has it at the end of pre-training, so that bars name their epochs.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Missing, Shades
from fasttrain.report.figures.rows import note_of_seeds, regime_of_plr
from fasttrain.report.figures.style import GREY, REGIMES, frame, legend_below, panels
from fasttrain.report.seed_means import number, seed_means

# By falling PLR, as the published columns (which have no 3); "2" where A and B cannot be told.
_REGIMES = ("3", "2B", "2A", "2", "1")
_HATCHES = {"none": "", "3": "xx", "2B": "..", "2A": "//", "2": "//", "1": "\\\\"}


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """One row per bar: flr, start ("none" or a regime), plr, epochs (in all), mean, std, n."""
    if regimes.empty or not (results.stages["kind"] == "finetune").any():
        raise Missing("No finished fine-tuning to compare: run fasttrain sweep with an --flr.")
    tuned, trained = seed_means(results.stages, "finetune"), seed_means(results.stages, "pretrain")
    ends = dict.fromkeys((tuned["flr"].min(), tuned["flr"].max()))
    shown = tuned[tuned["flr"].isin(list(ends))]
    middles = _middles(regime_of_plr(regimes), set(shown["plr"]))
    if not middles:
        raise Missing(
            "No PLR whose seeds agree on a regime has been fine-tuned at the lowest or highest "
            "FLR: take other PLRs or more epochs in fasttrain sweep."
        )
    rows, epochs = [], results.stages.groupby("kind")["epoch"].max()
    for flr in ends:
        cells = [("none", trained[trained["plr"] == flr])]
        at_flr = shown[shown["flr"] == flr]
        cells += [(name, at_flr[at_flr["plr"] == plr]) for name, plr in middles.items()]
        for start, cell in cells:
            length = epochs["pretrain" if start == "none" else "finetune"]
            about = {"flr": flr, "start": start, "epochs": length}
            rows += [about | row for row in cell.to_dict("records")]
    return pd.DataFrame(rows)[["flr", "start", "plr", "epochs", "mean", "std", "n"]]


def _middles(regimes: dict[float, str], tuned: set[float]) -> dict[str, float]:
    """Of each regime the PLR in the middle of those in `tuned` (the lower of two)."""
    found = {}
    for name in _REGIMES:
        plrs = sorted(plr for plr, regime in regimes.items() if regime == name and plr in tuned)
        if plrs:
            found[name] = plrs[(len(plrs) - 1) // 2]
    return found


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, (ax,) = panels(1, 1)
    frame(ax)
    ax.grid(False, axis="x")
    starts = [name for name in ("none", *_REGIMES) if name in set(table["start"])]
    flrs = sorted(table["flr"].unique())
    width = 0.8 / len(starts)
    handles = []
    for place, start in enumerate(starts):
        bars = table[table["start"] == start].set_index("flr").reindex(flrs)
        colour = GREY if start == "none" else REGIMES[start][0]
        plr, epochs = table.loc[table["start"] == start, ["plr", "epochs"]].iloc[0]
        label = "none: trained at the FLR" if start == "none" else f"{start}: PLR {number(plr)}"
        label += f", {epochs:.0f} epochs"
        x = np.arange(len(flrs)) + (place - (len(starts) - 1) / 2) * width
        style = {"color": colour, "edgecolor": "white", "hatch": _HATCHES[start], "label": label}
        mean, std = 100 * bars["mean"].to_numpy(), 100 * bars["std"].to_numpy()
        lines = {"ecolor": "0.2", "capsize": 3, "error_kw": {"elinewidth": 1}}
        handles.append(ax.bar(x, np.nan_to_num(mean), 0.94 * width, yerr=std, **style, **lines))
        for at, value, spread in zip(x, mean, np.nan_to_num(std), strict=True):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            top = 0 if np.isnan(value) else value + spread
            ax.text(at, top + 1, text, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(np.arange(len(flrs)), [f"FLR {number(flr)}" for flr in flrs])
    ax.set(ylabel="test accuracy (%)", ylim=(0, 112), yticks=range(0, 101, 20))
    legend_below(figure, handles, columns=2)
    return figure


STARTS = Drawing(
    name="starts",
    title="Where fine-tuning starts",
    caption=(
        "Test accuracy at the lowest and highest FLR, from one pre-training of each regime (the "
        "middle one of its PLRs); grey: trained at the FLR from the initialisation, where the FLR "
        "is among the PLRs (– where it is not). The key has the epochs of a bar in all: grey ones "
        "have those of pre-training alone, in the published figure 500, beside 400. It has no "
        "regime 3, and one more column, two pre-trainings in a chain (PLR "
        "1e-2, then 1e-3): that needs a second stage of pre-training, which a grid does not train."
    ),
    published="WDL, two-stage test",
    expected=(
        "from regime 2A both FLRs end high; from regime 1, and from no start, the low "
        "FLR ends lower"
    ),
    table=_table,
    draw=_draw,
    note=note_of_seeds,
)
