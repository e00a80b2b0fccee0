"""The format of a store: its number, and what to do about a store of another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .errors import EnvironmentProblem
from .schema import read_json

FORMAT = 4
"""Raised by every change of this package after which stores of before cannot be read."""


class _Made(BaseModel):
    """What done.json says in every format."""

    provenance: dict[str, Any]


def check_format(path: Path, marker: Mapping[str, Any]) -> None:
    """Return if the store's store.json names the format of this version.

    Raises:
        EnvironmentProblem: it names another one; the message says which version reads it.
    """
    if marker["format"] != FORMAT:
        raise EnvironmentProblem(
            f"{path}: store of format {marker['format']}, and this version reads format {FORMAT};"
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
