"""What a grid found, in sentences: the regimes, the best result, and whether it was worth it.

The question of the page is whether a large pre-training learning rate ends better than the best
that a small one gives: the highest result, pre-trained, fine-tuned or averaged, from a PLR of
regime 1 (arXiv 2410.22113 compares the same). Both sides are the best of many on the test set, as
is said; differences are taken seed by seed, since seeds share their initialisation.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.analysis.tables import Grid
from fasttrain.report.table import CELL_KEYS, best, floats, number, seed_means

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
    num_diverged = int((stages["state"] == "diverged").sum())
    count = f"{len(stages) - num_diverged} stages done, {num_diverged} diverged."
    by_plr = regime_by_plr(regimes)
    return [*_best_sentences(stages, by_plr), *_regime_sentences(by_plr, regimes, bounds), count]


def regime_by_plr(regimes: pd.DataFrame) -> dict[float, str]:
    """The regime of each PLR, in ascending order; where seeds differ, all of theirs: "1/2A"."""
    found: dict[float, set[str]] = {}
    for row in regimes.sort_values("plr").to_dict("records"):
        found.setdefault(row["plr"], set()).add(row["regime"])
    return {plr: "/".join(sorted(names)) for plr, names in found.items()}


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
    decided = sorted({regime for regime in by_plr.values() if regime in REGIME_NAMES})
    if not by_plr:
        return ["Regimes: no pre-training has finished, so nothing is known of them."]
    if not decided:
        reason = regimes.iloc[0]["reason"]
        return [f"Regimes: none of {len(by_plr)} PLRs is decided; for instance, {reason}"]
    if len(by_plr) == 1:
        (plr,) = by_plr
        found = REGIME_NAMES[decided[0]]
        return [f"Regimes: the only PLR, {number(plr)}, is in {found}; boundaries need more PLRs."]
    if len(decided) == 1:
        low, high = min(by_plr), max(by_plr)
        return [
            f"Regimes: every decided PLR between {number(low)} and {number(high)} is in "
            f"{REGIME_NAMES[decided[0]]}, so no boundary lies among them; other regimes need "
            f"{'larger' if decided[0] == '1' else 'other'} learning rates."
        ]
    return [_boundary_sentence(row) for row in bounds.to_dict("records")]


def _boundary_sentence(row: Mapping[Any, Any]) -> str:
    before, after = (REGIME_NAMES[name] for name in row["boundary"].split("|"))
    note = str(row["note"]).strip().rstrip(".")
    if math.isnan(row["plr"]):
        return f"Boundary {row['boundary']}: not known{f': {note}' if note else ''}."
    seeds = int(row["num_seeds"])
    return (
        f"Boundary {row['boundary']}: {before} gives way to {after} at a PLR of about "
        f"{number(row['plr'])}, between {number(row['low'])} and {number(row['high'])} "
        f"({seeds} seed{'s' if seeds > 1 else ''}){f'; {note}' if note else ''}."
    )


def _best_sentences(stages: pd.DataFrame, by_plr: dict[float, str]) -> list[str]:
    means = [seed_means(stages, kind).assign(kind=kind) for kind in CELL_KEYS]
    results = pd.concat(means, ignore_index=True)
    winner = best(results)
    if winner is None:
        return ["No result without a diverged seed: no best can be named."]
    found = [regime for plr, regime in by_plr.items() if plr == winner["plr"]]
    regime = found[0] if found else "undecided"
    sentences = [
        f"Best result of the grid, chosen on the test set and so optimistic: {_label(winner)} "
        f"(regime {regime}), with test accuracy {result_words(winner)}"
        f"{_epochs(stages, winner)}."
        + (
            ""
            if winner["n"] < 2
            else " Here and below, ± is the sample standard deviation over seeds."
        )
    ]
    is_small = results["plr"].map(lambda plr: by_plr.get(plr) == "1").astype(bool)
    small, large = best(results[is_small]), best(results[~is_small])
    if small is None:
        why = "no PLR of the grid is in regime 1" if not is_small.any() else "each has diverged"
        sentences.append(f"Whether it beats the best small learning rate is not known: {why}.")
    elif large is None:
        sentences.append("Every result is from a small learning rate (regime 1): none to compare.")
    else:
        sentences.append(_verdict(stages, large, small))
    return sentences


def _verdict(stages: pd.DataFrame, large: pd.Series, small: pd.Series) -> str:
    """Whether the best of the larger PLRs beats the best of regime 1, as plainly either way."""
    points = _differences(stages, large, small)
    pair = f"{_label(large)}, against {_label(small)}"
    if points.empty:
        gap = 100 * (large["mean"] - small["mean"])
        how = f"{_signed(gap)} points of accuracy, with no seed in common: no error bar"
    elif len(points) == 1:
        how = f"{_signed(points.iloc[0])} points of accuracy, n = 1: no error bar"
    else:
        how = (
            f"{_signed(points.mean())} ± {points.std():.2f} points of accuracy, seed by seed, "
            f"n = {len(points)}"
        )
    gap = 100 * (large["mean"] - small["mean"]) if points.empty else float(points.mean())
    spread = float(points.std()) if len(points) > 1 else 0.0
    if abs(gap) <= spread or gap == 0:
        start = "A larger learning rate does not beat the best small one beyond the seed spread"
    elif gap > 0:
        start = "A larger learning rate beats the best small one (the best result of regime 1)"
    else:
        start = "No larger learning rate beats the best small one (the best result of regime 1)"
    return f"{start}: {pair}, makes {how}."


def _signed(points: float) -> str:
    # No "-0.00".
    return f"{round(points, 2) + 0.0:+.2f}".replace("-", "−")


def _label(cell: pd.Series) -> str:
    plr = f"PLR {number(cell['plr'])}"
    if cell["kind"] == "finetune":
        return f"fine-tuned at FLR {number(cell['flr'])} from {plr}"
    if cell["kind"] == "swa":
        return f"an average of k = {number(cell['k'])} at {plr}"
    return f"pre-trained at {plr}"


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
