"""What a sweep shows while it runs: one live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .plan import KINDS, Stage
from .runs import ENDS

STATES = (*ENDS, "failed")


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ProgressView:
    """Counts stages by kind and state and shows them. A context manager.

    Args:
        states: state of every stage of the grid at the start: of `STATES`, or todo.
        epochs_left: what each of them still takes, by id.
        quiet: show nothing.
        every_epoch: without a terminal, a line per epoch instead of one per stage.
    """

    def __init__(
        self,
        states: list[tuple[Stage, str]],
        epochs_left: dict[str, int],
        console: Console,
        *,
        quiet: bool = False,
        every_epoch: bool = False,
    ) -> None:
        self.console = console
        self.quiet = quiet
        self.every_epoch = every_epoch
        self.counts = Counter((stage.kind, state) for stage, state in states if state in ENDS)
        self.totals = Counter(stage.kind for stage, _ in states)
        self.running: dict[str, Stage] = {}
        self.line = ""
        self.lines: dict[str, str] = {}
        self.epochs_left = dict(epochs_left)
        self.epochs_run = 0
        self.started = time.monotonic()
        live = console.is_terminal and not quiet
        self.live = Live(self, console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> "ProgressView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def begin(self, pack: list[Stage]) -> None:
        """Stages start that train in step."""
        self.running |= {stage.id: stage for stage in pack}
        self.line = f"{pack[0].label()}" + (f" and {len(pack) - 1} more" if pack[1:] else "")

    def note(self, text: str) -> None:
        """Something that the user should know."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def epoch(self, stage: Stage, epoch: int, scores: dict[str, float]) -> None:
        """An epoch has ended; `epoch` counts from the start of pre-training."""
        self.epochs_run += 1
        # A pack that is tried again repeats epochs.
        self.epochs_left[stage.id] = max(0, self.epochs_left[stage.id] - 1)
        self.line = f"{stage.label()}  epoch {epoch}/{stage.end_epoch}  {_scores(scores)}"
        self.lines[stage.id] = self.line
        if self.every_epoch and not self.live and not self.quiet:
            self.console.print(self.line, highlight=False, soft_wrap=True)

    def end(self, stage: Stage, state: str) -> None:
        """A stage has ended in a state."""
        self.counts[stage.kind, state] += 1
        self.running.pop(stage.id, None)
        # A loss that became non-finite ends a stage early.
        self.epochs_left[stage.id] = 0
        line = self.lines.pop(stage.id, stage.label())
        if not self.live and not self.quiet:
            finished = sum(self.counts.values())
            self.console.print(
                f"[{finished}/{self.totals.total()}] {line}  {state}  ETA {self.eta()}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )

    def eta(self) -> str:
        """Time left at the rate of this run so far, or a dash."""
        if not self.epochs_run:
            return "-"
        rate = (time.monotonic() - self.started) / self.epochs_run
        return duration(sum(self.epochs_left.values()) * rate)

    def __rich__(self) -> Group:
        table = Table("stage", *STATES, "running", "left", "total", box=None, pad_edge=False)
        for kind in KINDS:
            if self.totals[kind]:
                running = sum(stage.kind == kind for stage in self.running.values())
                counts = [self.counts[kind, state] for state in STATES]
                left = self.totals[kind] - sum(counts) - running
                cells = (*counts, running, left, self.totals[kind])
                table.add_row(kind, *(str(cell) for cell in cells))
        elapsed = duration(time.monotonic() - self.started)
        return Group(table, Text(self.line), Text(f"elapsed {elapsed}, ETA {self.eta()}"))


def _scores(scores: dict[str, float]) -> str:
    text = f"loss {scores['train_loss']:.4g}  train {scores['train_accuracy']:.1%}"
    test = scores["test_accuracy"]
    return text if test != test else f"{text}  test {test:.1%}"
