"""Everything known of the set-ups of a store, for figures and reports."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..results import Finished, load_grids
from .records import load_analyses
from .tables import Grid

IDS = ("stage", "stage_a", "stage_b")
"""columns of analyses that hold ids of stages"""


def all_grids(store: str | Path, found: Sequence[Finished] | None = None) -> list[Grid]:
    """A `Grid` for each set-up of `results.load_grids`, in its order, with what was analysed.

    Args:
        found: the finished stages, if the store has been looked at already.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    stages, epochs, configurations = load_grids(store, found)
    tables = load_analyses(store)
    return [
        Grid(
            setup=setup,
            configuration=configuration,
            stages=_of(stages, setup),
            epochs=_of(epochs, setup),
            **{
                name: _among(table, set(stages.loc[stages["setup"] == setup, "stage"]))
                for name, table in tables.items()
            },
        )
        for setup, configuration in configurations.items()
    ]


def _of(table: pd.DataFrame, setup: str) -> pd.DataFrame:
    return table[table["setup"] == setup].reset_index(drop=True)


def _among(table: pd.DataFrame, stages: set[str]) -> pd.DataFrame:
    """The rows that are about these stages alone."""
    columns = [column for column in IDS if column in table]
    return table[table[columns].isin(stages).all(axis=1)].reset_index(drop=True)
