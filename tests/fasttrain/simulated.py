"""A store of a large grid without training: made-up curves, written as trained ones are."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.api.session import open_session
from fasttrain.execution.journal import Journal
from fasttrain.machine.files import parquet, sha256_hex, tensors_to_bytes
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.plan.stages import Stage
from fasttrain.store.columns import COLUMNS
from fasttrain.store.entries import METRICS, STATE
from fasttrain.store.store import Store

TOML = """
[data]
dataset = "digits"
n_train = 150
n_test = 50
[network]
width = 2
[training]
epochs = 3
finetune_epochs = 2
batch_size = 64
[grid]
plr = {plr}
flr = {flr}
k = []
seeds = {seeds}
"""


def write_study(path: Path, num_plr: int, num_flr: int, num_seeds: int) -> Path:
    """A TOML file of a grid of so many learning rates and seeds."""
    plr, flr = (np.geomspace(1e-4, 1, n).round(8).tolist() for n in (num_plr, num_flr))
    path.write_text(TOML.format(plr=json.dumps(plr), flr=json.dumps(flr), seeds=num_seeds))
    return path


def simulate(study: Path, store: Path) -> list[Stage]:
    """Finish every stage of the study in the store, which then needs no sweep; returns them."""
    config = load_config(str(study))
    command = f"fasttrain sweep {study} --store {store}"
    opened = open_session(config, RunOptions(store=store), name="simulated", command=command)
    workbench, stages = opened.workbench, opened.stages
    with workbench.store.lock(), Journal(store, command, "simulating") as journal:
        journal.plan(stages, accept_stopped=True)
        for stage, curves in zip(stages, _curves(stages), strict=True):
            last = dict(zip(COLUMNS, curves.iloc[-1][list(COLUMNS)].tolist(), strict=True))
            _finish(stage, curves, last, workbench.store, workbench.about(), workbench.provenance)
    return stages


def _finish(
    stage: Stage,
    curves: pd.DataFrame,
    result: Mapping[Any, float],
    store: Store,
    about: Mapping[str, object],
    provenance: Mapping[str, object],
) -> None:
    parents = [] if stage.parent is None else [stage.parent.id]
    store.begin(stage.id, {**stage.description(), **about})
    summary = {
        "state": "done",
        "stopped": False,
        "epoch": stage.end_epoch,
        "result": result,
        "built_on": {parent: _state_digest(parent) for parent in parents},
        "time_s": 1.0,
        "provenance": provenance,
    }
    files = {METRICS: parquet(curves), STATE: _state(stage.id)}
    store.finish(stage.id, files, summary)


def _state(stage: str) -> bytes:
    import torch

    return tensors_to_bytes({"weight": torch.tensor([float(int(stage[:6], 16))])})


def _state_digest(stage: str) -> str:
    return sha256_hex(_state(stage))


def _curves(stages: Sequence[Stage]) -> Iterator[pd.DataFrame]:
    """Of every stage a loss that falls, and an accuracy that is best at middling rates."""
    noise = np.random.default_rng(0)
    for stage in stages:
        epochs = np.arange(stage.start_epoch + 1, stage.end_epoch + 1)
        best = 0.9 - 0.05 * abs(math.log10(stage.plr) + 2) + 0.01 * noise.standard_normal()
        accuracy = best * (1 - np.exp(-epochs.astype(float)))
        loss = 2.3 * (1 - accuracy)
        values = (loss, accuracy, accuracy, stage.lr + 0 * loss, loss, accuracy, stage.lr * epochs)
        yield pd.DataFrame({"epoch": epochs, **dict(zip(COLUMNS, values, strict=True))})
