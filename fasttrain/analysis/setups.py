"""Everything known of the set-ups of a store, for figures and reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..store.sets import last_sets, load_sets
from ..store.setups import curves, load_setups
from ..store.status import Planned, read_plan
from ..store.tables import CHAIN, Finished, finished
from .dimensions import across_dimensions
from .records import compact_analyses
from .tables import IDS, SetupResults

PLANNED = ("kind", "plr", "flr", "k", "seed")
"""what a plan says of a stage"""


def all_setups(store: str | Path, found: Sequence[Finished] | None = None) -> list[SetupResults]:
    """What is known of each set-up of `load_setups`, in its order, with what was analysed.

    Args:
        found: the finished stages, if the store has been looked at already.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    plan = planned_stages(read_plan(Path(store)))
    found = finished(store) if found is None else found
    stages, configurations = load_setups(store, found)
    tables = compact_analyses(store)
    if any(f.about.get("probes") for f in found):
        # Figures of chains show every test pass, those of grids the last one.
        of_chains = any(f.experiment == CHAIN for f in found)
        tables["sets"] = (load_sets if of_chains else last_sets)(store, found)
    setups = [
        SetupResults(
            setup=setup,
            configuration=configuration,
            stages=_of(stages, setup),
            epochs=curves(store, found, stages[stages["setup"] == setup]),
            planned=_planned(plan, setup, configuration["training"]),
            **{
                name: _among(table, set(stages.loc[stages["setup"] == setup, "stage"]))
                for name, table in tables.items()
            },
        )
        for setup, configuration in configurations.items()
    ]
    return across_dimensions(setups, found)


def planned_stages(plan: Sequence[Planned]) -> pd.DataFrame:
    """A row for every stage of a store's plan: stage, kind, plr, flr, k, seed, epochs,
    inherit, setup."""
    stages = {stage: about for sweep in plan for stage, about in sweep.stages.items()}
    rows = [{"stage": stage, **about} for stage, about in stages.items()]
    table = pd.DataFrame(rows, columns=["stage", *PLANNED, "epochs", "inherit", "setup"])
    return table.astype({"plr": "float64", "flr": "float64", "k": "float64"})


def _planned(plan: pd.DataFrame, setup: str, training: Mapping[str, Any]) -> pd.DataFrame | None:
    """What is planned of a set-up with one way of fine-tuning; None if nothing is."""
    length = training.get("finetune_epochs")
    mine = plan[plan["setup"] == setup.partition("-")[0]]
    if length is not None:
        same = (mine["epochs"] == length) & (mine["inherit"] == training["inherit"])
        mine = mine[(mine["kind"] != "finetune") | same]
    return None if mine.empty else mine[["stage", *PLANNED]].reset_index(drop=True)


def _of(table: pd.DataFrame, setup: str) -> pd.DataFrame:
    return table[table["setup"] == setup].reset_index(drop=True)


def _among(table: pd.DataFrame, stages: set[str]) -> pd.DataFrame:
    """The rows that are about these stages alone."""
    if table.empty:
        return table
    of_these = np.ones(len(table), dtype=bool)
    # One by one: of several columns pandas would compare objects.
    for column in IDS:
        if column in table:
            of_these &= table[column].isin(stages).to_numpy()
    return table if of_these.all() else table[of_these].reset_index(drop=True)
