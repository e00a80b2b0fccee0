"""Notes that people write on stages: beside the results, and part of no identity.

    <store>/notes/<stage>-<digest of the text>.json   a note: stage, text, date, digest of all this

A file is one note. It is written atomically and never changed, so that no lock is needed: notes can
be written while a sweep holds the store. Those that two write at once are both kept, as are those
of stores that are joined.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EnvironmentProblem, UsageError, nearest
from ..machine.files import make_folder, sha256_hex, write_atomically
from ..machine.text import readable
from ..plan.stages import label_of
from ..settings.limits import shown
from . import schema
from .json_files import read_json, seal
from .store import Store

FOLDER = "notes"
MAX_SIGNS = 10_000
"""of a note"""
MOST_NAMED = 5
"""stages that a message names"""


class Note(NamedTuple):
    """A note on a stage."""

    stage: str
    """its id"""
    text: str
    date: str
    """when it was written, to the second"""

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.stage}-{sha256_hex(self.text.encode())[: schema.HASH_LENGTH]}.json"


def read_notes(store: Path) -> list[Note]:
    """All notes of a store, those on a stage together and in the order of their dates.

    A damaged one is left out: results are read whatever lies beside them, and `fasttrain doctor`
    names it. So is one that another process has just removed.
    """
    notes = []
    for path in note_files(store):
        with contextlib.suppress(EnvironmentProblem):
            notes.append(read_note(path))
    return sorted(notes, key=lambda note: (note.stage, note.date, note.text))


def note_files(store: Path) -> list[Path]:
    """The files of the notes of a store."""
    return sorted(p for p in (store / FOLDER).glob("*.json") if not p.name.startswith("."))


def read_note(path: Path) -> Note:
    """The note in a file.

    Raises:
        EnvironmentProblem: the file is missing or is not what was written.
    """
    remedy = "delete it, and write the note again"
    note = Note(**read_json(path, schema.Note, remedy, sealed=True))
    if note.file != path.name:
        raise EnvironmentProblem(f"{path}: holds the note of {note.file}; {remedy}")
    return note


def texts(notes: Iterable[Note]) -> dict[str, str]:
    """What notes say of each stage, by id: several one below the other."""
    found: dict[str, str] = {}
    for note in notes:
        found[note.stage] = "\n".join(filter(None, [found.get(note.stage), note.text]))
    return found


def write_note(store: Path, stage: str, text: str) -> list[Note]:
    """Write a note on a stage in place of those that are on it; returns those.

    Args:
        text: removes them and writes none if it is empty.

    Raises:
        UsageError: a text that is too long.
        EnvironmentProblem: a file that cannot be written.
    """
    text = readable(text).strip()
    if len(text) > MAX_SIGNS:
        raise UsageError(f"the note has {len(text)} signs; allowed are {MAX_SIGNS}")
    before = [note for note in read_notes(store) if note.stage == stage]
    note = Note(stage, text, f"{datetime.now():%Y-%m-%d %H:%M:%S}")
    if text:
        copy_notes([note], store)
    replaced = [old for old in before if not text or old.file != note.file]
    for old in replaced:
        (store / FOLDER / old.file).unlink(missing_ok=True)
    return replaced


def copy_notes(notes: Sequence[Note], store: Path) -> int:
    """Write notes that the store has not yet; returns how many these are."""
    folder = store / FOLDER
    new = {note.file: note for note in notes if not (folder / note.file).exists()}
    if new:
        make_folder(folder)
    for file, note in new.items():
        write_atomically(folder / file, seal(note._asdict()))
    return len(new)


def label_in(store: Store, stage: str) -> str:
    """The name of a stage, or its id where the store does not describe it."""
    with contextlib.suppress(EnvironmentProblem):
        about = store.unfinished_description(stage)
        return stage if about is None else label_of(about)
    return stage


def find_stage(store: Store, given: str) -> str:
    """The id of the stage that is given by its id, a beginning of that, or its name.

    Raises:
        UsageError: no stage that was begun or finished, or several.
    """
    ids = sorted({*store.stages(), *store.begun()})
    found = [stage for stage in ids if given and stage.startswith(given)]
    labels: Mapping[str, str] = {}
    if not found:
        labels = {stage: label_in(store, stage) for stage in ids}
        found = [stage for stage, label in labels.items() if _squeezed(label) == _squeezed(given)]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        names = ", ".join(found[:MOST_NAMED]) + more
        raise UsageError(f"{shown(given)} is {len(found)} stages of {store.path}: {names}")
    meant = nearest(given, [*ids, *labels.values()], 3)
    raise UsageError(
        f"{shown(given)} is no stage of {store.path}{meant}; a stage is given by its id, a"
        " beginning of that, or its name, as in 'finetune plr 0.01 flr 0.001 seed 0'"
    )


def _squeezed(label: str) -> str:
    """A name without what people write in different ways: case, spaces, the form of numbers."""
    return " ".join(map(_plain, label.lower().replace(">", " > ").split()))


def _plain(word: Any) -> str:
    try:
        return f"{float(word):g}"
    except ValueError:
        return word
