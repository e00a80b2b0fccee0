"""From the store to tables: one row per stage, one row per epoch. Everything here can be rebuilt.

A set-up is what all stages of a grid share: everything but PLR, FLR, k, seed, the length of the
fine-tuning and the cadence of test passes, which changes no stage.
"""

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..machine.text import readable
from ..plan.config import TrainingConfig
from ..plan.identity import LENGTH, digest, path_of
from ..plan.stages import BEGINNING, NO_IDENTITY
from ..plan.stages import KINDS as STAGE_KINDS
from ..settings.data.part import Data
from ..settings.knobs import Knobs
from ..settings.networks.kinds import network_options
from ..settings.optimizers.kinds import KINDS, options
from ..settings.part import given
from .columns import COLUMNS, PASS_COLUMNS
from .curves import measured_epochs
from .notes import read_notes, texts
from .store import Store

CHAIN = "chain"
TABLE_KINDS = (*STAGE_KINDS, "leg", "average")
"""Of a row: pretrain, a first leg; finetune, a second one; swa, an average of a first leg; leg and
average, any deeper ones."""
IDENTITY = ("setup", "stage", "dataset", "model", "width", "optimizer", "rate", "seed", "kind")
IDENTITY += ("plr", "flr", "k", "depth", "path", "experiment")
_SHARED = {"setup", "source", "probes", "provenance"}


@dataclass(frozen=True)
class Finished:
    """A finished stage: its id, stage.json and done.json, which have the shapes of `schema`."""

    stage: str
    about: dict[str, Any]
    done: dict[str, Any]
    note: str = ""
    """what people wrote on it"""

    @property
    def path(self) -> list[dict[str, Any]]:
        """Knobs and epochs of the legs from the root; of an average those to the leg it reads."""
        return path_of(self.about)

    def root_length(self) -> dict[str, Any]:
        """How long the first leg of the stage's path is, in the configuration's words."""
        return {name: value for name, value in self.path[0].items() if name in LENGTH}

    @property
    def experiment(self) -> str:
        """What it was planned for."""
        return self.about.get("experiment", "plr-flr")

    @functools.cached_property
    def setup(self) -> str:
        """Id of the set-up."""
        if self.experiment == CHAIN:
            return _setup_id(self._sections, CHAIN)
        return _setup_id(self._sections, *self.root_length().values())

    @functools.cached_property
    def _sections(self) -> str:
        """Of the setting, as text: thousands of stages have the same."""
        return json.dumps(self.about["setup"], sort_keys=True)

    def identity(self) -> dict[str, Any]:
        """The values of the identity columns."""
        parts = self.parts()
        network, optimizer = parts["network"], parts["optimizer"]
        return {
            "setup": self.setup,
            "stage": self.stage,
            "dataset": readable(self.about["dataset"]),
            "model": network.get("factory", network["model"]),
            "width": network.get("width"),
            "optimizer": optimizer["kind"],
            "rate": KINDS[optimizer["kind"]].rate,
            **{name: self.about[name] for name in ("seed", "plr", "flr", "k")},
            "kind": self.kind,
            "depth": len(self.path),
            "path": path_words(self.path),
            "experiment": self.experiment,
        }

    @property
    def kind(self) -> str:
        """Of `TABLE_KINDS`."""
        kind = self.about["kind"]
        return {"finetune": "leg", "swa": "average"}[kind] if self._is_beyond(kind) else kind

    def _is_beyond(self, kind: str) -> bool:
        """Whether no grid of PLR x FLR has a place for it."""
        return len(self.path) > (1 if kind == "swa" else 2)

    def parts(self) -> dict[str, dict[str, Any]]:
        """Every part of the setting with all its values, in the configuration's words."""
        return {name: dict(part) for name, part in _parts(self._sections).items()}

    @property
    def cadence(self) -> dict[str, int]:
        """The epochs between test passes, under their name in the configuration."""
        return {"evaluate_every": self.about["evaluate_every"]}

    def configuration(self) -> dict[str, Any]:
        """What the set-up id stands for, as nested plain values."""
        parts = self.parts()
        lengths = {} if self.experiment == CHAIN else self.root_length()
        return {
            "data": {"dataset": readable(self.about["dataset"]), **parts["data"]},
            "network": parts["network"],
            "optimizer": parts["optimizer"],
            "experiment": {"kind": self.experiment},
            "training": {**parts["training"], **lengths, **self.cadence},
            "versions": self.about["setup"]["versions"],
            "num_classes": self.about["num_classes"],
            "num_train": self.about["num_train"],
            **{name: self.about[name] for name in ("num_test", "guess_loss", "test_majority")},
        }


@functools.lru_cache(1024, typed=True)
def _setup_id(sections: str, *rest: str | float | None) -> str:
    return digest([json.loads(sections), *rest])


@functools.lru_cache(1024)
def _parts(text: str) -> dict[str, dict[str, Any]]:
    sections = json.loads(text)
    optimizer = given(sections["optimizer"])
    data = asdict(Data()) | given(sections["data"])
    network = given(sections["network"])
    network = network_options(network["model"]) | network
    training = asdict(TrainingConfig()) | given(sections["training"])
    if optimizer["kind"] != "sphere":
        del network["radius"]
    return {
        "data": {"digest": sections["data"]["digest"]}
        | {name: data[name] for name in data if name not in NO_IDENTITY["data"]},
        "network": network,
        "optimizer": options(optimizer["kind"]) | optimizer,
        "training": {name: training[name] for name in ("batch_size", "steps", "precision", "order")}
        | {"loss": sections["loss"]["kind"]},
    }


def path_words(path: Sequence[Mapping[str, Any]]) -> str:
    """The knobs of legs, the rate first: "0.01>0.001 noise 0.4"."""
    words = []
    for leg in path:
        knobs = Knobs(**{name: leg[name] for name in leg if name not in LENGTH})
        words.append(knobs.label())
    return ">".join(words)


def finished(store: str | Path) -> list[Finished]:
    """Every finished stage, but for beginnings of legs that only averages start from.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """
    opened = Store.open(Path(store), create=False)
    entries = ((stage, opened.entry(stage)) for stage in opened.stages())
    notes = texts(read_notes(opened.path))
    # A sweep may have taken one up again since it was listed.
    found = (
        Finished(stage, *entry, notes.get(stage, ""))
        for stage, entry in entries
        if entry is not None
    )
    parts: dict[str, Any] = {}
    return [_sharing(f, parts) for f in found if f.experiment != BEGINNING]


def _sharing(found: Finished, parts: dict[str, Any]) -> Finished:
    """The same, with what thousands of stages have in common once in memory, names too."""
    for record in (found.about, found.done):
        for name in record.keys() & _SHARED:
            record[name] = parts.setdefault(f"{name} {record[name]!r}", record[name])
    about, done = (_interned(record) for record in (found.about, found.done))
    return Finished(found.stage, about, done, found.note)


def _interned(record: dict[str, Any]) -> dict[str, Any]:
    """The same, with names that are in memory once, but for those in lists and what is shared."""
    return {
        sys.intern(name): _interned(value)
        if isinstance(value, dict) and name not in _SHARED
        else value
        for name, value in record.items()
    }


def load(store: str | Path) -> pd.DataFrame:
    """One row per finished stage, sorted by set-up, kind, PLR, FLR, k, path and seed.

    What it is: setup and stage (ids), dataset, model (a custom network's factory), width (missing
    for a custom network), optimizer (sphere, sgd, adam, custom), rate (effective or raw: the unit
    of plr and flr), seed, experiment (plr-flr, chain), kind (pretrain, finetune, swa, and the
    deeper leg and average), plr (of the first leg), flr (of a later leg, else NaN), k (of an
    average), depth (number of legs from a new network), path (rates of these legs, with other
    knobs: "0.01>0.001"; an average has that of the leg it averages), weight_decay and noise (of the
    last leg; NaN and 0 if not given), epochs (of the stage), epoch (the last one, counted from
    the start of pre-training), parent (id of the stage it started from; missing for a first leg),
    inherit (weights or optimizer: what it took over from its parent).

    What came out: train_loss, train_accuracy, train_balanced_accuracy (mean over classes),
    grad_norm (effective), test_loss, test_accuracy (accuracies in [0, 1]), distance (angle in rad
    between the sphere weights at the stage's start and end), state (done, at-chance, non-finite),
    stopped (early, at chance), time_s (share of the seconds of its epochs and their tests), note
    (text of `fasttrain note`; several stand one below the other).

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
        | {name: f.about[name] for name in ("parent", "epochs", "inherit")}
        | {"weight_decay": f.path[-1].get("weight_decay"), "noise": f.path[-1].get("noise", 0.0)}
        | {name: f.done["result"].get(name) for name in COLUMNS}
        | {name: f.done[name] for name in ("state", "stopped", "time_s")}
        | {"note": f.note}
        for f in found
    ]
    columns = [*IDENTITY, "parent", "epoch", *("epochs", "inherit", "weight_decay", "noise")]
    columns += [*COLUMNS, "state", "stopped", "time_s", "note"]
    table = pd.DataFrame(rows, columns=columns)
    numbers = ("plr", "flr", "weight_decay", "noise", *COLUMNS, "time_s")
    numbers = dict.fromkeys(numbers, "float64")
    whole = dict.fromkeys(("epoch", "epochs", "seed", "depth"), "int64")
    missing = dict.fromkeys(("k", "width"), "Int64")
    return in_order(table.astype(numbers | whole | missing | {"stopped": "bool"}))


def load_epochs(store: str | Path) -> pd.DataFrame:
    """One row per epoch of every finished stage: the identity columns, epoch, and the scores.

    Where the store has passes over the training set (training.pass_every), pass_loss, pass_accuracy
    and pass_grad_norm too: at the weights of the epoch's end; NaN in epochs without.

    For swa these are the epochs of the continuing run, not of its average.
    """
    return epoch_table(store, finished(store))


def epoch_table(store: str | Path, found: Sequence[Finished]) -> pd.DataFrame:
    """The table of `load_epochs` of these stages."""
    stages = pd.DataFrame([f.identity() for f in found], columns=list(IDENTITY))
    measured = measured_epochs(store, found)
    columns = ["epoch", *COLUMNS, *(name for name in PASS_COLUMNS if name in measured)]
    epochs = measured.reindex(columns=["stage", *columns])
    whole = stages.merge(epochs, on="stage")[[*IDENTITY, *columns]]
    return in_order(whole.astype({"flr": "float64", "k": "Int64", "width": "Int64"}))


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of stages or epochs as `load` sorts them."""
    order = table.assign(_kind=table["kind"].map({kind: i for i, kind in enumerate(TABLE_KINDS)}))
    keys = ["setup", "_kind", "plr", "flr", "k", "path", "seed", "epoch"]
    return order.sort_values(keys).drop(columns="_kind").reset_index(drop=True)
