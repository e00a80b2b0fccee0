"""What a sweep shows while it runs: one live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .chance import ENDS
from .live import live_view
from .plan import KINDS, Stage
from .status import duration

STATES = (*ENDS, "failed")


class ProgressView:
    """Counts stages by kind and state and shows them. A context manager.

    Args:
        states: state of every stage of the grid at the start: of `STATES`, or todo.
        epochs_left: what each of them still takes, by id.
        console: where; a quiet one shows nothing.
        every_epoch: without a terminal, a line per epoch instead of one per stage.
        on_change: called with this view at every change, and whether a pack has just started.
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
        self.console = console
        self.every_epoch = every_epoch
        self.on_change = on_change
        self.counts = Counter((stage.kind, state) for stage, state in states if state in ENDS)
        self.totals = Counter(stage.kind for stage, _ in states)
        self.running: list[list[Stage]] = []
        self.epochs: dict[str, int] = {}
        self.line = ""
        self.lines: dict[str, str] = {}
        self.epochs_left = dict(epochs_left)
        self.epochs_run = 0
        self.started = time.monotonic()
        self.live = live_view(self, console)

    def __enter__(self) -> "ProgressView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def begin(self, pack: list[Stage]) -> None:
        """Stages start that train in step."""
        self.running.append(list(pack))
        self.line = _label(pack)
        self._changed(started=True)

    def _changed(self, *, started: bool = False) -> None:
        self.on_change(self, started)
        if self.live:
            self.live.changed()

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def epoch(self, stage: Stage, epoch: int, scores: dict[str, float]) -> None:
        """An epoch has ended; `epoch` counts from the start of pre-training."""
        self.epochs_run += 1
        # A pack that is tried again repeats epochs.
        self.epochs_left[stage.id] = max(0, self.epochs_left[stage.id] - 1)
        self.line = f"{stage.label()}  epoch {epoch}/{stage.end_epoch}  {_scores(scores)}"
        self.lines[stage.id] = self.line
        self.epochs[stage.id] = epoch
        self._changed()
        if self.every_epoch and not self.live:
            self.console.print(self.line, highlight=False, soft_wrap=True)

    def end(self, stage: Stage, state: str) -> None:
        """A stage has ended in a state."""
        self.counts[stage.kind, state] += 1
        left = ([other for other in pack if other.id != stage.id] for pack in self.running)
        self.running = [pack for pack in left if pack]
        # A loss that became non-finite ends a stage early.
        self.epochs_left[stage.id] = 0
        line = self.lines.pop(stage.id, stage.label())
        self._changed()
        if not self.live:
            finished = sum(self.counts.values())
            self.console.print(
                f"[{finished}/{self.totals.total()}] {line}  {state}  ETA {self.eta()}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )

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

    def eta(self) -> str:
        """`left_s` in words, or a dash."""
        left_s = self.left_s()
        return "-" if left_s is None else duration(left_s)

    def packs(self) -> list[str]:
        """What trains at this moment: each pack by its first stage, and the epoch it has reached.

        As the log, epochs count from the start of pre-training.
        """
        return [
            f"{_label(pack)}, epoch {self.epochs.get(pack[0].id, pack[0].start_epoch)}"
            f" of {pack[0].end_epoch}"
            for pack in self.running
        ]

    def __rich__(self) -> Group:
        table = Table("stage", *STATES, "running", "left", "total", box=None, pad_edge=False)
        for kind in KINDS:
            if self.totals[kind]:
                running = sum(stage.kind == kind for pack in self.running for stage in pack)
                counts = [self.counts[kind, state] for state in STATES]
                left = self.totals[kind] - sum(counts) - running
                cells = (*counts, running, left, self.totals[kind])
                table.add_row(kind, *(str(cell) for cell in cells))
        elapsed = duration(time.monotonic() - self.started)
        return Group(table, Text(self.line), Text(f"elapsed {elapsed}, ETA {self.eta()}"))


def _label(pack: list[Stage]) -> str:
    return pack[0].label() + (f" and {len(pack) - 1} more" if pack[1:] else "")


def _scores(scores: dict[str, float]) -> str:
    text = f"loss {scores['train_loss']:.4g}  train {scores['train_accuracy']:.1%}"
    test = scores["test_accuracy"]
    return text if test != test else f"{text}  test {test:.1%}"
