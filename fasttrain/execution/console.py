"""Rich's console, as commands use it."""

import errno
import os

from rich.console import Console as RichConsole


class Console(RichConsole):
    """A console that lets BrokenPipeError through, which Rich's answers by exiting with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
