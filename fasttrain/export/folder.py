"""A folder that an export writes whole or not at all, and that replaces only one of its own.

It is made beside its place and renamed into it. A file in it lists what was written, so that
another export takes its place only where nothing has been added or changed. Imports nothing heavy.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from ..errors import EnvironmentProblem, UsageError
from ..machine.files import file_sha256, json_bytes, write_atomically
from ..store.json_files import read_json

MARKER = "fasttrain-export.json"


class _Written(BaseModel):
    """The marker: the SHA-256 of every other file."""

    files: dict[str, str]


def check_out(out: Path, store: Path) -> None:
    """Check that an export can be written to a path.

    Raises:
        UsageError: something is there that no export wrote, or that has changed since; or the path
            is the store's.
    """
    if _is_within(store, out) or _is_within(out, store):
        raise UsageError(f"--out {out}: must lie beside the store {store}, not in or above it")
    if not os.path.lexists(out):
        return
    advice = "give another --out, or move it"
    if out.is_symlink() or not out.is_dir():
        raise UsageError(f"--out {out}: exists and is no folder; {advice}")
    if not any(out.iterdir()):
        return
    if not (out / MARKER).exists():
        raise UsageError(f"--out {out}: exists and is not an export (no {MARKER}); {advice}")
    written = read_json(out / MARKER, _Written, advice)["files"]
    for name, path in _files(out).items():
        if written.get(name) != (file_sha256(path, advice) if path.is_file() else None):
            raise UsageError(f"--out {out}: {name} was added or changed since the export; {advice}")


@contextlib.contextmanager
def replaced(out: Path, store: Path) -> Iterator[Path]:
    """A new folder to write in, which takes the place of `out` at the end, if nothing is raised.

    Raises:
        UsageError: as `check_out`, before and again after.
        EnvironmentProblem: it cannot be written.
    """
    check_out(out, store)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise EnvironmentProblem(f"{out}: cannot be made: {error.strerror}") from None
    new, old = place / "new", place / "old"
    try:
        new.mkdir()
        yield new
        digests = {name: file_sha256(path, "run again") for name, path in _files(new).items()}
        write_atomically(new / MARKER, json_bytes({"files": digests}))
        # Meanwhile somebody may have written there.
        check_out(out, store)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _files(folder: Path) -> dict[str, Path]:
    """Every file and link below but the marker, by its path from there."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if name != MARKER}


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
