"""What a driver shows while it runs: one live table on a terminal, plain lines elsewhere."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..plan.stages import KINDS, Stage
from ..store.status import duration
from ..training.chance import ENDS
from .live import live_view

STATES = (*ENDS, "failed")


class Node(Protocol):
    """What is counted: a stage, or an analysis."""

    @functools.cached_property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def label(self) -> str: ...


N = TypeVar("N", bound=Node)


class NodeView(Generic[N]):
    """Counts nodes by kind and state and shows them. A context manager.

    Args:
        nodes: every one that is counted, and its state at the start: of `STATES`, or todo.
        console: where; a quiet one shows nothing.
        on_change: called with this view at every change, and whether a pack has just started.
    """

    noun = "stage"
    kinds: Sequence[str] = KINDS
    ends: Sequence[str] = STATES
    """states in which a node can end, in the order in which they are shown"""

    def __init__(
        self,
        nodes: Sequence[tuple[N, str]],
        console: Console,
        on_change: Callable[[Any, bool], None] = lambda view, started: None,
    ) -> None:
        self.console = console
        self.on_change = on_change
        self.counts = Counter((n.kind, state) for n, state in nodes if state in ENDS)
        self.totals = Counter(n.kind for n, _ in nodes)
        self.running: list[list[N]] = []
        self.line = ""
        self.lines: dict[str, str] = {}
        self.started = time.monotonic()
        self.live = live_view(self, console)

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    @property
    def finished(self) -> int:
        """How many have ended."""
        return self.counts.total()

    def begin(self, pack: list[N]) -> None:
        """Nodes start that are carried out as one pack."""
        self.running.append(list(pack))
        self.line = _label(pack)
        self.changed(started=True)

    def halt(self, nodes: Sequence[N]) -> None:
        """Nodes that had started wait to be tried again, or end."""
        halted = {node.id for node in nodes}
        left = ([node for node in pack if node.id not in halted] for pack in self.running)
        self.running = [pack for pack in left if pack]

    def changed(self, *, started: bool = False) -> None:
        """Tell and show how it stands."""
        self.on_change(self, started)
        if self.live:
            self.live.changed()

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def end(self, node: N, state: str) -> None:
        """A node has ended in a state."""
        self.counts[node.kind, state] += 1
        self.halt([node])
        line = self.lines.pop(node.id, node.label())
        self.changed()
        if not self.live:
            self.note(f"[{self.finished}/{self.totals.total()}] {line}  {state}  ETA {self.eta()}")

    def left_s(self) -> float | None:
        """Seconds left at the rate of this run so far, if there is one."""
        raise NotImplementedError

    def eta(self) -> str:
        """`left_s` in words, or a dash."""
        left_s = self.left_s()
        return "-" if left_s is None else duration(left_s)

    def packs(self) -> list[str]:
        """What is at work at this moment: each pack by its first member."""
        return [_label(pack) for pack in self.running]

    def __rich__(self) -> Group:
        table = Table(self.noun, *self.ends, "running", "left", "total", box=None, pad_edge=False)
        for kind in self.kinds:
            if self.totals[kind]:
                running = sum(node.kind == kind for pack in self.running for node in pack)
                counts = [self.counts[kind, state] for state in self.ends]
                left = self.totals[kind] - sum(counts) - running
                cells = (*counts, running, left, self.totals[kind])
                table.add_row(kind, *(str(cell) for cell in cells))
        elapsed = duration(time.monotonic() - self.started)
        return Group(table, Text(self.line), Text(f"elapsed {elapsed}, ETA {self.eta()}"))


class ProgressView(NodeView[Stage]):
    """Stages, and the epochs that they train. A context manager.

    Args:
        states: state of every stage of the grid at the start: of `STATES`, or todo.
        epochs_left: what each of them still takes, by id.
        every_epoch: without a terminal, a line per epoch instead of one per stage.
    """

    def __init__(
        self,
        states: list[tuple[Stage, str]],
        epochs_left: dict[str, int],
        console: Console,
        *,
        every_epoch: bool = False,
        on_change: Callable[["ProgressView", bool], None] = lambda view, started: None,
    ) -> None:
        super().__init__(states, console, on_change)
        self.every_epoch = every_epoch
        self.epochs: dict[str, int] = {}
        self.epochs_left = dict(epochs_left)
        self.epochs_run = 0

    def epoch(self, stage: Stage, epoch: int, scores: dict[str, float]) -> None:
        """An epoch has ended; `epoch` counts from the start of pre-training."""
        self.epochs_run += 1
        # A pack that is tried again repeats epochs.
        self.epochs_left[stage.id] = max(0, self.epochs_left[stage.id] - 1)
        self.line = f"{stage.label()}  epoch {epoch}/{stage.end_epoch}  {_scores(scores)}"
        self.lines[stage.id] = self.line
        self.epochs[stage.id] = epoch
        self.changed()
        if self.every_epoch and not self.live:
            self.console.print(self.line, highlight=False, soft_wrap=True)

    def end(self, node: Stage, state: str) -> None:
        """A stage has ended in a state."""
        # A loss that became non-finite ends a stage early.
        self.epochs_left[node.id] = 0
        super().end(node, state)

    def reopen(self, stage: Stage, state: str) -> None:
        """A stage that was in a state at the start has to run again."""
        self.counts[stage.kind, state] -= 1
        self.epochs_left[stage.id] = stage.num_epochs

    def left_s(self) -> float | None:
        """Seconds left at the rate of this run so far, if there is one."""
        if not self.epochs_run:
            return None
        rate = (time.monotonic() - self.started) / self.epochs_run
        return sum(self.epochs_left.values()) * rate

    def packs(self) -> list[str]:
        """What trains at this moment: each pack by its first stage, and the epoch it has reached.

        As the log, epochs count from the start of pre-training.
        """
        return [
            f"{_label(pack)}, epoch {self.epochs.get(pack[0].id, pack[0].start_epoch)}"
            f" of {pack[0].end_epoch}"
            for pack in self.running
        ]


def _label(pack: Sequence[Node]) -> str:
    return pack[0].label() + (f" and {len(pack) - 1} more" if pack[1:] else "")


def _scores(scores: dict[str, float]) -> str:
    text = f"loss {scores['train_loss']:.4g}  train {scores['train_accuracy']:.1%}"
    test = scores["test_accuracy"]
    return text if test != test else f"{text}  test {test:.1%}"
