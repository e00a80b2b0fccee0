"""Where a store stands, from two small files that its driver keeps. Imports nothing heavy.

    <store>/plan.json       the sweeps that it was asked for, and the stages of each
    <store>/progress.json   what runs at this moment; gone when a driver ends, left behind by a kill

A plan is a list of sweeps, latest last. A sweep whose stages another one has all is dropped, and so
is an earlier plan of the same command: adding seeds forgets nothing, and repeating a sweep adds
nothing. Both files only inform: no result depends on them, and a store without them is whole.
"""

import fcntl
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import EnvironmentProblem
from ..machine.files import json_bytes, write_atomically
from . import schema
from .json_files import read_json
from .marker import check_store

PLAN = "plan.json"
PROGRESS = "progress.json"
FORMAT = 1
SILENT_S = 10.0
"""seconds without a report from a driver that are worth mentioning"""


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True)
class Planned:
    """A sweep that the store was asked for."""

    command: str
    folder: str
    """where it was given"""
    stages: Mapping[str, Mapping[str, Any]]
    """by id: kind, plr, flr, k, seed, epochs, inherit, setup (an id, as in the tables)"""
    accept_stopped: bool
    """whether a stage that was given up counts as finished"""
    more: bool
    """whether stages may follow: a search that has not ended"""
    shard: str | None = None
    """the part of a study that it is, as `1/4`; None if it is all of it"""


@dataclass(frozen=True)
class Progress:
    """What a driver reported last."""

    format: int
    command: str
    pid: int
    host: str
    written: float
    """when, in seconds since 1970"""
    phase: str
    """what it does, as long as it does not count stages"""
    counts: bool
    processes: int
    more: bool
    """whether stages may follow those that it counts"""
    left_s: float | None
    packs: Sequence[str]
    """what trains at this moment"""

    def driver(self) -> str:
        """Which process it is."""
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Status:
    """Where a store stood at one moment."""

    path: Path
    plan: Sequence[Planned]
    left: Sequence[Sequence[str]]
    """of every sweep of the plan the ids that are not finished"""
    num_failed: int
    """of these, those that could not be run"""
    num_finished: int
    """stages of the store, planned or not"""
    progress: Progress | None
    """of a driver that runs, if it can be read, or was killed"""
    running: bool

    def sentences(self, folder: Path | None = None) -> list[str]:
        """What there is to say, most important first.

        Args:
            folder: where the reader is, to whom a command of another folder is given with a `cd`.
        """
        if self.running:
            return list(self._of_running(self.progress))
        if not self.plan:
            return [f"Plan unknown: {self._count()}, none asked for by a sweep of this version."]
        unfinished = [p for p, left in zip(self.plan, self.left, strict=True) if left or p.more]
        if not unfinished:
            return [f"Finished: {self._count().removesuffix(' finished')}."]
        how = "Not running"
        if self.progress is not None:
            how += f"; {self.progress.driver()} was killed"
        commands = [_command(planned, folder) for planned in unfinished]
        return [f"{how}. {self._count()}.", *(f"Resume with: {text}" for text in commands)]

    def _count(self) -> str:
        if not self.plan:
            return f"{_stages(self.num_finished)} finished"
        wanted = {stage for planned in self.plan for stage in planned.stages}
        left = {stage for ids in self.left for stage in ids}
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        more = ", and more to be found" if any(planned.more for planned in self.plan) else ""
        whole = f"{_stages(len(wanted))}{self._shards()}"
        return f"{len(wanted) - len(left)} of {whole} finished{failed}{more}"

    def _shards(self) -> str:
        """Which parts of a study the plan is made of, if it is of such alone."""
        shards = [planned.shard for planned in self.plan]
        if None in shards:
            return ""
        few = ", ".join(map(str, shards)) if len(shards) <= 8 else str(len(shards))
        return f" of shard {few}" if len(shards) == 1 else f" of shards {few}"

    def _of_running(self, progress: Progress | None) -> Iterator[str]:
        if progress is None:
            # It cannot write where it stands, on a full disk for instance, or has yet to.
            yield f"Running (a process holds the store and does not say more): {self._count()}."
            return
        silent_s = max(0.0, time.time() - progress.written)
        what, silent = progress.phase, ""
        if progress.counts:
            what = self._count()
            if progress.left_s is not None and progress.left_s > silent_s:
                what += f", about {duration(max(1.0, progress.left_s - silent_s))} left"
                what += " of this round" if progress.more else ""
            if silent_s > SILENT_S:
                silent = f", last heard of {duration(silent_s)} ago"
        yield f"Running ({progress.driver()}{silent}): {what}."
        if progress.packs:
            at_work = f"{len(progress.packs)} of {progress.processes} processes at work"
            yield f"{at_work}: {'; '.join(progress.packs)}."
        yield f"Command: {progress.command}"


def read(path: Path, *, running: bool | None = None) -> Status:
    """Look at a store.

    Args:
        running: whether a driver is at work, where that is known; else the lock tells.

    Raises:
        EnvironmentProblem: not a store, or one of another format.
    """
    check_store(path, create=False)
    # Before the stages: what ends meanwhile is then seen as finished, not as killed.
    progress = _progress(path)
    if running is None:
        running = is_locked(path)
    plan = read_plan(path)
    left = [
        [stage for stage in planned.stages if not _is_finished(path / stage, planned)]
        for planned in plan
    ]
    waiting = {stage for ids in left for stage in ids}
    if progress is not None and not running:
        # Gone by now unless the driver was killed.
        progress = _progress(path)
    return Status(
        path,
        plan,
        left,
        sum((path / stage / "failed.txt").exists() for stage in waiting),
        sum(1 for _ in path.glob("*/done.json")),
        progress,
        running,
    )


def read_plan(path: Path) -> list[Planned]:
    """The plan of a store; empty if it has none that can be read."""
    content = _read(path / PLAN, schema.Plan) or {"sweeps": []}
    return [Planned(**sweep) for sweep in content["sweeps"]]


def write_plan(path: Path, plan: Sequence[Planned]) -> None:
    """Write the plan of a store.

    Raises:
        EnvironmentProblem: it cannot be written.
    """
    # Without what is not given, as before there were shards: those versions read it, too.
    sweeps = [{k: v for k, v in vars(one).items() if v is not None} for one in plan]
    write_atomically(path / PLAN, json_bytes({"format": FORMAT, "sweeps": sweeps}))


def merged(plan: Sequence[Planned], new: Planned) -> list[Planned]:
    """The plan with another sweep; see the head of this file."""
    kept = [
        old
        for old in plan
        if (old.command, old.folder) != (new.command, new.folder)
        and not old.stages.keys() <= new.stages.keys()
    ]
    # One cell of a grid is no plan of its own, unless it is the search that may go on.
    inside = any(new.stages.keys() <= old.stages.keys() for old in kept) and not new.more
    return kept if inside else [*kept, new]


def is_locked(path: Path) -> bool:
    """Whether a process holds the store, found out by a shared lock of an instant."""
    try:
        descriptor = os.open(path / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system without such locks, on which nothing can hold a store.
        return False
    finally:
        os.close(descriptor)
    return False


def show(path: Path) -> int:
    """Print where a store stands; returns the exit code, 0."""
    first, *others = read(path).sentences(Path.cwd())
    print(f"{path}: {first[0].lower()}{first[1:]}")
    for line in others:
        print(f"  {line[0].lower()}{line[1:]}")
    return 0


def _is_finished(folder: Path, planned: Planned) -> bool:
    done = folder / "done.json"
    if not done.exists():
        return False
    return planned.accept_stopped or not (_read(done, schema.StageDone) or {}).get("stopped")


def _progress(path: Path) -> Progress | None:
    content = _read(path / PROGRESS, schema.Progress)
    return None if content is None else Progress(**content)


def _read(path: Path, shape: type[BaseModel]) -> dict[str, Any] | None:
    """What a file says, or None: one that only informs never stops anybody."""
    try:
        return read_json(path, shape, "")
    except EnvironmentProblem:
        return None


def _stages(count: int) -> str:
    return f"{count} stage{'' if count == 1 else 's'}"


def _command(planned: Planned, folder: Path | None) -> str:
    if folder is None or str(folder) == planned.folder:
        return planned.command
    return f"cd {shlex.quote(planned.folder)} && {planned.command}"
