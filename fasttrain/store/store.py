"""The store: the directory that holds every result, and the only state there is.

    <store>/store.json                  format version
    <store>/plan.json, progress.json    what was asked for, and what runs now (see `status`)
    <store>/.lock                       held by the one process that writes, and by its workers
    <store>/.looked.json                what looks have found finished (see `look`)
    <store>/<stage>/stage.json          what the stage is (written first)
    <store>/checkpoints/<pack>-<digest>.safetensors   where a pack stands, while it runs
    <store>/packs/<pack>.json           which stages train together (see pack_records)
    <store>/<stage>/*.safetensors, metrics.parquet   its results
    <store>/<stage>/failed.txt          why it could not be run, if so
    <store>/<stage>/done.json           its id, a summary, digests of all of the above and of itself
    <store>/analyses/<id>/              the same of an analysis of finished stages
    <store>/analyses/current.json       which of them the figures are drawn from
    <store>/notes/                      what people wrote on stages (see `notes`)
    <store>/report/                     derived from all this (see `reported`)

Every file is written beside its place, flushed to disk and renamed, so that a process killed at any
moment leaves either the old file or the new one. A stage counts as finished when done.json is
there: it is written last. A stage's directory is named by its identity, which is checked against
done.json and stage.json whenever it is read; a directory of any other name is no stage.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EnvironmentProblem
from ..machine.files import (
    json_bytes,
    open_regular,
    read_regular,
    sha256_hex,
    write_all_atomically,
    write_atomically,
)
from ..machine.text import readable
from . import schema
from .checkpoints import Checkpoints
from .entries import DESCRIPTION, DONE, Entries
from .json_files import seal
from .marker import FORMAT, MARKER, check_store
from .schema import Shapes

ANALYSES = "analyses"
CURRENT = "current.json"
"""beside analyses: which of them figures are drawn from"""
FAILURE = "failed.txt"
LOCK_S = 0.2
"""seconds after which a lock that another holds is taken to be held for longer"""


class Result(NamedTuple):
    """What a stage leaves when it ends."""

    stage: str
    files: dict[str, bytes]
    summary: dict[str, Any]


class Store(Entries):
    """One store directory. `open` it for reading; hold `lock()` to write.

    Args:
        accept_stopped: whether a stage that was given up early counts as finished.
        shapes: of what lies in it.
    """

    def __init__(
        self, path: Path, *, accept_stopped: bool = True, shapes: Shapes = schema.STAGES
    ) -> None:
        super().__init__(path, shapes)
        self.accept_stopped = accept_stopped
        self.checkpoints = Checkpoints(path / "checkpoints", self.is_finished)
        self.lock_file: int | None = None

    @classmethod
    def open(cls, path: Path, *, create: bool) -> "Store":
        """Open a store, or make an empty one.

        Raises:
            EnvironmentProblem: not a store, a store of another format version, or not writable.
        """
        check_store(path, create=create)
        marker = path / MARKER
        if not marker.exists():
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EnvironmentProblem(f"{path}: cannot be made: {error.strerror}") from None
            write_atomically(marker, json_bytes({"program": "fasttrain", "format": FORMAT}))
        return cls(path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing.

        Raises:
            EnvironmentProblem: another process holds it, or what is in its place cannot be locked.
        """
        path = self.path / ".lock"
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise EnvironmentProblem(f"{path}: is not a regular file; delete it and run again")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                is_mine = _locked(file)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{path}: cannot be locked: {error.strerror}; use a --store on another file"
                    " system"
                ) from None
            if not is_mine:
                raise EnvironmentProblem(
                    f"{self.path}: in use by another fasttrain process; wait, or use another"
                    " --store"
                )
            self.lock_file = file
            yield
        finally:
            # Not unlocked: workers that hold it too keep it locked until the last of them is gone.
            self.lock_file = None
            os.close(file)

    @property
    def analyses(self) -> "Store":
        """Where analyses of finished stages lie, as stages do here."""
        return Store(self.path / ANALYSES, shapes=schema.ANALYSES)

    def begun(self) -> list[str]:
        """Ids of the stages that were begun, or failed to begin, and have not finished, sorted."""
        begun = {*self._named(DESCRIPTION), *self._named(FAILURE)}
        return sorted(stage for stage in begun if not self.is_finished(stage))

    def summary(self, stage: str) -> dict[str, Any] | None:
        """The content of done.json, or None if the stage does not count as finished.

        Raises:
            EnvironmentProblem: as `entry`.
        """
        entry = self.entry(stage)
        if entry is None or (entry.done.get("stopped") and not self.accept_stopped):
            return None
        return entry.done

    def is_stopped(self, stage: str) -> bool:
        """Whether a finished stage was given up early."""
        return bool((self.summary(stage) or {}).get("stopped"))

    def begin(self, stage: str, description: dict[str, Any]) -> None:
        """Make the stage's directory and say what it is."""
        self.begin_all({stage: description})

    def begin_all(self, descriptions: Mapping[str, dict[str, Any]]) -> None:
        """Make the directories of stages and say what they are, by id."""
        for stage in descriptions:
            (self.path / stage).mkdir(parents=True, exist_ok=True)
            # Finished if it was given up early, and is now to run to its end.
            self.reopen(stage)
        write_all_atomically(
            (self.path / stage / DESCRIPTION, json_bytes(description))
            for stage, description in descriptions.items()
        )

    def clean(self) -> None:
        """Drop what a process that was killed left; the caller holds the lock."""
        self.checkpoints.tidy()
        for path in self.path.glob("**/.*.tmp"):
            # Reports and notes are written without the lock: by a process that is at it, perhaps.
            if path.relative_to(self.path).parts[0] not in ("report", "notes"):
                path.unlink(missing_ok=True)

    def reopen(self, stage: str) -> None:
        """Let a finished stage count as not yet run."""
        (self.path / stage / DONE).unlink(missing_ok=True)

    def finish(self, stage: str, files: dict[str, bytes], summary: dict[str, Any]) -> None:
        """Write the results, then done.json."""
        self.finish_all([Result(stage, files, summary)])

    def finish_all(self, results: "Iterable[Result]") -> None:
        """Write the results of several stages, then the done.json of each.

        Args:
            results: taken one by one, so that they need not be in memory together.
        """
        records: dict[str, dict[str, Any]] = {}

        def contents() -> Iterator[tuple[Path, bytes]]:
            for stage, files, summary in results:
                folder = self.path / stage
                described = read_regular(folder / DESCRIPTION, self.remedy(stage))
                listing = {
                    name: {"bytes": len(content), "sha256": sha256_hex(content)}
                    for name, content in {**files, DESCRIPTION: described}.items()
                }
                records[stage] = {**summary, "id": stage, "files": listing}
                yield from ((folder / name, content) for name, content in files.items())

        write_all_atomically(contents())
        write_all_atomically((self.path / s / DONE, seal(r)) for s, r in records.items())
        for stage in records:
            self.tidy(stage)

    def tidy(self, stage: str) -> None:
        """Drop what a finished stage needs no more."""
        (self.path / stage / FAILURE).unlink(missing_ok=True)

    def fail(self, stage: str, error: str) -> None:
        """Record why a stage could not be run; the next sweep tries it again."""
        folder = self.path / stage
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FAILURE, readable(error).encode())

    def failure(self, stage: str) -> str | None:
        """Why a stage could not be run; None if it never failed, or has since been run."""
        path = self.path / stage / FAILURE
        try:
            with open_regular(path, self.remedy(stage)) as file:
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return None

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


def _locked(file: int) -> bool:
    """Lock an open file for this process alone; whether that was possible."""
    # Not at once: `status` may hold it for an instant to see whether somebody does.
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOCK_S / 10)
