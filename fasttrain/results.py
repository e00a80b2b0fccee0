"""From the store to tables: one row per stage, one row per epoch. Everything here can be rebuilt.

A set-up is what all stages of a grid share: everything but PLR, FLR, k and seed. A stage that
serves grids of two fine-tuning lengths belongs to both set-ups and has a row in each.
"""

import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .plan import KINDS, digest
from .stages import COLUMNS, METRICS
from .store import Store

IDENTITY = ("setup", "stage", "dataset", "model", "width", "seed", "kind", "plr", "flr", "k")


@dataclass(frozen=True)
class Finished:
    """A finished stage in one of its set-ups."""

    setup: str
    stage: str
    about: dict[str, Any]
    """stage.json"""
    done: dict[str, Any]
    """done.json"""
    finetune_epochs: int | None

    def identity(self) -> dict[str, Any]:
        """The values of the identity columns."""
        network = self.about["setup"]["network"]
        return {
            "setup": self.setup,
            "stage": self.stage,
            "dataset": self.about["dataset"],
            "model": network["model"],
            "width": network["width"],
            **{name: self.about[name] for name in ("seed", "kind", "plr", "flr", "k")},
        }

    def configuration(self) -> dict[str, Any]:
        """What the set-up id stands for, as nested plain values."""
        sections = self.about["setup"]
        lengths = {"epochs": _root_epochs(self.about), "finetune_epochs": self.finetune_epochs}
        return {
            "data": {"dataset": self.about["dataset"], **sections["data"]},
            "network": sections["network"],
            "training": {**sections["training"], **lengths},
            "versions": sections["versions"],
            "num_classes": self.about["num_classes"],
        }


def load(store: str | Path) -> pd.DataFrame:
    """One row per finished stage, sorted by set-up, kind, PLR, FLR, k and seed.

    Columns: setup (an id), stage (id), dataset, model, width, seed, kind (pretrain, finetune, swa),
    plr, flr (NaN unless finetune), k (missing unless swa), epoch (the last one, counted from the
    start of pre-training), train_loss, train_accuracy, grad_norm (effective, mean over the steps of
    the last epoch; NaN for swa), test_loss, test_accuracy (accuracies in [0, 1]), state (done,
    diverged), time_s.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    rows = [
        {**f.identity(), "epoch": f.done["epoch"], **f.done["result"], "state": f.done["state"]}
        | {"time_s": f.done["time_s"]}
        for f in finished(store)
    ]
    table = pd.DataFrame(rows, columns=[*IDENTITY, "epoch", *COLUMNS, "state", "time_s"])
    numbers = dict.fromkeys(("plr", "flr", *COLUMNS, "time_s"), "float64")
    whole = dict.fromkeys(("epoch", "seed", "width"), "int64")
    return _sorted(table.astype(numbers | whole | {"k": "Int64"}))


def load_epochs(store: str | Path) -> pd.DataFrame:
    """One row per epoch of every finished stage: the columns of `load` but state and time_s.

    For swa these are the epochs of the continuing run, not of its average.
    """
    opened = Store.open(Path(store), create=False)
    columns = [*IDENTITY, "epoch", *COLUMNS]
    tables = [pd.DataFrame(columns=columns)]
    for f in finished(store):
        table = pd.read_parquet(io.BytesIO(opened.read(f.stage, METRICS)))
        if len(table):
            tables.append(table.assign(**f.identity())[columns])
    whole = pd.concat(tables[1:]) if len(tables) > 1 else tables[0]
    return _sorted(whole.astype({"flr": "float64", "k": "Int64"}))


def configurations(store: str | Path) -> dict[str, dict[str, Any]]:
    """The configuration behind every set-up id, as nested plain values."""
    return {f.setup: f.configuration() for f in finished(store)}


def origin(store: str | Path) -> dict[str, str | float | None]:
    """Versions, devices, dates and commands of the runs that made the store, and their time.

    Where runs differ, the values stand in one string, in the order of the dates.
    """
    records = [f.done["provenance"] for f in finished(store)]
    records.sort(key=lambda record: record["date"])
    merged: dict[str, str | float | None] = {}
    for key in records[-1] if records else ():
        values = list(dict.fromkeys(record[key] for record in records if record[key]))
        if key == "date" and len(values) > 1:
            values = [f"{values[0]} to {values[-1]}"]
        merged[key] = "; ".join(values) or None
    merged["time_s"] = sum({f.stage: f.done["time_s"] for f in finished(store)}.values())
    return merged


def finished(store: str | Path) -> list[Finished]:
    """Every finished stage, once in each of its set-ups."""
    opened = Store.open(Path(store), create=False)
    known = []
    lengths: dict[str, set[int]] = defaultdict(set)
    for stage in opened.stages():
        done = opened.summary(stage)
        if done is None:
            continue
        about = opened.description(stage)
        base = digest([about["setup"], _root_epochs(about)])
        known.append((base, stage, about, done))
        if about["kind"] == "finetune":
            lengths[base].add(about["epochs"])
    return [
        Finished(digest([base, length]), stage, about, done, length)
        for base, stage, about, done in known
        for length in sorted(lengths[base]) or [None]
        if about["kind"] != "finetune" or about["epochs"] == length
    ]


def _root_epochs(about: dict[str, Any]) -> int:
    """Pre-training epochs of a stage's chain."""
    return about["epochs"] if about["kind"] == "pretrain" else about["start_epoch"]


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    order = table.assign(_kind=table["kind"].map({kind: i for i, kind in enumerate(KINDS)}))
    keys = ["setup", "_kind", "plr", "flr", "k", "seed", "epoch"]
    return order.sort_values(keys).drop(columns="_kind").reset_index(drop=True)
