"""How unequal the norms of the filters are: histograms, their spread, and how many count.

A filter of norm n_i has the effective learning rate ELR rho^2 / n_i^2, so unequal norms are unequal
rates (arXiv 2410.22113, appendix on the third regime; arXiv 2209.03695, section 4).
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Shades
from fasttrain.report.figures.labels import beside_boundaries, label_lines
from fasttrain.report.figures.rows import (
    analysed,
    by,
    described,
    ends_and_averages,
    note_of_seeds,
    over_seeds,
    regime_of_plr,
    thinned,
    with_regime,
)
from fasttrain.report.figures.style import (
    GREY,
    PLR_LABEL,
    REGIMES,
    curve,
    frame,
    legend_below,
    panels,
    plr_axes,
    plr_bar,
    plr_colours,
    series_styles,
)
from fasttrain.report.seed_means import number


def _histograms(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Shares of the filters per bin: panel, plr, regime, log10_low, log10_high, share, n.

    The PLR is the largest with a histogram of every panel that any PLR has.
    """
    rows = analysed(results.histograms, "histograms of norms", "norms")
    rows = described(results, rows[rows["level"] == "filter"])
    start = rows.groupby("stage")["epoch"].transform("min") == rows["epoch"]
    start &= (rows["kind"] == "pretrain") & (
        rows.groupby("stage")["epoch"].transform("nunique") > 1
    )
    named = ends_and_averages(rows[rows["kind"] != "swa"])
    named.loc[start.reindex(named.index), "place"] = -1.0
    panels_of = named.groupby("plr")["place"].nunique()
    plr = float(panels_of[panels_of == panels_of.max()].index.max())
    regime = regime_of_plr(regimes).get(plr, "undecided")
    named = named[named["plr"] == plr]
    names = np.where(
        named["place"] < 0,
        "initialisation",
        np.where(named["place"] == 0, "after pre-training", "then " + named["series"]),
    )
    groups = named.assign(panel=names).groupby(
        ["place", "panel", "log10_low", "log10_high"], sort=True
    )
    counts = groups.agg(count=("count", "sum"), n=("stage", "nunique")).reset_index()
    counts["share"] = counts["count"] / counts.groupby("place")["count"].transform("sum")
    columns = ["panel", "plr", "regime", "log10_low", "log10_high", "share", "n"]
    return counts.assign(plr=plr, regime=regime)[columns]


def _draw_histograms(table: pd.DataFrame, shades: Shades) -> Figure:
    names = list(dict.fromkeys(table["panel"]))
    figure, axes = panels((len(names) + 1) // 2, min(2, len(names)), sharex=True)
    plr, regime = table["plr"].iloc[0], table["regime"].iloc[0]
    for ax, name in zip(axes, names, strict=False):
        rows = table[table["panel"] == name]
        frame(ax)
        colour = GREY if name == "initialisation" else REGIMES[regime][0]
        edges = [*rows["log10_low"], rows["log10_high"].iloc[-1]]
        ax.stairs(100 * rows["share"], edges, fill=True, color=colour, alpha=0.5)
        ax.stairs(100 * rows["share"], edges, color=colour, lw=1)
        ax.set_title(
            name if name == "initialisation" else f"{name} (PLR {number(plr)})", fontsize=9
        )
        ax.set_xlim(table["log10_low"].min(), table["log10_high"].max())
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(names) - 2) : len(names)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("log10(filter norm / radius)")
    for ax in axes[::2]:
        ax.set_ylabel("filters (%)")
    return figure


def _note_of_histograms(table: pd.DataFrame) -> str:
    regime, count = table["regime"].iloc[0], table["n"].max()
    where = "of undecided regime" if regime == "undecided" else f"of regime {regime}"
    seeds = f"{count} seed{'s' if count > 1 else ''} together"
    return f"Here PLR {number(table['plr'].iloc[0])}, {where}; {seeds}."


def _heterogeneity(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: view (epoch, end), quantity, series, plr, epoch, mean, std, n, regime."""
    rows = analysed(results.norms, "norms of filters", "norms")
    rows = described(results, rows[rows["level"] == "filter"])
    rows = rows.assign(effective_share=rows["effective_groups"] / rows["num_groups"])
    quantities = ["spread", "effective_share"]
    during = over_seeds(rows[rows["kind"] == "pretrain"], ["plr", "epoch"], quantities)
    during = thinned(during[during["n"] > 0], ["quantity", "plr"])
    last = rows.sort_values("epoch").groupby("stage").tail(1)
    last = ends_and_averages(last[last["kind"] != "swa"])
    ends = over_seeds(last, ["place", "series", "plr"], quantities).drop(columns="place")
    parts = [during.assign(view="epoch", series="pre-trained"), ends.assign(view="end")]
    columns = ["view", "quantity", "series", "plr", "epoch", "mean", "std", "n"]
    return with_regime(pd.concat(parts, ignore_index=True)[columns], regimes)


def _draw_heterogeneity(table: pd.DataFrame, shades: Shades) -> Figure:
    figure, axes = panels(2, 2)
    plrs = sorted(table["plr"].unique())
    colours, labelled = plr_colours(plrs), beside_boundaries(table)
    plr_axes(axes[2:], plrs, shades)
    styles = series_styles(list(dict.fromkeys(table["series"])))
    labels = {
        "spread": ("spread of log10 norms", 1),
        "effective_share": ("effective share of filters (%)", 100),
    }
    for place, (quantity, (label, scale)) in enumerate(labels.items()):
        over, against = axes[place], axes[2 + place]
        rows = table[table["quantity"] == quantity]
        frame(over)
        over.set(xlabel="epoch of pre-training", ylabel=label)
        last = {}
        for plr, line in by(rows[rows["view"] == "epoch"], "plr"):
            dashes = REGIMES[line["regime"].iloc[0]][2]
            style = {"color": colours.to_rgba(plr), "lw": 1.2, "ls": dashes}
            over.plot(line["epoch"], scale * line["mean"], **style)
            if plr in labelled:
                last[plr] = (line["epoch"].iloc[-1], scale * line["mean"].iloc[-1])
        label_lines(over, last)
        ends = rows[rows["view"] == "end"]
        ends = ends.assign(mean=scale * ends["mean"], std=scale * ends["std"])
        for series, line in by(ends, "series"):
            curve(against, line, *styles[series], label=series)
        against.set(xlabel=PLR_LABEL, ylabel=label)
        against.set_ylim(bottom=0)
    plr_bar(figure, axes[:2], colours)
    handles, _ = axes[2].get_legend_handles_labels()
    legend_below(figure, handles)
    return figure


HISTOGRAMS = Drawing(
    name="norms",
    title="Norms of the filters",
    caption=(
        "How the norms of the filters are distributed at the initialisation, at the end of "
        "pre-training at the largest PLR whose end points have a state, and after fine-tuning from "
        "there at a low and a high FLR: 50 bins of log10(norm / radius) over [-6, 0], what lies "
        "outside counted in the first and last. Vertical scales differ."
    ),
    published="WDL, norm histograms of the third regime",
    expected="regime 3 spreads the norms over decades; a low FLR keeps that, a high one undoes it",
    table=_histograms,
    draw=_draw_histograms,
    note=_note_of_histograms,
)
HETEROGENEITY = Drawing(
    name="heterogeneity",
    title="Heterogeneity of the norms",
    caption=(
        "Standard deviation of the filters' log10 norms, and their effective share, "
        "(Σ n²)² / Σ n⁴ divided by their number: by epoch of pre-training (one line per PLR, its "
        "style the regime, PLRs beside a boundary labelled), and at the end of pre-training and "
        "of fine-tuning against PLR."
    ),
    published="TR, norms of the layers; WDL, norms in the third regime (histograms there)",
    expected=(
        "in regime 3 norms, and with them effective rates, become unequal; in regimes 1 and "
        "2 they stay alike"
    ),
    table=_heterogeneity,
    draw=_draw_heterogeneity,
    note=note_of_seeds,
)
