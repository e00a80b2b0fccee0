"""Whether a path is a store or can become one: told before anything heavy is imported."""

import os
from pathlib import Path

from .errors import EnvironmentProblem
from .files import is_empty

MARKER = "store.json"
"""the file that makes a directory a store"""


def check_store(path: Path, *, create: bool) -> None:
    """Check that a path is a store, or with `create` that it can become one.

    Raises:
        EnvironmentProblem: it is not.
    """
    marker = path / MARKER
    if marker.exists():
        return
    strangers = path.exists() and not (path.is_dir() and is_empty(path))
    # Looked at again: another process may have made the store since.
    if strangers and not marker.exists():
        raise EnvironmentProblem(f"{path}: exists and is not a fasttrain store (no {MARKER})")
    if not create:
        raise EnvironmentProblem(f"{path}: no such store")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise EnvironmentProblem(f"{path}: cannot be made: {there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise EnvironmentProblem(f"{path}: cannot be made: {there} cannot be written")
