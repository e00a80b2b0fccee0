"""From the store to tables: one row per stage, one row per epoch. Everything here can be rebuilt.

A set-up is what all stages of a grid share: everything but PLR, FLR, k, seed, the length of the
fine-tuning and the cadence of test passes, which changes no stage.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .config import DataConfig, NetworkConfig, TrainingConfig
from .plan import KINDS as STAGE_KINDS
from .plan import NO_IDENTITY
from .runs import COLUMNS
from .schema import digest
from .settings.optimizers import KINDS, options
from .settings.part import given
from .stages import METRICS
from .store import Store
from .text import readable

IDENTITY = ("setup", "stage", "dataset", "model", "width", "optimizer", "rate", "seed", "kind")
IDENTITY += ("plr", "flr", "k")


class Finished(NamedTuple):
    """A finished stage: its id, stage.json and done.json, which have the shapes of `schema`."""

    stage: str
    about: dict[str, Any]
    done: dict[str, Any]

    @property
    def root_epochs(self) -> int:
        """Pre-training epochs of the stage's chain."""
        return (
            self.about["epochs"] if self.about["kind"] == "pretrain" else self.about["start_epoch"]
        )

    @property
    def setup(self) -> str:
        """Id of the set-up."""
        return digest([self.about["setup"], self.root_epochs])

    def identity(self) -> dict[str, Any]:
        """The values of the identity columns."""
        parts = self.parts()
        network, optimizer = parts["network"], parts["optimizer"]
        return {
            "setup": self.setup,
            "stage": self.stage,
            "dataset": readable(self.about["dataset"]),
            "model": network["model"],
            "width": network["width"],
            "optimizer": optimizer["kind"],
            "rate": KINDS[optimizer["kind"]].rate,
            **{name: self.about[name] for name in ("seed", "kind", "plr", "flr", "k")},
        }

    def parts(self) -> dict[str, dict[str, Any]]:
        """Every part of the setting with all its values, in the configuration's words."""
        sections = self.about["setup"]
        optimizer = given(sections["optimizer"])
        data, network, training = (
            asdict(part) | given(sections[name])
            for name, part in (
                ("data", DataConfig()),
                ("network", NetworkConfig()),
                ("training", TrainingConfig()),
            )
        )
        if optimizer["kind"] != "sphere":
            del network["radius"]
        return {
            "data": {"digest": sections["data"]["digest"]}
            | {name: data[name] for name in data if name not in NO_IDENTITY["data"]},
            "network": network,
            "optimizer": options(optimizer["kind"]) | optimizer,
            "training": {name: training[name] for name in ("batch_size", "precision")}
            | {"loss": sections["loss"]["kind"]},
        }

    @property
    def cadence(self) -> dict[str, int]:
        """The epochs between test passes, under their name in the configuration."""
        return {"evaluate_every": self.about["evaluate_every"]}

    def configuration(self) -> dict[str, Any]:
        """What the set-up id stands for, as nested plain values."""
        parts = self.parts()
        return {
            "data": {"dataset": readable(self.about["dataset"]), **parts["data"]},
            "network": parts["network"],
            "optimizer": parts["optimizer"],
            "training": {**parts["training"], "epochs": self.root_epochs, **self.cadence},
            "versions": self.about["setup"]["versions"],
            "num_classes": self.about["num_classes"],
            "num_train": self.about["num_train"],
            **{name: self.about[name] for name in ("num_test", "guess_loss", "test_majority")},
        }


def finished(store: str | Path) -> list[Finished]:
    """Every finished stage.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    opened = Store.open(Path(store), create=False)
    entries = ((stage, opened.entry(stage)) for stage in opened.stages())
    # A sweep may have taken one up again since it was listed.
    return [Finished(stage, *entry) for stage, entry in entries if entry is not None]


def load(store: str | Path) -> pd.DataFrame:
    """One row per finished stage, sorted by set-up, kind, PLR, FLR, k and seed.

    Columns: setup (an id), stage (id), dataset, model, width, optimizer (sphere, sgd, adam), rate
    (what plr and flr are: effective on the sphere, raw otherwise), seed, kind (pretrain, finetune,
    swa), plr, flr (NaN unless finetune), k (missing unless swa), epoch (the last one, counted from
    the start of pre-training), epochs (the stage's own), inherit (weights, or
    optimizer: what it started with of its parent's end), train_loss, train_accuracy,
    train_balanced_accuracy (mean over classes), grad_norm (effective), test_loss, test_accuracy
    (accuracies in [0, 1]), distance (angle in rad between the sphere weights at the stage's start
    and end), state (done, at-chance, non-finite), stopped (given up early), time_s (its share of
    the time of its epochs and their tests).

    Training scores are those of the last epoch's steps, in train mode; for swa they are the
    average's in eval mode, and train_balanced_accuracy, grad_norm and distance are NaN.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    return stage_table(finished(store))


def stage_table(found: Sequence[Finished]) -> pd.DataFrame:
    """The table of `load` of these stages."""
    rows = [
        {**f.identity(), "epoch": f.done["epoch"]}
        | {name: f.about[name] for name in ("epochs", "inherit")}
        | {name: f.done["result"].get(name) for name in COLUMNS}
        | {name: f.done[name] for name in ("state", "stopped", "time_s")}
        for f in found
    ]
    columns = [*IDENTITY, "epoch", "epochs", "inherit", *COLUMNS, "state", "stopped", "time_s"]
    table = pd.DataFrame(rows, columns=columns)
    numbers = dict.fromkeys(("plr", "flr", *COLUMNS, "time_s"), "float64")
    whole = dict.fromkeys(("epoch", "epochs", "seed", "width"), "int64")
    return _sorted(table.astype(numbers | whole | {"k": "Int64", "stopped": "bool"}))


def load_epochs(store: str | Path) -> pd.DataFrame:
    """One row per epoch of every finished stage: the identity columns, epoch, and the scores.

    For swa these are the epochs of the continuing run, not of its average.
    """
    return _epoch_table(store, finished(store))


def _epoch_table(store: str | Path, found: Sequence[Finished]) -> pd.DataFrame:
    opened = Store.open(Path(store), create=False)
    stages = pd.DataFrame([f.identity() for f in found], columns=list(IDENTITY))
    tables = [
        pd.read_parquet(io.BytesIO(opened.read(f.stage, METRICS))).assign(stage=f.stage)
        for f in found
    ]
    columns = ["epoch", *COLUMNS]
    # Numbers alone: what is missing of a stage would take the type of a column with it.
    epochs = pd.concat([t for t in tables if len(t)] or [pd.DataFrame(columns=["stage", *columns])])
    whole = stages.merge(epochs, on="stage")[[*IDENTITY, *columns]]
    return _sorted(whole.astype({"flr": "float64", "k": "Int64"}))


class Grids(NamedTuple):
    """What a report draws. Here a set-up has one way of fine-tuning: one figure, one grid.

    A pre-training that serves two lengths, or starts with and without the optimiser's state, has a
    row in both set-ups.
    """

    stages: pd.DataFrame
    epochs: pd.DataFrame
    configurations: dict[str, dict[str, Any]]


def load_grids(store: str | Path, found: Sequence[Finished] | None = None) -> Grids:
    """The tables of `load` and `load_epochs` by grid, and the configuration of each grid.

    That names a cadence of test passes only where all stages have the same.

    The store is looked at once, as a sweep may be finishing stages; `found` is such a look.
    """
    found = finished(store) if found is None else found
    configurations = {f.setup: f.configuration() for f in found}
    cadences = {(f.setup, *f.cadence.values()) for f in found}
    for setup, number in Counter(setup for setup, _ in cadences).items():
        if number > 1:
            del configurations[setup]["training"]["evaluate_every"]
    table = stage_table(found)
    parts, named = [table.iloc[:0]], {}
    for setup, rows in table.groupby("setup", sort=False):
        tuned = rows["kind"] == "finetune"
        found_ways = rows.loc[tuned, ["epochs", "inherit"]].drop_duplicates()
        ways = sorted((int(length), str(way)) for length, way in found_ways.to_numpy())
        for length, inherit in ways or [(None, None)]:
            name = str(setup)
            if len(ways) > 1:
                name += f"-{length}" + ("-optimizer" if inherit == "optimizer" else "")
            same = (rows["epochs"] == length) & (rows["inherit"] == inherit)
            parts.append(rows[~tuned | same].assign(setup=name))
            configuration = configurations[str(setup)]
            tuning = {"finetune_epochs": length, "inherit": inherit}
            training = {**configuration["training"], **tuning}
            named[name] = {**configuration, "training": training}
    stages = pd.concat(parts, ignore_index=True)
    epochs = _epoch_table(store, found).drop(columns="setup")
    return Grids(stages, epochs.merge(stages[["setup", "stage"]], on="stage"), named)


def origin(found: Sequence[Finished]) -> dict[str, str | float | None]:
    """Versions, devices, dates and commands of the runs that made the stages, and their time.

    Where runs differ, the values stand in one string, in the order of the dates.
    """
    records = _by_date(f.done["provenance"] for f in found)
    merged: dict[str, str | float | None] = {}
    # The latest says the most.
    for key in dict.fromkeys(key for record in reversed(records) for key in record):
        values = list(dict.fromkeys(str(record[key]) for record in records if record.get(key)))
        if key == "date" and len(values) > 1:
            values = [f"{values[0]} to {values[-1]}"]
        merged[key] = "; ".join(values) or None
    merged["time_s"] = sum(f.done["time_s"] for f in found)
    return merged


def analysis_commands(store: str | Path) -> list[str]:
    """The commands that made the analyses of the store, each once, in the order of their dates.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    analyses = Store.open(Path(store), create=False).analyses
    summaries = [analyses.summary(analysis) for analysis in analyses.stages()]
    records = _by_date(summary["provenance"] for summary in summaries if summary is not None)
    commands = (record.get("command") for record in records)
    return list(dict.fromkeys(str(command) for command in commands if command))


def _by_date(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: str(record.get("date") or ""))


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    order = table.assign(_kind=table["kind"].map({kind: i for i, kind in enumerate(STAGE_KINDS)}))
    keys = ["setup", "_kind", "plr", "flr", "k", "seed", "epoch"]
    return order.sort_values(keys).drop(columns="_kind").reset_index(drop=True)
