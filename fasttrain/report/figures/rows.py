"""Rows for the figures: what a stage is, means over seeds, curves with fewer points."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Missing
from fasttrain.report.seed_means import floats, number

MAX_POINTS = 5000
"""of all lines of a figure together: what keeps its file below 150 kB"""
MAX_POINTS_PER_LINE = 200


def needed(table: pd.DataFrame, what: str, provided_by: str) -> pd.DataFrame:
    """The table itself.

    Raises:
        Missing: it has no row.
    """
    if table.empty:
        raise Missing(f"{what}: {provided_by}.")
    return table


def analysed(table: pd.DataFrame, what: str, only: str) -> pd.DataFrame:
    """A table that `fasttrain analyse` fills.

    Raises:
        Missing: it has not been made.
    """
    return needed(table, f"No {what} yet", f"fasttrain analyse STORE --only {only} makes them")


def described(
    results: SetupResults,
    table: pd.DataFrame,
    columns: Sequence[str] = ("plr", "flr", "k", "seed", "kind"),
) -> pd.DataFrame:
    """The rows of `table` whose `stage` belongs to the grid, with what is known of that stage."""
    about = results.stages[["stage", *columns]].drop_duplicates("stage")
    return table.drop(columns=[name for name in columns if name in table]).merge(about, on="stage")


def over_seeds(rows: pd.DataFrame, keys: list[str], quantities: Sequence[str]) -> pd.DataFrame:
    """One row per combination of `keys` and quantity: mean, std and n over the rows.

    std is the sample standard deviation (divisor n - 1), NaN for one value; n counts finite values.
    """
    columns = {name: rows[name].to_numpy() for name in keys}
    columns |= {name: floats(rows[name]) for name in quantities}
    long = pd.DataFrame(columns).melt(keys, list(quantities), "quantity")
    groups = long.groupby(["quantity", *keys], sort=False, dropna=False)["value"]
    means = groups.agg(mean="mean", std="std", n="count").reset_index()
    return means.sort_values(["quantity", *keys], ignore_index=True)


def thinned(lines: pd.DataFrame, keys: list[str], *, by_ratio: bool = False) -> pd.DataFrame:
    """Every line (rows that share `keys`, in order) with fewer points, its first and last kept.

    All lines together keep about MAX_POINTS points. Kept are points at equal distances, or with
    `by_ratio` at equal ratios, counted from the first: for curves that move early.
    """
    if lines.empty:
        return lines
    groups = lines.groupby(keys, sort=False, dropna=False)
    limit = int(np.clip(MAX_POINTS // groups.ngroups, 8, MAX_POINTS_PER_LINE))
    place = groups.cumcount().to_numpy()
    length = groups[keys[0]].transform("size").to_numpy()
    kept = np.ones(len(lines), dtype=bool)
    for size in np.unique(length[length > limit]):
        spaced = np.geomspace(1, size, limit) - 1 if by_ratio else np.linspace(0, size - 1, limit)
        kept[length == size] = np.isin(place[length == size], np.unique(spaced.round()))
    return lines[kept].reset_index(drop=True)


def by(rows: pd.DataFrame, column: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(value, its rows) for every value of a column, in the order in which they appear."""
    yield from rows.groupby(column, sort=False)


def ends_and_averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of pre-training, fine-tuning at the lowest and highest FLR, and one k; with `series`.

    `series` names the kind: "pre-trained", "FLR 0.001", "k = 5"; `place` orders the names.
    """
    tuned, averaged = rows["kind"] == "finetune", rows["kind"] == "swa"
    flr = pd.Series(floats(rows["flr"]), index=rows.index)
    num = pd.Series(floats(rows["k"]), index=rows.index)
    # The published geometry is that of k = 5.
    ks = num[averaged].mode()
    published = ks[(ks - 5).abs() == (ks - 5).abs().min()].iloc[:1]
    chosen = ~tuned & ~averaged | tuned & flr.isin([flr[tuned].min(), flr[tuned].max()])
    chosen |= averaged & num.isin(published)
    names = np.select([tuned, averaged], ["FLR ", "k = "], "pre-trained").astype(object)
    names += [number(v) if v == v else "" for v in flr.where(tuned, num.where(averaged))]
    place = np.select([tuned, averaged], [1 + flr.fillna(0), 1e9], 0.0)
    return rows.assign(series=names, place=place)[chosen].sort_values("place", kind="stable")


def seeds_in_words(counts: pd.Series) -> str:
    """How many values the means are over."""
    found = counts[counts > 0]
    if found.empty:
        return "no finite value"
    low, high = int(found.min()), int(found.max())
    if high == 1:
        return "n = 1 seed: no error bars"
    return f"n = {high} seeds" if low == high else f"n = {low} to {high} seeds"


def note_of_seeds(table: pd.DataFrame) -> str:
    """The sentence on seeds, for tables of `over_seeds`."""
    return f"Means over seeds, bars ± sample standard deviation, {seeds_in_words(table['n'])}."


def note_of_count(table: pd.DataFrame) -> str:
    """The sentence on seeds, for means that are drawn without bars."""
    low, high = int(table["n"].min()), int(table["n"].max())
    return f"n = {high} seed{'s' if high > 1 else ''}." if low == high else f"n = {low} to {high}."


def chance_level(results: SetupResults) -> float:
    """The test accuracy of the best guess, the commonest class of the test set; NaN if unknown."""
    configuration = results.configuration
    balanced = 1 / configuration.get("num_classes", math.nan)
    return configuration.get("test_majority", balanced)


def regime_of_plr(regimes: pd.DataFrame) -> dict[float, str]:
    """The regime of each PLR: that of all its decided seeds ("2" for A and B), or "undecided"."""
    found = {plr: set(rows["regime"]) - {"undecided"} for plr, rows in by(regimes, "plr")}
    one = {plr: {"2"} if len(n) > 1 and n <= {"2", "2A", "2B"} else n for plr, n in found.items()}
    return {plr: next(iter(n)) if len(n) == 1 else "undecided" for plr, n in one.items()}


def with_regime(table: pd.DataFrame, regimes: pd.DataFrame) -> pd.DataFrame:
    """The table with the regime of every row's PLR."""
    names = regime_of_plr(regimes)
    return table.assign(regime=[names.get(plr, "undecided") for plr in table["plr"]])
