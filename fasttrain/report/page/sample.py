"""What a page shows of more stages than it has room for: the first seeds, and what has a note.

Means, the summary and the figures are of all. Rows, curves and reasons are of the sample, so that a
page of tens of thousands of stages is no larger than one of thousands, and says so.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from fasttrain.report.page.curves import MAX_BYTES

ROOM_BYTES = 1_140_000
"""of a page beside its figures and fixed texts"""
STAGE_BYTES = 270
"""of a stage's row and curves in a full page"""
CELL_BYTES = 190
FEWEST = 200


class Sample(NamedTuple):
    """The stages of a set-up that a page shows one by one."""

    stages: pd.DataFrame
    curve_bytes: int
    """for their curves"""
    words: str
    """what is left out; empty if nothing"""


def sample(stages: pd.DataFrame, share: float) -> Sample:
    """The stages that there is room for.

    Args:
        stages: rows of `results.load` of one set-up.
        share: of the page's room that the set-up has.
    """
    cells = stages.reindex(columns=["kind", "plr", "flr", "k", "path"]).drop_duplicates()
    cell_bytes = CELL_BYTES * len(cells)
    most = max(FEWEST, int((share * ROOM_BYTES - cell_bytes) / STAGE_BYTES))
    curve_bytes = int(share * MAX_BYTES)
    if len(stages) <= most:
        return Sample(stages, curve_bytes, "")
    counts = stages["seed"].value_counts().sort_index()
    num_seeds = int((counts.cumsum() <= most).sum())
    is_shown = stages["seed"].isin(counts.index[: max(1, num_seeds)]).to_numpy(copy=True)
    which = f"seed {counts.index[0]}" + (
        f" to {counts.index[num_seeds - 1]}" if num_seeds > 1 else ""
    )
    if not num_seeds:
        places = np.flatnonzero(is_shown)
        is_shown[:] = False
        is_shown[places[np.linspace(0, len(places) - 1, most).round().astype(int)]] = True
        which = f"some cells, {which}"
    shown = stages[is_shown | (stages["note"] != "").to_numpy()]
    words = (
        f"Too many stages for a page: {len(shown)} of {len(stages)} have a row, a reason and curves"
        f" here ({which}, and what has a note). Means, the summary and the figures are of all;"
        " results.csv beside this page has every stage, and fasttrain.load_epochs every curve."
    )
    return Sample(shown.reset_index(drop=True), curve_bytes, words)
