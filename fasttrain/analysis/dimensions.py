"""What networks learn of pairs of patterns at every dimension: set-ups of a store side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from ..store.tables import Finished
from .tables import Grid

KIND = "pattern-pairs"
ABOUT = ["stage", "parent", "path", "seed"]


def across_dimensions(grids: Sequence[Grid], found: Sequence[Finished]) -> list[Grid]:
    """The set-ups, each with the scores of those that differ from it in the dimension alone."""
    pairs = [f for f in found if f.about["source"].get("kind") == KIND]
    dimensions = {f.setup: int(f.about["image_shape"][1]) for f in pairs}
    keys = {f.setup: _but_dimension(f) for f in pairs}
    return [
        replace(grid, dimensions=_scores(grids, keys, dimensions, keys[grid.setup]))
        if grid.setup in keys
        else grid
        for grid in grids
    ]


def _but_dimension(found: Finished) -> str:
    """What a set-up is besides its dimension, and the data that it makes."""
    setup = found.about["setup"]
    data = {name: v for name, v in setup["data"].items() if name not in ("digest", "dimension")}
    return json.dumps([{**setup, "data": data}, found.experiment], sort_keys=True)


def _scores(
    grids: Sequence[Grid], keys: dict[str, str], dimensions: dict[str, int], key: str
) -> pd.DataFrame:
    """One row per stage of such set-ups and evaluation set: what it scores at its end."""
    tables = []
    for grid in grids:
        if keys.get(grid.setup) == key:
            last = grid.sets.sort_values("epoch").groupby(["stage", "set"], sort=False).tail(1)
            rows = last[["stage", "set", "accuracy"]].merge(grid.stages[ABOUT], on="stage")
            tables.append(rows.assign(dimension=dimensions[grid.setup]))
    return pd.concat(tables, ignore_index=True)
