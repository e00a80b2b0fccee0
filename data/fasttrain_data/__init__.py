"""Data sets as uint8 arrays, FFCV files of them, and loaders that keep up with the device.

What it offers is imported when it is first asked for: torch takes seconds, and `catalogue` and
`errors` do without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import everything public, for any name of it."""
    try:
        return getattr(import_module("fasttrain_data.public"), name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
