"""Standard output whose reader may leave, as in `fasttrain sweep digits --dry-run | head -1`."""

import os
import select
import sys

LEFT = 141
"""exit code where nobody reads on: what a shell shows of a program that SIGPIPE ends, 128 + 13"""


def reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):
        # No such call here, or no file behind standard output.
        return False


def flushed(code: int) -> int:
    """Write what is left of standard output; returns the exit code, or another if that fails.

    At its end Python would do it, and say with a traceback that it cannot.
    """
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        # What is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return LEFT
        print(f"fasttrain: standard output: {error.strerror}", file=sys.stderr)
        return 1
