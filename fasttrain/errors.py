"""Errors a user can act on: one line, no traceback, and the exit code of the command line."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something given is wrong: the message names it and what is allowed. Exit code 2."""


class EnvironmentProblem(RuntimeError):
    """Something around the program is wrong (store, disk, permissions). Exit code 1."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest allowed name, or an empty string."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
