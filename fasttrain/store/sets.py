"""Scores on every evaluation set, the test set and the probe sets, as one long table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .columns import PROBE_COLUMNS
from .tables import Finished, finished, measured_epochs

COLUMNS = {"stage": "str", "epoch": "int64", "set": "str", "loss": "float64"}
COLUMNS |= {"accuracy": "float64"}


def load_sets(store: str | Path, found: Sequence[Finished] | None = None) -> pd.DataFrame:
    """One row per finished stage, epoch with a test pass, and evaluation set.

    Columns: stage (id, as in `load`), epoch (counted from the start of pre-training), set ("test",
    or the name of a probe set), loss, accuracy (in [0, 1]). Of an average the one row per set is
    its own, at the end of the continuing run.

    Args:
        found: the finished stages, if the store has been looked at already.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    found = finished(store) if found is None else found
    legs = [f for f in found if f.about["k"] is None]
    averages = [
        {"stage": f.stage, "epoch": f.done["epoch"], **f.done["result"]}
        for f in found
        if f.about["k"] is not None
    ]
    epochs = measured_epochs(store, legs)
    epochs = pd.concat(
        [table for table in (epochs, pd.DataFrame(averages)) if len(table)] or [epochs]
    )
    names = {"test": ("test_loss", "test_accuracy")}
    probes = {name for f in found for name in f.about.get("probes", [])}
    names |= {name: tuple(c.format(name) for c in PROBE_COLUMNS) for name in probes}
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    for name, (loss, accuracy) in names.items():
        scores = epochs.reindex(columns=["stage", "epoch", loss, accuracy])
        scores = scores.set_axis(["stage", "epoch", "loss", "accuracy"], axis=1)
        tested = scores[scores["accuracy"].notna()].assign(set=name)
        if len(tested):
            tables.append(tested[list(COLUMNS)])
    whole = pd.concat(tables[1:] or tables, ignore_index=True)
    return whole.astype(COLUMNS).sort_values(["stage", "set", "epoch"], ignore_index=True)
