"""Errors a user can act on: one line, no traceback, and the exit code of the command line."""

import difflib
from collections.abc import Iterable, Mapping


class UsageError(ValueError):
    """A value given by the user is wrong: the message names it and what is allowed. Exit code 2."""


class EnvironmentProblem(RuntimeError):
    """Store, disk, permissions or device have a problem. Exit code 1."""


def raise_failures(failures: Mapping[str, str], what: str = "stages", where: str = "") -> None:
    """Return if nothing failed.

    Raises:
        EnvironmentProblem: something did; the message lists the errors by their labels.
    """
    if failures:
        listing = "; ".join(f"{label}: {error}" for label, error in failures.items())
        raise EnvironmentProblem(
            f"{len(failures)} {what} failed (see failed.txt in their folders{where}): {listing}"
        )


def nearest(given: str, allowed: Iterable[str], most: int = 1) -> str:
    """` (did you mean 'x'?)` for the nearest allowed names, or an empty string."""
    if len(given) > 100:
        # Compared in time that grows with the square of the length.
        return ""
    matches = difflib.get_close_matches(given, list(allowed), n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""
