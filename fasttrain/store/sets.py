"""Scores on every evaluation set, the test set and the probe sets, as one long table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .columns import PROBE_COLUMNS
from .curves import measured_epochs
from .tables import Finished, finished

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
    epochs = measured_epochs(store, legs)
    averages = _ends([f for f in found if f.about["k"] is not None])
    epochs = pd.concat([table for table in (epochs, averages) if len(table)] or [epochs])
    return _long(epochs, found)


def last_sets(store: str | Path, found: Sequence[Finished]) -> pd.DataFrame:
    """As `load_sets`, of each stage the last test pass alone."""
    # It is that of the last epoch, unless the stage ended without a finite loss.
    whole = [f for f in found if f.done["result"]["test_accuracy"] is not None]
    others = [f for f in found if f.done["result"]["test_accuracy"] is None]
    scores = load_sets(store, others)
    last = scores[scores["epoch"] == scores.groupby("stage")["epoch"].transform("max")]
    table = pd.concat([_long(_ends(whole), found), last], ignore_index=True)
    return table.sort_values(["stage", "set", "epoch"], ignore_index=True)


def _ends(found: Sequence[Finished]) -> pd.DataFrame:
    """The scores that the stages ended with, a row each."""
    return pd.DataFrame(
        [{"stage": f.stage, "epoch": f.done["epoch"], **f.done["result"]} for f in found],
        columns=None if found else ["stage", "epoch"],
    )


def _long(epochs: pd.DataFrame, found: Sequence[Finished]) -> pd.DataFrame:
    """The scores of a table of epochs, a row for every set."""
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
