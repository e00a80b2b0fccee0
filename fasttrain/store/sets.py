"""Scores on every evaluation set, the test set and the probe sets, as one long table."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .columns import PROBE_COLUMNS
from .entries import METRICS
from .store import Store
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
    opened = Store.open(Path(store), create=False)
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    for f in finished(store) if found is None else found:
        epochs = pd.read_parquet(io.BytesIO(opened.read(f.stage, METRICS)))
        if f.about["k"] is not None:
            epochs = pd.DataFrame([{"epoch": f.done["epoch"], **f.done["result"]}])
        names = {"test": ("test_loss", "test_accuracy")}
        names |= {n: tuple(c.format(n) for c in PROBE_COLUMNS) for n in f.about.get("probes", [])}
        for name, (loss, accuracy) in names.items():
            scores = epochs[["epoch", loss, accuracy]]
            scores = scores.set_axis(["epoch", "loss", "accuracy"], axis=1)
            scores = scores.astype({"loss": "float64", "accuracy": "float64"})
            tested = scores[scores["accuracy"].notna()]
            if len(tested):
                tables.append(tested.assign(stage=f.stage, set=name)[list(COLUMNS)])
    whole = pd.concat(tables[1:] or tables, ignore_index=True)
    return whole.astype(COLUMNS).sort_values(["stage", "set", "epoch"], ignore_index=True)
