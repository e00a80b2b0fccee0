"""A pre-training fine-tuned at the lowest and the highest FLR: what tells 2A from 2B."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from .rules import Verdict, split_equilibrium
from .tables import SetupResults

KEYS = ["plr", "seed"]


class EndPoints:
    """Of every pre-training of a set-up its two ends, and what was measured between them."""

    def __init__(self, results: SetupResults) -> None:
        tuned = results.stages[results.stages["kind"] == "finetune"].sort_values("flr")
        groups = tuned.groupby(KEYS)
        columns = [*KEYS, "flr", "stage", "train_accuracy"]
        both = groups.head(1)[columns].merge(groups.tail(1)[columns], on=KEYS)
        both = both[both["flr_x"] != both["flr_y"]]
        self.ends = {(row["plr"], row["seed"]): row for row in both.to_dict("records")}
        stages = {*both["stage_x"], *both["stage_y"]}
        pairs = results.pairs[results.pairs["pair"] == "low-high"]
        self.barriers = _between(stages, pairs, "train_barrier")
        self.angles = _between(stages, pairs, "angle")
        for two, angles in _between(stages, results.angles, "angle").items():
            self.angles[two] = [*self.angles.get(two, ()), *angles]

    def subregime(self, run: dict) -> Verdict:
        """Whether a pre-training in equilibrium is in 2A or 2B."""
        ends = self.ends.get((run["plr"], run["seed"]))
        if ends is None:
            return Verdict("2", "A or B needs fine-tunings at two FLRs")
        two = frozenset((ends["stage_x"], ends["stage_y"]))
        angle = last_finite(self.angles.get(two, ()))
        barrier = last_finite(self.barriers.get(two, ()))
        accuracy = np.minimum(ends["train_accuracy_x"], ends["train_accuracy_y"])
        return split_equilibrium(angle, barrier, float(accuracy))


def _between(
    stages: Collection[str], table: pd.DataFrame, column: str
) -> dict[frozenset[str], list[float]]:
    """The values of a table by the two stages they are about, in whatever order, if among these."""
    rows = table[table["stage_a"].isin(stages)]
    rows = rows[rows["stage_b"].isin(stages)]
    found: dict[frozenset[str], list[float]] = {}
    for one, other, value in zip(rows["stage_a"], rows["stage_b"], rows[column], strict=True):
        found.setdefault(frozenset((one, other)), []).append(value)
    return found


def last_finite(values: np.ndarray | Sequence[float]) -> float:
    """The last value that is finite; NaN if there is none."""
    known = [float(value) for value in values if math.isfinite(value)]
    return known[-1] if known else math.nan
