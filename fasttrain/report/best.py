"""The best result of a grid, in sentences, and whether a large learning rate gave it.

The question of the page is whether a large pre-training learning rate ends better than the best
that a small one gives: the highest result, pre-trained, fine-tuned or averaged, from a PLR of
regime 1 (arXiv 2410.22113 compares the same). Both sides are the best of many on the test set, as
is said; differences are taken seed by seed, since seeds share their initialisation. The uncertainty
of one seed is the binomial error of its test images, sqrt(p (1 - p) / n).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.report.seed_means import (
    CELL_KEYS,
    at_least,
    best,
    binomial_error,
    candidates,
    floats,
    number,
    seed_means,
)
from fasttrain.report.waiting import complete_seeds, rates_words, waiting_words

MOST_LABELS = 3
"""equally good cells that are named one by one"""


def result_words(cell: pd.Series, num_test: int | None) -> str:
    """A row of `seed_means` as "99.35 ± 0.16 %" with what the error is of, or why there is none.

    Args:
        num_test: test images; None if that is not known.
    """
    if cell["n"] == 0:
        return "no finite accuracy"
    if cell["n"] > 1:
        return f"{100 * cell['mean']:.2f} ± {100 * cell['std']:.2f} % (n = {cell['n']:.0f} seeds)"
    if num_test is None:
        return f"{100 * cell['mean']:.2f} % (n = 1: no error bar)"
    error = binomial_error(float(cell["mean"]), num_test)
    return (
        f"{100 * cell['mean']:.2f} ± {100 * error:.2f} % "
        f"(n = 1 seed; binomial error of {num_test} test images)"
    )


def best_sentences(
    stages: pd.DataFrame,
    by_plr: Mapping[Any, str],
    waiting: pd.DataFrame,
    num_test: int | None,
) -> list[str]:
    """The best result, and the comparison of large learning rates with the best small one.

    Args:
        by_plr: regime of each PLR.
        waiting: planned stages that are not finished.
        num_test: test images; None if that is not known.
    """
    complete = complete_seeds(stages, waiting)
    withheld = complete.empty and not waiting.empty
    judged = stages if withheld else complete
    means = [seed_means(judged, kind).assign(kind=kind) for kind in CELL_KEYS]
    results = pd.concat(means, ignore_index=True)
    results = results.assign(
        regime=results["plr"].map(lambda plr: by_plr.get(plr, "undecided")).astype("str")
    )
    winner = best(results)
    if winner is None:
        return ["No result of which every seed is above chance: no best can be named."]
    so_far = " so far" if withheld else ""
    first = (
        f"Best result of the grid{so_far}, chosen on the test set and so optimistic: "
        f"{_winner_words(judged, results, winner, num_test)}"
    )
    if winner["n"] > 1:
        first += " Here and below, ± is the sample standard deviation over seeds."
    if len(judged) < len(stages):
        seeds = ", ".join(str(seed) for seed in sorted(judged["seed"].unique()))
        first += f" Judged on what is complete: seed {seeds}."
    if withheld:
        return [
            first,
            "Whether a large learning rate beats the best small one is not known yet: it waits"
            f" for {waiting_words(waiting)}.",
        ]
    return [first, _comparison(judged, results, num_test)]


def _winner_words(
    stages: pd.DataFrame, results: pd.DataFrame, winner: pd.Series, num_test: int | None
) -> str:
    """The best cell or, where several are equally good, all of them; and which come close."""
    mean = float(winner["mean"])
    equal = at_least(results, mean)
    words = result_words(winner, num_test)
    if len(equal) == 1:
        text = f"{_label(winner)}, with test accuracy {words}{_epochs(stages, winner)}."
    elif len(equal) <= MOST_LABELS:
        cells = " and ".join(_label(cell) for _, cell in equal.iterrows())
        text = f"test accuracy {words}, the same in {len(equal)} cells: {cells}."
    else:
        text = f"test accuracy {words}, the same in {len(equal)} cells: {_cells_words(equal)}."
    error = float(winner["std"])
    if winner["n"] == 1:
        error = math.nan if num_test is None else binomial_error(mean, num_test)
    near = at_least(results, mean - error) if error > 0 else equal
    if len(near) > len(equal):
        text += (
            f" No worse than that by more than its error are {len(near)} of the "
            f"{len(candidates(results))} cells: {_cells_words(near)}."
        )
    return text


def _cells_words(cells: pd.DataFrame) -> str:
    """Many cells by their kinds, with the ranges of their rates."""
    parts = []
    for kind, rows in cells.groupby("kind", sort=False):
        how = {
            "pretrain": "alone",
            "finetune": f"fine-tuned at FLR {rates_words(rows['flr'].dropna())}",
            "swa": f"averaged over k = {rates_words(rows['k'].dropna())}",
        }[str(kind)]
        parts.append(f"{len(rows)} {how} from PLR {rates_words(rows['plr'])}")
    return "; ".join(parts)


def _comparison(stages: pd.DataFrame, results: pd.DataFrame, num_test: int | None) -> str:
    """Whether a large learning rate beats the best small one, or why that is not known."""
    regime = results["regime"]
    is_small = regime == "1"
    # A PLR that may be of regime 1 is on neither side.
    is_large = ~regime.str.contains("1|undecided", regex=True)
    unsure = sorted(set(results.loc[~is_small & ~is_large, "plr"]))
    surely = " for all its seeds" if unsure else ""
    if best(results[is_small]) is None:
        why = f"no PLR is in regime 1{surely}"
        if is_small.any():
            why = "every such result has a seed at chance or without a finite loss"
        second = f"Whether a large learning rate beats the best small one is not known: {why}."
    elif best(results[is_large]) is None:
        why = f"no PLR is beyond regime 1{surely}"
        if is_large.any():
            why = "every such result has a seed at chance or without a finite loss"
        second = f"Whether a large learning rate is better is not known: {why}."
    else:
        second = _verdict(stages, results[is_large], results[is_small], num_test)
    if unsure:
        names = ", ".join(number(plr) for plr in unsure)
        second += f" On neither side: PLR {names}, not decided or not the same for every seed."
    return second


def _verdict(
    stages: pd.DataFrame, of_large: pd.DataFrame, of_small: pd.DataFrame, num_test: int | None
) -> str:
    """Whether the best of the larger PLRs beats the best of regime 1, as plainly either way."""
    large, small = best(of_large), best(of_small)
    assert large is not None and small is not None, "sides to compare"
    points = _differences(stages, large, small)
    gap = 100 * (large["mean"] - small["mean"]) if points.empty else float(points.mean())
    one, other = f"{_label(large)}{_equals(of_large)}", f"{_label(small)}{_equals(of_small)}"
    cells = f"between {one}, and {other}"
    if len(points) < 2:
        why = "without a seed in common" if points.empty else "from one seed"
        return (
            f"Whether a large learning rate beats the best small one cannot be told {why}: "
            f"{_signed(gap)} points of accuracy {cells}{_test_error([large, small], num_test)}."
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


def _test_error(cells: Sequence[pd.Series], num_test: int | None) -> str:
    """What the number of test images leaves of a difference, were they drawn for each anew."""
    if num_test is None:
        return ""
    error = math.hypot(*(binomial_error(float(cell["mean"]), num_test) for cell in cells))
    return f"; {num_test} test images alone leave up to ± {100 * error:.2f} (binomial)"


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


def _equals(results: pd.DataFrame) -> str:
    """How many cells are as good as the best, if it is not alone."""
    count = len(at_least(results, float(candidates(results)["mean"].max())))
    return f" (one of {count} equally good)" if count > 1 else ""


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
