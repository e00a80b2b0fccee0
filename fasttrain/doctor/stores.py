"""Whether a store is sound: every byte against its digest, every reference against what it names.

A finding says what is wrong and what to do about it. A note is about what is no part of the store,
and does it no harm. Nothing is written, so that a store can be looked at while a sweep runs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..analysis.records import current
from ..errors import EnvironmentProblem
from ..machine.files import file_sha256
from ..report.page.pictures import written
from ..store.checkpoints import checked_checkpoint
from ..store.entries import DONE, NAME, STATE, Entry
from ..store.notes import note_files, read_note
from ..store.pack_records import PackRecords, read_record
from ..store.store import DESCRIPTION, FAILURE, Store

T = TypeVar("T")
AS_IN_PARENT = ("setup", "plr", "seed", "dataset")
"""what a stage's description has from its parent's"""


@dataclass
class Diagnosis:
    """What was looked at, and what came out."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """how many finished stages, analyses, ... were looked at"""
    num_bytes: int = 0


def examine(path: Path) -> Diagnosis:
    """Look at everything in a store.

    Raises:
        EnvironmentProblem: not a store, or one of another format.
    """
    store = Store.open(path, create=False)
    found = Diagnosis()
    stages = _entries(store, "stages", found)
    _references(store, stages, found)
    for stage in store.begun():
        _try(found, store.unfinished_description, stage)
        _try(found, store.failure, stage)
    _checkpoints(store, found)
    records = PackRecords(store)
    found.counts["packs"] = len(records.paths())
    for record in records.paths():
        _try(found, read_record, record)
    analyses = _entries(store.analyses, "analyses", found)
    _analyses(store, stages, analyses, found)
    found.findings += _figures(path, found)
    _notes(store, found)
    return found


def _try(found: Diagnosis, look: Callable[..., T], *arguments: Any) -> T | None:
    """What `look` returns; a problem that it raises is a finding."""
    try:
        return look(*arguments)
    except EnvironmentProblem as error:
        found.findings.append(str(error))
    except OSError as error:
        found.findings.append(f"{error.filename}: {error.strerror}; make it readable")
    return None


def _entries(store: Store, what: str, found: Diagnosis) -> dict[str, Entry]:
    """The finished stages, or analyses, of which every byte is as it was written."""
    sound: dict[str, Entry] = {}
    for stage in store.stages():
        entry = _try(found, _whole, store, stage, found)
        if entry is not None:
            sound[stage] = entry
    found.counts[what] = len(store.stages())
    for folder in sorted(p.parent for n in (DONE, DESCRIPTION) for p in store.path.glob(f"*/{n}")):
        note = f"{folder}: its name is no stage id, so it is ignored; move it elsewhere"
        if not NAME.fullmatch(folder.name) and note not in found.notes:
            found.notes.append(note)
    return sound


def _whole(store: Store, stage: str, found: Diagnosis) -> Entry | None:
    entry = store.entry(stage)
    if entry is None:
        return None
    for name, listed in entry.done["files"].items():
        store.checked(stage, name)
        found.num_bytes += listed["bytes"]
    allowed = {*entry.done["files"], DONE, FAILURE}
    for path in sorted((store.path / stage).iterdir()):
        if path.name not in allowed:
            found.notes.append(f"{path}: is not part of the {store.noun}; it can be deleted")
    return entry


def _references(store: Store, stages: Mapping[str, Entry], found: Diagnosis) -> None:
    """Whether every stage's parent is there, and is the one that the stage started from."""
    for stage, (about, done) in stages.items():
        parent = about["parent"]
        if parent is None or (store.is_finished(parent) and parent not in stages):
            # A damaged parent is a finding of its own.
            continue
        folder = store.path / stage
        if parent not in stages:
            found.findings.append(
                f"{folder}: started from {store.path / parent}, which is not there;"
                " run the sweep again, which trains it"
            )
            continue
        above = stages[parent]
        differing = [name for name in AS_IN_PARENT if about[name] != above.about[name]]
        replaced = [
            earlier
            for earlier, state in done["built_on"].items()
            if earlier in stages
            and state != stages[earlier].done["files"].get(STATE, {}).get("sha256")
        ]
        if differing:
            wrong = f"differs from its parent {store.path / parent} in {', '.join(differing)}"
            found.findings.append(f"{folder}: {wrong}; {store.remedy(stage)}")
        elif replaced:
            found.findings.append(
                f"{folder}: started from another state of {store.path / replaced[0]} than the one"
                " there; run the sweep again, which trains it again"
            )


def _checkpoints(store: Store, found: Diagnosis) -> None:
    paths = store.checkpoints.files()
    found.counts["checkpoints"] = len(paths)
    for path in paths:
        # A sweep may have replaced it since.
        if path.exists() or path.is_symlink():
            found.num_bytes += len(_try(found, checked_checkpoint, path) or b"")


def _analyses(
    store: Store, stages: Mapping[str, Entry], analyses: Mapping[str, Entry], found: Diagnosis
) -> None:
    """Whether the stages of every analysis are there, and the analyses that reports draw from."""
    for analysis, (about, _) in analyses.items():
        missing = [stage for stage in about["stages"] if not store.is_finished(stage)]
        if missing:
            found.findings.append(
                f"{store.analyses.path / analysis}: measures {store.path / missing[0]}, which is"
                f" missing; run the sweep again, or {store.analyses.remedy(analysis)}"
            )
    chosen = _try(found, current, store) or {}
    named = {a for kinds in chosen.values() for members in kinds.values() for a in members}
    missing = sorted(a for a in named if not store.analyses.is_finished(a))
    if missing:
        found.findings.append(
            f"{store.analyses.path}: {len(missing)} of the analyses that reports draw from are"
            f" missing, such as {missing[0]}; run fasttrain analyse {store.path} again"
        )


def _notes(store: Store, found: Diagnosis) -> None:
    """Whether what people wrote on stages is as they wrote it, on stages that are there."""
    known = {*store.stages(), *store.begun()}
    found.counts["notes"] = 0
    for path in note_files(store.path):
        note = _try(found, read_note, path)
        found.counts["notes"] += 1
        if note is not None and note.stage not in known:
            found.notes.append(f"{path}: belongs to a stage that is missing; it can be deleted")


def _figures(store: Path, found: Diagnosis) -> Iterator[str]:
    """What is wrong with the files that reports wrote."""
    folder, again = store / "report" / "figures", f"run fasttrain report {store} again"
    found.counts["figures' files"] = 0
    files, _ = _try(found, written, folder) or ({}, {})
    for name, sha256 in files.items():
        found.counts["figures' files"] += 1
        try:
            if file_sha256(folder / name, again) != sha256:
                yield f"{folder / name}: is not what the report wrote; {again}"
        except FileNotFoundError:
            yield f"{folder / name}: is missing; {again}"
        except EnvironmentProblem as error:
            yield str(error)
