"""One look at a store: every stage is read and checked once, and not again while it stays as it is.

    <store>/.looked.json   what looks have found, with stamps of the files that it stands in

A stamp has the names, sizes, times and inodes of all files of a stage's directory. The time of
the last change of a file cannot be set back on a local file system, so that what was written,
renamed or put in place since is read and checked again. On a network file system that time is the
server's: a client may show an older one for some seconds, and what changes then, or while the
server's clock lags behind, may not be seen. What changes without that, such as a failing disk, is a
matter for `fasttrain doctor`; whatever reads a file for its content checks its digest as ever. What
another version of the program has found is not relied on: this one may check more.
"""

import contextlib
import hashlib
import os
import time
from typing import Any

from ..errors import EnvironmentProblem
from ..machine.files import write_atomically
from .entries import STATE
from .json_files import read_json, seal
from .reported import program
from .schema import Looked
from .store import Store

RECORD = ".looked.json"
SETTLED_S = 2.0
"""a file that is younger is not relied on: its next change might have the same time"""
_KEPT = ("state", "stopped", "built_on")
"""of a done.json; and the digest of the state"""


class Look(Store):
    """A store whose summaries are kept, as far as a plan asks for them.

    That is how stages ended, and what they were built on. What is finished or reopened elsewhere
    meanwhile is not seen.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.path, accept_stopped=store.accept_stopped, shapes=store.shapes)
        self.kept: dict[str, dict[str, Any] | None] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self.is_new = False
        # Derived: if it cannot be read, all stages are.
        with contextlib.suppress(EnvironmentProblem):
            found = read_json(self.path / RECORD, Looked, "", sealed=True)
            if found["program"] == program():
                self.known = found["stages"]

    def summary(self, stage: str) -> dict[str, Any] | None:
        """State, parents and the digest of the state from done.json, or None as of any store.

        Raises:
            EnvironmentProblem: as `entry`.
        """
        if stage not in self.kept:
            self.kept[stage] = self._summary(stage)
        return self.kept[stage]

    def _summary(self, stage: str) -> dict[str, Any] | None:
        # Before the files are read: what changes meanwhile has another one.
        stamp, is_settled = _stamp(f"{self.path}/{stage}")
        known = self.known.get(stage)
        if known is None or known["stamp"] != stamp:
            done = super().summary(stage)
            if done is None:
                return None
            kept = {name: done[name] for name in _KEPT}
            files = {name: done["files"][name] for name in (STATE,) if name in done["files"]}
            known = {"stamp": stamp, "summary": {**kept, "files": files}}
            if is_settled:
                self.known[stage] = known
                self.is_new = True
        summary = known["summary"]
        return None if summary["stopped"] and not self.accept_stopped else summary

    def reopen(self, stage: str) -> None:
        """Let a finished stage count as not yet run."""
        super().reopen(stage)
        self.kept.pop(stage, None)

    def keep(self) -> None:
        """Write down what was found, for the next look; the caller holds the store's lock."""
        # No result depends on it.
        with contextlib.suppress(EnvironmentProblem, OSError):
            names = set(os.listdir(self.path))
            there = {stage: known for stage, known in self.known.items() if stage in names}
            if self.is_new or len(there) < len(self.known):
                content = {"program": program(), "stages": there}
                write_atomically(self.path / RECORD, seal(content))


def _stamp(folder: str) -> tuple[str, bool]:
    """What the files of a folder look like from outside, and whether they are settled."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    except OSError:
        return "", False
    lines = [
        f"{name} {s.st_mode} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"
        for name, s in found
    ]
    latest = max((s.st_ctime for _, s in found), default=0.0)
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return digest, latest < time.time() - SETTLED_S
