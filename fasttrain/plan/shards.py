"""Shards: parts of a plan that train apart, without a word between them.

A shard is whole subtrees: a stage trains with all that starts from the same new network, so that no
shard needs a state of another. What is dealt are the lines of the roots, in the order of the plan,
in runs without a gap: neighbours share their seed, and only stages of one seed can be a pack. A
line goes where the middle of its epochs lies, which keeps every shard within the epochs of the
longest line of its even share. All of it follows from the plan alone: every process that knows the
plan finds the same parts.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

# Imported by nothing else here: a mistake in --shard is told before torch is imported.
if TYPE_CHECKING:
    from .stages import Stage

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a plan."""

    index: int
    """from 1"""
    count: int

    @classmethod
    def read(cls, text: str) -> "Shard":
        """The shard that `i/n` says.

        Raises:
            UsageError: it says none.
        """
        parts = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if parts is None:
            raise UsageError(
                f"--shard {text[:60]!r}: must be I/N, such as 1/4 for the first of four parts"
            )
        index, count = int(parts[1]), int(parts[2])
        if not 1 <= count <= MOST_SHARDS:
            raise UsageError(f"--shard {text}: n must be 1 to {MOST_SHARDS}")
        if not 1 <= index <= count:
            raise UsageError(f"--shard {text}: i must be 1 to {count}")
        return cls(index, count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """For the names of files."""
        return f"{self.index}-of-{self.count}"

    def part(self, stages: "Sequence[Stage]") -> "list[Stage]":
        """Those of a plan's stages that belong to this shard, in their order."""
        costs: dict[Hashable, int] = {}
        for (root, _), num_epochs in _lines(stages).items():
            costs[root] = costs.get(root, 0) + num_epochs
        mine, before, total = set(), 0, max(1, sum(costs.values()))
        for root, cost in costs.items():
            if (2 * before + cost) * self.count // (2 * total) == self.index - 1:
                mine.add(root)
            before += cost
        return [stage for stage in stages if _line(stage.legs[0]) in mine]


def num_epochs_of(stages: "Sequence[Stage]") -> int:
    """Epochs that stages take: longer ones of a line go on from the shorter ones."""
    return sum(_lines(stages).values())


def _lines(stages: "Sequence[Stage]") -> dict[tuple[Hashable, Hashable], int]:
    """The epochs of every line of a plan, by the line of its root and its own."""
    longest: dict[tuple[Hashable, Hashable], int] = {}
    for stage in stages:
        key = (_line(stage.legs[0]), _line(stage))
        longest[key] = max(longest.get(key, 0), stage.num_epochs)
    return longest


def _line(stage: "Stage") -> Hashable:
    """What stages that differ in their length alone have in common."""
    parent = None if stage.parent is None else stage.parent.id
    return (parent, stage.kind, stage.seed, stage.knobs, stage.inherit, stage.until_loss)
