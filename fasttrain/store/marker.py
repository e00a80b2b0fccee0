"""Whether a path is a store of this version's format, or can become one.

Imports nothing heavy: a command says so at once.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import EnvironmentProblem
from ..machine.files import is_empty
from .json_files import read_json
from .schema import Marker

MARKER = "store.json"
"""the file that makes a directory a store"""
FORMAT = 4
"""Raised by every change of this package after which stores of before cannot be read."""


class _Made(BaseModel):
    """What done.json says in every format."""

    provenance: dict[str, Any]


def check_store(path: Path, *, create: bool) -> None:
    """Check that a path is a store, or with `create` that it can become one.

    Raises:
        EnvironmentProblem: it is not, or of another format: then which version reads it.
    """
    marker = path / MARKER
    strangers = path.exists() and not (path.is_dir() and is_empty(path))
    # After what else there is: another process may be making the store.
    if marker.exists():
        _check_format(path)
        return
    if strangers:
        raise EnvironmentProblem(f"{path}: exists and is not a fasttrain store (no {MARKER})")
    if not create:
        raise EnvironmentProblem(f"{path}: no such store")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise EnvironmentProblem(f"{path}: cannot be made: {there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise EnvironmentProblem(f"{path}: cannot be made: {there} cannot be written")


def _check_format(path: Path) -> None:
    found = read_json(path / MARKER, Marker, "use another store")["format"]
    if found != FORMAT:
        raise EnvironmentProblem(
            f"{path}: store of format {found}, and this version reads format {FORMAT};"
            f" use the version that made it{_maker(path)}, or another --store"
        )


def _maker(path: Path) -> str:
    """The version and commit that the store's first readable done.json records, in brackets."""
    for done in sorted(path.glob("*/done.json")):
        try:
            made = read_json(done, _Made, "")["provenance"]
        except EnvironmentProblem:
            continue
        if made.get("fasttrain"):
            commit = f", commit {made['commit']}" if made.get("commit") else ""
            return ascii(f" (fasttrain {made['fasttrain']}{commit})")[1:-1]
    return ""
