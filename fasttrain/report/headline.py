"""What a grid found, in sentences: the regimes, the best result, and whether it was worth it.

The question of the page is whether a large pre-training learning rate ends better than the best
that a small one gives: the highest result, pre-trained, fine-tuned or averaged, from a PLR of
regime 1 (arXiv 2410.22113 compares the same). Both sides are the best of many on the test set, as
is said; differences are taken seed by seed, since seeds share their initialisation.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.analysis.tables import Grid
from fasttrain.report.table import CELL_KEYS, best, floats, number, seed_means
from fasttrain.runs import ENDS

REGIME_NAMES = {
    "1": "regime 1 (convergence)",
    "2": "regime 2 (chaotic equilibrium)",
    "2A": "regime 2A (chaotic equilibrium, one basin)",
    "2B": "regime 2B (chaotic equilibrium, no common basin)",
    "3": "regime 3 (divergence)",
}


def headline(grid: Grid, regimes: pd.DataFrame, bounds: pd.DataFrame) -> list[str]:
    """The regimes' boundaries, the best result, its distance from the best small rate, the count.

    `regimes` and `bounds` are what `fasttrain.analysis.regimes` makes of the grid.
    Raises ValueError if the stages belong to several set-ups.
    """
    stages = grid.stages
    if stages.empty:
        return ["No stage has finished yet."]
    ends = {state: int((stages["state"] == state).sum()) for state in ENDS}
    count = f"Stages: {', '.join(f'{number} {state}' for state, number in ends.items())}."
    by_plr = regime_by_plr(regimes)
    return [*_best_sentences(stages, by_plr), *_regime_sentences(by_plr, regimes, bounds), count]


def regime_by_plr(regimes: pd.DataFrame) -> dict[float, str]:
    """The regime of each PLR, in ascending order; where seeds differ, all of theirs: "1/2A"."""
    found: dict[float, set[str]] = {}
    for row in regimes.sort_values("plr").to_dict("records"):
        found.setdefault(row["plr"], set()).add(row["regime"])
    return {plr: "/".join(sorted(names)) for plr, names in found.items()}


def regime_in_words(regime: str) -> str:
    """The words for a value of `regime_by_plr` that is not just "undecided"."""
    return REGIME_NAMES.get(regime, f"regime {regime}, by seed")


def result_words(cell: pd.Series) -> str:
    """A row of `seed_means` as "99.35 ± 0.16 %" with the number of seeds, or why not."""
    if cell["n"] == 0:
        return "no finite accuracy"
    if cell["n"] == 1:
        return f"{100 * cell['mean']:.2f} % (n = 1: no error bar)"
    return f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f} % (n = {cell['n']:.0f} seeds)"


def _regime_sentences(
    by_plr: dict[float, str], regimes: pd.DataFrame, bounds: pd.DataFrame
) -> list[str]:
    seen = {plr: set(names.split("/")) & REGIME_NAMES.keys() for plr, names in by_plr.items()}
    decided = sorted(set().union(*seen.values()))
    if not by_plr:
        return ["Regimes: no pre-training has finished, so nothing is known of them."]
    if not decided:
        reason = regimes.iloc[0]["reason"]
        return [f"Regimes: none of {len(by_plr)} PLRs is decided; for instance, {reason}"]
    if len(by_plr) == 1:
        ((plr, name),) = by_plr.items()
        found = regime_in_words(name)
        return [f"Regimes: the only PLR, {number(plr)}, is in {found}; boundaries need more PLRs."]
    if len(decided) == 1:
        plrs = [plr for plr, names in seen.items() if names]
        low, high = number(min(plrs)), number(max(plrs))
        where = f"at PLR {low}" if low == high else f"between PLR {low} and {high}"
        return [
            f"Regimes: every decided run, {where}, is in {REGIME_NAMES[decided[0]]}, "
            "so no boundary lies among them; other regimes need "
            f"{'larger' if decided[0] == '1' else 'other'} learning rates."
        ]
    return [_boundary_sentence(row) for row in bounds.to_dict("records")]


def _boundary_sentence(row: Mapping[Any, Any]) -> str:
    before, after = (REGIME_NAMES[name] for name in row["boundary"].split("|"))
    note = str(row["note"]).strip().rstrip(".")
    if re.search("no run is 2[AB]", note):
        return f"Boundary {row['boundary']}: not seen ({note})."
    if math.isnan(row["plr"]):
        return f"Boundary {row['boundary']}: not known{f': {note}' if note else ''}."
    seeds = int(row["num_seeds"])
    return (
        f"Boundary {row['boundary']}: {before} gives way to {after} at a PLR of about "
        f"{number(row['plr'])}, between {number(row['low'])} and {number(row['high'])} "
        f"({seeds} seed{'s' if seeds > 1 else ''}){f'; {note}' if note else ''}."
    )


def _best_sentences(stages: pd.DataFrame, by_plr: Mapping[Any, str]) -> list[str]:
    means = [seed_means(stages, kind).assign(kind=kind) for kind in CELL_KEYS]
    results = pd.concat(means, ignore_index=True)
    regime = results["plr"].map(lambda plr: by_plr.get(plr, "undecided"))
    results = results.assign(regime=regime)
    winner = best(results)
    if winner is None:
        return ["No result of which every seed is above chance: no best can be named."]
    first = (
        f"Best result of the grid, chosen on the test set and so optimistic: {_label(winner)}, "
        f"with test accuracy {result_words(winner)}{_epochs(stages, winner)}."
    )
    if winner["n"] > 1:
        first += " Here and below, ± is the sample standard deviation over seeds."
    is_small = regime == "1"
    # A PLR that may be of regime 1 is on neither side.
    is_large = ~regime.str.contains("1|undecided", regex=True)
    unsure = sorted(set(results.loc[~is_small & ~is_large, "plr"]))
    surely = " for all its seeds" if unsure else ""
    small, large = best(results[is_small]), best(results[is_large])
    if small is None:
        why = f"no PLR is in regime 1{surely}"
        if is_small.any():
            why = "every such result has a seed at chance or without a finite loss"
        second = f"Whether a large learning rate beats the best small one is not known: {why}."
    elif large is None:
        why = f"no PLR is beyond regime 1{surely}"
        if is_large.any():
            why = "every such result has a seed at chance or without a finite loss"
        second = f"Whether a large learning rate is better is not known: {why}."
    else:
        second = _verdict(stages, large, small)
    if unsure:
        names = ", ".join(number(plr) for plr in unsure)
        second += f" On neither side: PLR {names}, not decided or not the same for every seed."
    return [first, second]


def _verdict(stages: pd.DataFrame, large: pd.Series, small: pd.Series) -> str:
    """Whether the best of the larger PLRs beats the best of regime 1, as plainly either way."""
    points = _differences(stages, large, small)
    gap = 100 * (large["mean"] - small["mean"]) if points.empty else float(points.mean())
    cells = f"between {_label(large)}, and {_label(small)}"
    if len(points) < 2:
        why = "without a seed in common" if points.empty else "from one seed"
        return (
            f"Whether a large learning rate beats the best small one cannot be told {why}: "
            f"{_signed(gap)} points of accuracy {cells}."
        )
    spread = float(points.std())
    how = f"{_signed(gap)} ± {spread:.2f} points of accuracy, seed by seed, n = {len(points)}"
    if abs(gap) <= spread or gap == 0:
        start = "A large learning rate does not beat the best small one beyond the seed spread"
    elif gap > 0:
        start = "A large learning rate beats the best small one"
    else:
        start = "No large learning rate beats the best small one"
    return f"{start}: {how}, {cells}."


def _signed(points: float) -> str:
    # No "-0.00".
    return f"{round(points, 2) + 0.0:+.2f}".replace("-", "−")


def _label(cell: pd.Series) -> str:
    plr = f"PLR {number(cell['plr'])} (regime {cell['regime']})"
    if cell["kind"] == "finetune":
        return f"{plr} fine-tuned at FLR {number(cell['flr'])}"
    return (
        f"{plr} averaged over k = {number(cell['k'])}" if cell["kind"] == "swa" else f"{plr} alone"
    )


def _of_cell(stages: pd.DataFrame, cell: pd.Series) -> pd.DataFrame:
    rows = stages[stages["kind"] == cell["kind"]]
    for key in CELL_KEYS[str(cell["kind"])]:
        rows = rows[floats(rows[key]) == cell[key]]
    return rows


def _epochs(stages: pd.DataFrame, cell: pd.Series) -> str:
    epoch = np.max(floats(_of_cell(stages, cell)["epoch"]))
    return "" if math.isnan(epoch) else f" after {epoch:.0f} epochs"


def _differences(stages: pd.DataFrame, large: pd.Series, small: pd.Series) -> pd.Series:
    """Accuracy of one cell minus another's, in points, for each seed that both have."""
    both = _of_cell(stages, large), _of_cell(stages, small)
    a, b = (pd.Series(floats(rows["test_accuracy"]), index=rows["seed"].array) for rows in both)
    return 100 * (a - b).dropna()
