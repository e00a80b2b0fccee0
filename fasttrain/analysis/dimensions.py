"""What networks learn of pairs of patterns at every dimension: set-ups of a store side by side."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from ..store.tables import Finished
from .tables import SetupResults

KIND = "pattern-pairs"
ABOUT = ["stage", "parent", "path", "seed"]


def across_dimensions(
    setups: Sequence[SetupResults], found: Sequence[Finished]
) -> list[SetupResults]:
    """The set-ups, each with the scores of those that differ from it in the dimension alone."""
    pairs = [f for f in found if f.about["source"].get("kind") == KIND]
    dimensions = {f.setup: int(f.about["image_shape"][1]) for f in pairs}
    keys = {f.setup: _but_dimension(f) for f in pairs}
    return [
        replace(results, dimensions=_scores(setups, keys, dimensions, keys[results.setup]))
        if results.setup in keys
        else results
        for results in setups
    ]


def _but_dimension(found: Finished) -> str:
    """What a set-up is besides its dimension, and the data that it makes."""
    setup = found.about["setup"]
    data = {name: v for name, v in setup["data"].items() if name not in ("digest", "dimension")}
    return json.dumps([{**setup, "data": data}, found.experiment], sort_keys=True)


def _scores(
    setups: Sequence[SetupResults], keys: dict[str, str], dimensions: dict[str, int], key: str
) -> pd.DataFrame:
    """One row per stage of such set-ups and evaluation set: what it scores at its end."""
    tables = []
    for results in setups:
        if keys.get(results.setup) == key:
            last = results.sets.sort_values("epoch").groupby(["stage", "set"], sort=False).tail(1)
            rows = last[["stage", "set", "accuracy"]].merge(results.stages[ABOUT], on="stage")
            tables.append(rows.assign(dimension=dimensions[results.setup]))
    return pd.concat(tables, ignore_index=True)
