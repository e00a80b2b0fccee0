"""Training curves with published values (arXiv 2209.03695, 2410.22113), as grids to classify.

Epochs have the 391 steps of CIFAR-10 in batches of 128. Losses and gradient norms scatter from
epoch to epoch by 10 % (log-normal), around curves of the simplest form that has those values.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from fasttrain.analysis.tables import SetupResults

STEPS = 391
CONFIGURATION = {
    "training": {"batch_size": 128, "epochs": 200},
    "num_train": 50_000,
    "num_classes": 10,
    "guess_loss": math.log(10),
}
CONVERGING = {1e-5: (7e-3, 7.0), 1e-4: (8e-4, 0.8), 5e-4: (1.5e-4, 0.15)}
"""Of every ELR training loss and effective gradient norm after 1,000 epochs, read off a figure."""
STATIONARY = {1e-3: (0.45, 45.0), 2e-3: (0.8, 35.0), 5e-3: (1.5, 22.0)}
DIVERGING = {5e-2: (10.0, 1e4), 1e-1: (10.0, 1e5)}

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Training loss, training accuracy, effective gradient norm, (epochs,) each."""


def noisy(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values * np.exp(0.1 * rng.standard_normal(len(values)))


def converging(end: tuple[float, float], epochs: int, rng: np.random.Generator) -> Curve:
    """Loss falls as 1/t, as that of separable data does, to its value after 1,000 epochs."""
    scale = 1000 / np.arange(1, epochs + 1)
    loss = noisy(np.minimum(2.0, end[0] * scale), rng)
    return loss, 1 - np.minimum(0.9, loss / 2), noisy(np.minimum(45.0, end[1] * scale), rng)


def stationary(end: tuple[float, float], epochs: int, rng: np.random.Generator) -> Curve:
    """A fall within some ten epochs to a level that stays."""
    start = np.exp(-np.arange(epochs) / 5)
    loss = noisy(end[0] + 2 * start, rng)
    return loss, np.clip(1 - loss / 3, 0.1, 1), noisy(end[1] * (1 + start), rng)


def diverging(end: tuple[float, float], epochs: int, rng: np.random.Generator) -> Curve:
    ones = np.ones(epochs)
    return (
        noisy(end[0] * ones, rng),
        0.1 + 0.004 * rng.standard_normal(epochs),
        noisy(end[1] * ones, rng),
    )


def delayed(at: int, epochs: int, rng: np.random.Generator) -> Curve:
    """Near the boundary: a slow fall that ends in convergence (a loss of 1e-2) at an epoch."""
    t = np.arange(1, epochs + 1)
    loss = np.where(t < at, np.sqrt(np.maximum(1 - t / at, 1e-4)), 1e-2 * at / t)
    return noisy(loss, rng), np.clip(1 - loss / 3, 0, 1), noisy(45 * np.minimum(loss, 1), rng)


def published(epochs: int, seed: int) -> dict[float, Curve]:
    """The eight runs of the table of three regimes."""
    rng = np.random.default_rng(seed)
    kinds = ((converging, CONVERGING), (stationary, STATIONARY), (diverging, DIVERGING))
    return {elr: make(end, epochs, rng) for make, table in kinds for elr, end in table.items()}


def grid_of(
    runs: Mapping[tuple[float, int], Curve], ends: pd.DataFrame | None = None
) -> SetupResults:
    """A grid of pre-trainings by (PLR, seed), stages named `plr/seed`, and rows of fine-tunings."""
    epochs, stages = [], []
    for (plr, seed), curve in runs.items():
        stage = f"{plr:g}/{seed}"
        names = ("train_loss", "train_accuracy", "grad_norm")
        table = pd.DataFrame(dict(zip(names, curve, strict=True)))
        table["train_balanced_accuracy"] = table["train_accuracy"]
        epochs.append(table.assign(stage=stage, epoch=range(1, len(table) + 1), test_loss=math.nan))
        stages.append(
            {"stage": stage, "kind": "pretrain", "plr": plr, "flr": math.nan, "seed": seed}
            | {"epochs": len(table), "state": "done", "stopped": False, "train_accuracy": math.nan}
        )
    table = pd.concat([pd.DataFrame(stages), *([] if ends is None else [ends])], ignore_index=True)
    return SetupResults(
        setup="s", configuration=CONFIGURATION, stages=table, epochs=pd.concat(epochs)
    )


def end_points(plrs: list[float], accuracy: float = 1.0) -> pd.DataFrame:
    """Fine-tunings of seed 0 at a low and a high FLR, stages named `plr/flr`."""
    return pd.DataFrame(
        [
            {"stage": f"{plr:g}/{flr:g}", "kind": "finetune", "plr": plr, "flr": flr, "seed": 0}
            | {"epochs": 200, "state": "done", "stopped": False, "train_accuracy": accuracy}
            for plr in plrs
            for flr in (1e-5, 3e-4)
        ]
    )
