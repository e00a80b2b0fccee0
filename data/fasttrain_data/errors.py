"""The two ways data can fail: a request that is wrong, a machine that cannot serve a sound one."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A wrong request or file; the message is one line: what was given, where, what is allowed."""


class DataUnavailable(RuntimeError):
    """A sound request that this machine cannot serve: offline, or a cache that cannot be used."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the allowed name closest to `given`, or an empty string."""
    close = difflib.get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
