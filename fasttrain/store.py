"""The store: the directory that holds every result, and the only state there is.

    <store>/store.json                  format version
    <store>/.lock                       held by the one process that writes
    <store>/<stage>/stage.json          what the stage is (written first)
    <store>/checkpoints/<pack>-<digest>.safetensors   where a pack stands, while it runs
    <store>/<stage>/*.safetensors, metrics.parquet   its results
    <store>/<stage>/failed.txt          why it could not be run, if so
    <store>/<stage>/done.json           a summary, digests of all of the above and of itself (last)
    <store>/analyses/<id>/              the same of an analysis of finished stages
    <store>/analyses/current.json       which of them the figures are drawn from
    <store>/report/                     derived from all this

Every file is written beside its place, flushed to disk and renamed, so that a process killed at any
moment leaves either the old file or the new one. A stage counts as finished when done.json is
there.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import safetensors.torch
from torch import Tensor

from .checkpoints import Checkpoints
from .errors import EnvironmentProblem
from .files import is_empty, json_bytes, sha256_hex, write_atomically

FORMAT = 2
DESCRIPTION = "stage.json"
ANALYSES = "analyses"
FAILURE = "failed.txt"


class Store:
    """One store directory. `open` it for reading; hold `lock()` to write.

    Args:
        accept_stopped: whether a stage that was given up early counts as finished.
    """

    def __init__(self, path: Path, *, accept_stopped: bool = True) -> None:
        self.path = path
        self.accept_stopped = accept_stopped
        self.checkpoints = Checkpoints(path / "checkpoints", self.is_finished)

    @classmethod
    def open(cls, path: Path, *, create: bool) -> "Store":
        """Open a store, or make an empty one.

        Raises:
            EnvironmentProblem: not a store, a store of another format version, or not writable.
        """
        marker = path / "store.json"
        if not marker.exists():
            strangers = path.exists() and not (path.is_dir() and is_empty(path))
            # Looked at again: another process may have made the store since.
            if strangers and not marker.exists():
                raise EnvironmentProblem(
                    f"{path}: exists and is not a fasttrain store (no store.json)"
                )
            if not create:
                raise EnvironmentProblem(f"{path}: no such store")
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EnvironmentProblem(f"{path}: cannot be made: {error.strerror}") from None
            write_atomically(marker, json_bytes({"program": "fasttrain", "format": FORMAT}))
        version = _read_json(marker).get("format")
        if version != FORMAT:
            raise EnvironmentProblem(
                f"{marker}: store of format {version}; this version reads format {FORMAT}"
            )
        return cls(path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing.

        Raises:
            EnvironmentProblem: another process holds it.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise EnvironmentProblem(
                f"{self.path}: in use by another fasttrain process; wait, or use another --store"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def analyses(self) -> "Store":
        """Where analyses of finished stages lie, as stages do here."""
        return Store(self.path / ANALYSES)

    def stages(self) -> list[str]:
        """Ids of the finished stages, sorted."""
        return sorted(done.parent.name for done in self.path.glob("*/done.json"))

    def summary(self, stage: str) -> dict[str, Any] | None:
        """The content of done.json, or None if the stage is not finished.

        Raises:
            EnvironmentProblem: done.json is not what was written, or a file it lists is missing or
            of another size.
        """
        done = self.path / stage / "done.json"
        if not done.exists():
            return None
        record = _read_json(done)
        if record.pop("sha256", None) != sha256_hex(json_bytes(record)):
            raise _damaged(done, "does not match its sha256")
        for name, entry in record["files"].items():
            path = done.parent / name
            if not path.exists():
                raise _damaged(path, "is missing")
            if path.stat().st_size != entry["bytes"]:
                raise _damaged(path, f"has {path.stat().st_size} bytes instead of {entry['bytes']}")
        return None if record.get("stopped") and not self.accept_stopped else record

    def is_finished(self, stage: str) -> bool:
        """Whether there is a done.json, whatever it says."""
        return (self.path / stage / "done.json").exists()

    def is_stopped(self, stage: str) -> bool:
        """Whether a finished stage was given up early."""
        return bool((self.summary(stage) or {}).get("stopped"))

    def description(self, stage: str) -> dict[str, Any]:
        """The content of a finished stage's stage.json."""
        return json.loads(self.read(stage, DESCRIPTION))

    def read(self, stage: str, name: str) -> bytes:
        """A result file of a finished stage, checked against its digest.

        Raises:
            EnvironmentProblem: the file is missing or is not what was written.
        """
        path, sha256 = self._listed(stage, name)
        content = path.read_bytes()
        if sha256_hex(content) != sha256:
            raise _damaged(path, "does not match its sha256")
        return content

    def checked(self, stage: str, name: str) -> Path:
        """The path of a result file, for reading it in parts.

        Raises:
            EnvironmentProblem: the file is missing or is not what was written.
        """
        path, sha256 = self._listed(stage, name)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise _damaged(path, "does not match its sha256")
        return path

    def _listed(self, stage: str, name: str) -> tuple[Path, str]:
        """A result file of a finished stage and its digest."""
        record = self.summary(stage)
        path = self.path / stage / name
        if record is None or name not in record["files"]:
            raise _damaged(path, "is missing")
        return path, record["files"][name]["sha256"]

    def read_tensors(self, stage: str, name: str) -> dict[str, Tensor]:
        """The tensors of a result file of a finished stage."""
        return safetensors.torch.load(self.read(stage, name))

    def begin(self, stage: str, description: dict[str, Any]) -> None:
        """Make the stage's directory and say what it is."""
        folder = self.path / stage
        folder.mkdir(parents=True, exist_ok=True)
        # Finished if it was given up early, and is now to run to its end.
        self.reopen(stage)
        write_atomically(folder / DESCRIPTION, json_bytes(description))

    def clean(self) -> None:
        """Drop what a process that was killed left; the caller holds the lock."""
        self.checkpoints.tidy()
        for path in self.path.glob("**/.*.tmp"):
            # Reports are written without the lock: those may be of a process that is at it.
            if "report" not in path.relative_to(self.path).parts:
                path.unlink(missing_ok=True)

    def reopen(self, stage: str) -> None:
        """Let a finished stage count as not yet run."""
        (self.path / stage / "done.json").unlink(missing_ok=True)

    def finish(self, stage: str, files: dict[str, bytes], summary: dict[str, Any]) -> None:
        """Write the results, then done.json."""
        folder = self.path / stage
        for name, content in files.items():
            write_atomically(folder / name, content)
        files = {**files, DESCRIPTION: (folder / DESCRIPTION).read_bytes()}
        listing = {
            name: {"bytes": len(content), "sha256": sha256_hex(content)}
            for name, content in files.items()
        }
        record = {**summary, "files": listing}
        record["sha256"] = sha256_hex(json_bytes(record))
        write_atomically(folder / "done.json", json_bytes(record))
        self.tidy(stage)

    def tidy(self, stage: str) -> None:
        """Drop what a finished stage needs no more."""
        (self.path / stage / FAILURE).unlink(missing_ok=True)

    def fail(self, stage: str, error: str) -> None:
        """Record why a stage could not be run; the next sweep tries it again."""
        folder = self.path / stage
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FAILURE, error.encode())

    def state(self, stage: str) -> str:
        """How the stage ended, or failed, or todo."""
        summary = self.summary(stage)
        if summary is not None:
            return summary["state"]
        return "failed" if (self.path / stage / FAILURE).exists() else "todo"

    def free_bytes(self) -> int:
        """Free space where the store lies or will lie."""
        return shutil.disk_usage(self.folder_that_exists()).free

    def folder_that_exists(self) -> Path:
        """The store's folder, or the nearest one above it that is there."""
        return next(p for p in (self.path, *self.path.absolute().parents) if p.is_dir())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except ValueError:
        raise _damaged(path, "is not valid JSON") from None
    if not isinstance(content, dict):
        raise _damaged(path, "is not a JSON object")
    return content


def _damaged(path: Path, what: str) -> EnvironmentProblem:
    remedy = "use another --store"
    if path.name != "store.json":
        analysis = path.parent.parent.name == ANALYSES
        again = "fasttrain analyse (or locate)" if analysis else "the sweep"
        remedy = f"delete {path.parent} and run {again} again"
    return EnvironmentProblem(f"{path}: {what}; {remedy}")
