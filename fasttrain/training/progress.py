"""A stage under way: what is known of it so far, how it ends, and when it may be given up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..plan.stages import Stage
from ..store.columns import COLUMNS, PASS_COLUMNS, TESTED
from .chance import Chance
from .snapshot import State

HOPELESS = 10
"""epochs at chance after which a run may be given up"""
WALKED = 50.0
"""sum of the squares of their steps' angles (rad) above which they were a random walk: as the
threshold of that name among the rules of the regimes"""


def set_tested(row: Tensor, values: Tensor) -> None:
    """Put scores of the test set, then those of the probe sets, into a row of an epoch."""
    row[TESTED] = values[:2] if values.ndim else values
    row[len(COLUMNS) :] = values[2:] if values.ndim else values


@dataclass
class Progress:
    """What is known of a stage after some of its epochs: all that a checkpoint holds."""

    model: State
    """the network's state_dict; empty before the first epoch of a new network"""
    average: State = field(default_factory=dict)
    """running mean of all that trains over the checkpoints so far (SWA)"""
    optimizer: State = field(default_factory=dict)
    """what the next step depends on besides the weights; empty before the first, or if nothing"""
    series: list[Tensor] = field(default_factory=list)
    """of every epoch its scores, fp64: those of `COLUMNS`, then on every probe set"""
    norms: list[Tensor] = field(default_factory=list)
    """of every epoch the norm of every conv filter, (filters,) fp32"""
    passes: list[Tensor] = field(default_factory=list)
    """of every epoch the `PASS_COLUMNS` of the pass after it, fp64, NaN without; empty if no epoch
    has one"""
    time_s: float = 0.0
    """its share of the time spent on the epochs and their tests, by all processes"""
    statistics: State = field(default_factory=dict)
    """of a finished average what it is evaluated with besides: batch-normalisation statistics"""

    def tensors(self) -> dict[str, Tensor]:
        """One flat dictionary for a file."""
        named = {f"model.{name}": value for name, value in self.model.items()}
        named |= {f"average.{name}": value for name, value in self.average.items()}
        named |= {f"statistics.{name}": value for name, value in self.statistics.items()}
        named |= {f"optimizer.{name}": value for name, value in self.optimizer.items()}
        none = torch.empty(0, len(COLUMNS), dtype=torch.float64)
        series = torch.stack(self.series) if self.series else none
        norms = torch.stack(self.norms) if self.norms else torch.empty(0)
        passes = {"passes": torch.stack(self.passes)} if self.passes else {}
        return {**named, "series": series, "norms": norms, **passes}

    def passes_with(self, row: Tensor | None) -> list[Tensor]:
        """The passes after one more epoch, with this one if it has one."""
        if row is None and not self.passes:
            return []
        nothing = torch.full((len(PASS_COLUMNS),), math.nan, dtype=torch.float64)
        # Those before may be of a run without passes.
        before = self.passes or [nothing] * len(self.series)
        return [*before, nothing if row is None else row]

    def checkpoint(self) -> dict[str, Tensor]:
        """`tensors`, and what is no result."""
        return {**self.tensors(), "time_s": torch.tensor(self.time_s, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Progress":
        """The inverse of `tensors` and of `checkpoint`."""

        def part(prefix: str) -> State:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        time_s = float(tensors.get("time_s", 0))
        series, norms = list(tensors["series"]), list(tensors["norms"])
        passes = list(tensors.get("passes", []))
        model, average, optimizer = map(part, ("model.", "average.", "optimizer."))
        rest = part("statistics.")
        return cls(model, average, optimizer, series, norms, passes, time_s, rest)


@dataclass
class Run:
    """A stage under way."""

    stage: Stage
    progress: Progress
    start: Sequence[Tensor] = ()
    """the sphere weights that the stage started from"""
    wanted: bool = True
    """False for one that is finished, and here so that its pack goes on as it was"""
    stopped: bool = False
    """given up by the rule of `is_hopeless`"""
    built_on: dict[str, str | None] = field(default_factory=dict)
    """digests of the states that it starts from, by stage; None of one that has no end"""

    @property
    def over(self) -> bool:
        """Whether it ends here, whatever the length of the stage."""
        loss = self._last_loss()
        return self.stopped or self.reached or not (loss is None or math.isfinite(loss))

    @property
    def reached(self) -> bool:
        """Whether the training loss of its last epoch is where the stage is to end."""
        loss, bound = self._last_loss(), self.stage.until_loss
        return bound is not None and loss is not None and loss < bound

    @property
    def is_tested(self) -> bool:
        """Whether its last epoch has scores of the test set."""
        return bool(self.progress.series) and not self.progress.series[-1][TESTED].isnan().any()

    def _last_loss(self) -> float | None:
        series = self.progress.series
        return float(series[-1][COLUMNS.index("train_loss")]) if series else None

    @property
    def next_epoch(self) -> int:
        return self.stage.start_epoch + len(self.progress.series)


def is_at_chance(scores: Tensor, chance: Chance) -> bool:
    """Whether an epoch's scores, in the order of `COLUMNS`, are those of a guess."""
    names = ("train_loss", "train_balanced_accuracy")
    return chance.holds(*(float(scores[COLUMNS.index(name)]) for name in names))


def is_hopeless(run: Run, chance: Chance, steps_per_epoch: int) -> bool:
    """Whether a run walks at random, as far as its epochs so far can tell.

    In every one of the last `HOPELESS` epochs it was at chance, and their steps replaced the
    direction of the weights many times: regime 3 (arXiv 2209.03695). A run that learns slowly is at
    chance in its first epochs too, with small steps.
    """
    last = run.progress.series[-HOPELESS:]
    if len(last) < HOPELESS or not all(is_at_chance(row, chance) for row in last):
        return False
    grad_norm = COLUMNS.index("grad_norm")
    angles = (math.atan(run.stage.lr * float(row[grad_norm])) for row in last)
    return steps_per_epoch * sum(angle**2 for angle in angles) > WALKED
