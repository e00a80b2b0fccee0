"""What a store may hold, without training: descriptions, summaries, and finished stages of them."""

import json
from typing import Any

from fasttrain.plan.stages import Stage
from fasttrain.settings.knobs import Knobs
from fasttrain.store.store import Store

SETUP = {
    "data": {"digest": "d", "numerics": 0},
    "network": {"model": "convnet", "width": 2, "numerics": 0},
    "optimizer": {"kind": "sphere", "numerics": 0},
    "loss": {"kind": "cross-entropy", "numerics": 0},
    "training": {"numerics": 0},
    "versions": {"torch": "0"},
}
SOURCE = {"dataset": "digits", "n_train": None, "n_test": None}
ABOUT = {
    "dataset": "digits",
    "num_classes": 10,
    "num_train": 100,
    "num_test": 50,
    "guess_loss": 2.3,
    "test_majority": 0.1,
    "evaluate_every": 1,
    "source": SOURCE,
}
SUMMARY = {
    "state": "done",
    "stopped": False,
    "built_on": {},
    "epoch": 3,
    "result": {"test_accuracy": 0.5},
    "time_s": 1.0,
    "provenance": {"command": "fasttrain sweep digits", "date": "2026-01-02"},
}


def pretraining(seed: int = 0) -> Stage:
    """A stage that others may build on."""
    setup = tuple((name, json.dumps(part, sort_keys=True)) for name, part in SETUP.items())
    return Stage(knobs=Knobs(lr=0.1), seed=seed, num_epochs=3, setup=setup)


def finetuning(parent: Stage) -> Stage:
    """A stage that builds on another one."""
    return Stage(
        knobs=Knobs(lr=0.01), seed=parent.seed, num_epochs=2, setup=parent.setup, parent=parent
    )


def begin(store: Store, stage: Stage) -> str:
    """Begin the stage; returns its id."""
    store.begin(stage.id, {**stage.description(), **ABOUT})
    return stage.id


def finish(store: Store, stage: Stage, content: bytes = b"weights", **summary: Any) -> str:
    """Begin and finish the stage, with a state of this content; returns its id."""
    begin(store, stage)
    store.finish(stage.id, {"state.safetensors": content}, SUMMARY | summary)
    return stage.id
