"""What an analysis shows while it runs: bars on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..status import duration
from .records import Analysis


class AnalysisView:
    """Counts analyses by kind. A context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[label]}"),
            console=console,
            disable=console.quiet or not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.finished = self.total = 0
        self.started = time.monotonic()

    def __enter__(self) -> "AnalysisView":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def add(self, kind: str, count: int) -> None:
        """So many analyses of a kind are to be made."""
        self.total += count
        if kind not in self.tasks:
            self.tasks[kind] = self.bars.add_task(kind, total=0, label="")
        task = next(task for task in self.bars.tasks if task.id == self.tasks[kind])
        self.bars.update(task.id, total=(task.total or 0) + count)

    def begin(self, batch: list[Analysis]) -> None:
        """Analyses start that are made together."""
        more = f" and {len(batch) - 1} more" if batch[1:] else ""
        self.bars.update(self.tasks[batch[0].kind], label=f"{batch[0].label}{more}")

    def end(self, batch: list[Analysis], outcome: str = "done") -> None:
        """They have been made, or have failed."""
        self.finished += len(batch)
        self.bars.update(self.tasks[batch[0].kind], advance=len(batch), label="")
        if not self.console.is_terminal:
            more = f" and {len(batch) - 1} more" if batch[1:] else ""
            spent = duration(time.monotonic() - self.started)
            self.note(f"[{self.finished}/{self.total}] {batch[0].label}{more}  {outcome}  {spent}")

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)
