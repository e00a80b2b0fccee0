"""What an analysis shows while it runs: counts like a sweep's, and the time that kinds take."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.console import Console

from ..execution.progress import NodeView
from ..store.status import duration
from .records import Analysis
from .selection import KINDS


class AnalysisView(NodeView[Analysis]):
    """Analyses that are to be made, set-up after set-up. A context manager."""

    noun = "analysis"
    kinds = tuple(kind for kinds in KINDS.values() for kind in kinds)
    ends = ("done", "failed")

    def __init__(
        self,
        console: Console,
        on_change: Callable[["AnalysisView", bool], None] = lambda view, started: None,
    ) -> None:
        super().__init__([], console, on_change)
        self.processes = 1
        self.begun: dict[str, tuple[float, int]] = {}
        """of those at work when they started, and how many as one pack"""
        self.spent_s: dict[str, float] = defaultdict(float)
        """of a process, by kind"""

    def add(self, analyses: Sequence[Analysis], processes: int) -> None:
        """Analyses are to be made, in so many processes."""
        self.totals.update(analysis.kind for analysis in analyses)
        self.processes = processes

    def begin(self, pack: list[Analysis]) -> None:
        """Analyses start that are made together."""
        now = time.monotonic()
        self.begun |= {analysis.id: (now, len(pack)) for analysis in pack}
        super().begin(pack)

    def end(self, node: Analysis, state: str) -> None:
        """An analysis has ended in a state."""
        began, size = self.begun.pop(node.id)
        self.spent_s[node.kind] += (time.monotonic() - began) / size
        super().end(node, state)

    def left_s(self) -> float | None:
        """Seconds left of the kinds of which some have been made, if there are such."""
        known = [kind for kind in self._left() if self.spent_s[kind]]
        if self._left() and not known:
            return None
        left, spent = self._left(), self.spent_s
        return sum(left[k] * spent[k] / self._ended(k) for k in known) / self.processes

    def eta(self) -> str:
        """`left_s` in words: at least so long, if kinds are left of which none has been made."""
        left_s = self.left_s()
        if left_s is None:
            return "-"
        known = all(self.spent_s[kind] for kind in self._left())
        return duration(left_s) if known else f"over {duration(left_s)}"

    def _ended(self, kind: str) -> int:
        return sum(self.counts[kind, state] for state in self.ends)

    def _left(self) -> dict[str, int]:
        """How many have not ended, by kind."""
        left = {kind: total - self._ended(kind) for kind, total in self.totals.items()}
        return {kind: count for kind, count in left.items() if count}
