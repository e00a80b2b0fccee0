"""A table that stays in its place while it changes: on a terminal, or in a notebook."""

import contextlib
import html
import io
import time
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live

INTERVAL_S = 0.25
"""seconds between two pictures"""
NOTEBOOK_WIDTH = 100
"""signs of a line in a notebook"""


class LiveView(Protocol):
    """Shows something as it is at the moment."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def changed(self) -> None:
        """What is shown has changed."""


def live_view(shown: RenderableType, console: Console) -> LiveView | None:
    """The view for a console; None where only lines can be printed, or nothing at all."""
    if console.quiet:
        return None
    if console.is_jupyter:
        return NotebookView(shown)
    return TerminalView(shown, console) if console.is_terminal else None


class TerminalView:
    """Drawn anew four times a second, by a thread of its own: elapsed time goes on."""

    def __init__(self, shown: RenderableType, console: Console) -> None:
        self.live = Live(shown, console=console, refresh_per_second=1 / INTERVAL_S)

    def start(self) -> None:
        self.live.start()

    def stop(self) -> None:
        # After SIGHUP there may be no terminal any more.
        with contextlib.suppress(OSError):
            self.live.stop()

    def changed(self) -> None:
        """Nothing: the thread sees it."""


class NotebookView:
    """One output of a cell, replaced as its content changes. Rich's own would need ipywidgets."""

    def __init__(self, shown: RenderableType) -> None:
        self.shown = shown
        self.handle: Any = None
        self.due = 0.0

    def start(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found]

        self.handle = display(self._picture(), raw=True, display_id=True)

    def stop(self) -> None:
        self._draw()

    def changed(self) -> None:
        """Show it, unless that has just been done."""
        if time.monotonic() >= self.due:
            self._draw()

    def _draw(self) -> None:
        self.due = time.monotonic() + INTERVAL_S
        self.handle.update(self._picture(), raw=True)

    def _picture(self) -> dict[str, str]:
        # Signs alone, whatever the kernel says of its colours.
        lines = Console(
            file=io.StringIO(), width=NOTEBOOK_WIDTH, force_jupyter=False, force_terminal=False
        )
        lines.print(self.shown)
        text = lines.file.getvalue()  # type: ignore[attr-defined]
        return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
