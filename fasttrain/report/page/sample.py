"""What a page shows of more stages than it has room for: the first seeds, and what has a note.

Means, the summary and the figures are of all. Rows, curves and reasons are of the sample, and many
long notes are shortened, so that a page of tens of thousands of stages is no larger than one of
thousands, and says so.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import escape

from fasttrain.machine.text import readable
from fasttrain.report.page.curves import MAX_BYTES

ROOM_BYTES = 1_140_000
"""of a page beside its figures and fixed texts"""
STAGE_BYTES = 270
"""of a stage's row and curves in a full page"""
CELL_BYTES = 190
FEWEST = 200
NOTE_BYTES = 200_000
"""of all notes of a page together; a stage's row has room for a short one"""


class Sample(NamedTuple):
    """The stages of a set-up that a page shows one by one."""

    stages: pd.DataFrame
    curve_bytes: int
    """for their curves"""
    words: str
    """what is left out; empty if nothing"""
    note_words: str
    """how notes are shortened; empty if they are not"""


def sample(stages: pd.DataFrame, share: float) -> Sample:
    """The stages that there is room for.

    Args:
        stages: rows of `results.load` of one set-up.
        share: of the page's room that the set-up has.
    """
    cells = stages.reindex(columns=["kind", "plr", "flr", "k", "path"]).drop_duplicates()
    cell_bytes = CELL_BYTES * len(cells)
    note_bytes = min(int(share * NOTE_BYTES), int(stages["note"].str.len().sum()))
    most = max(FEWEST, int((share * ROOM_BYTES - cell_bytes - note_bytes) / STAGE_BYTES))
    curve_bytes = int(share * MAX_BYTES)
    shown, words = (stages, "") if len(stages) <= most else _some(stages, most)
    notes, note_words = _notes(shown["note"], int(share * NOTE_BYTES))
    return Sample(shown.assign(note=notes), curve_bytes, words, note_words)


def _some(stages: pd.DataFrame, most: int) -> tuple[pd.DataFrame, str]:
    """No more stages than that, and what is left out."""
    has_note = (stages["note"] != "").to_numpy(copy=True)
    noted = _few(has_note, most // 2)
    counts = stages["seed"].value_counts().sort_index()
    num_seeds = int((counts.cumsum() <= most - noted.sum()).sum())
    is_shown = stages["seed"].isin(counts.index[: max(1, num_seeds)]).to_numpy(copy=True)
    which = f"seed {counts.index[0]}" + (
        f" to {counts.index[num_seeds - 1]}" if num_seeds > 1 else ""
    )
    if not num_seeds:
        is_shown = _few(is_shown, most - int(noted.sum()))
        which = f"some cells, {which}"
    shown = stages[is_shown | noted]
    what = "what" if noted.sum() == has_note.sum() else "some of what"
    words = (
        f"Too many stages for a page: {len(shown)} of {len(stages)} have a row, a reason and curves"
        f" here ({which}, and {what} has a note). Means, the summary and the figures are of all;"
        " results.csv beside this page has every stage, and fasttrain.load_epochs every curve."
    )
    return shown.reset_index(drop=True), words


def _few(chosen: np.ndarray, most: int) -> np.ndarray:
    """Of these places as many as allowed, from the first to the last."""
    places = np.flatnonzero(chosen)
    few = np.zeros_like(chosen)
    if most and len(places):
        few[places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)]] = 1
    return few


def _notes(notes: pd.Series, room: int) -> tuple[pd.Series, str]:
    """Notes that take no more bytes of a page than there is room for, and words if they are cut."""
    length = longest = int(notes.str.len().max())
    cut = notes
    while length > 1 and sum(len(readable(escape(note)).encode()) for note in cut if note) > room:
        length //= 2
        cut = notes.where(notes.str.len() <= length, notes.str[:length] + "…")
    if length == longest:
        return notes, ""
    words = f"Notes are cut to {length} signs here; results.csv beside this page has them whole."
    return cut, words
