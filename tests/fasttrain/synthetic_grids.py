"""Setups that look like the published curves, made of formulas: every table filled, no training.

Boundaries as published for ResNet-18 on CIFAR-10 (1|2 at 3e-4, 2A|2B at 1.4e-3, 2|3 at 2e-2), test
accuracies roughly so; noise is a function of the seed alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasttrain.analysis.tables import SetupResults

PLRS = (1e-5, 1e-4, 2e-4, 5e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FLRS = (1e-5, 3e-4)
NAN = float("nan")
NORM, NUM_WEIGHTS = 28.0, 2_790_240
BOUNDARIES = (3e-4, 1.4e-3, 2e-2)


def regime_of(plr: float) -> str:
    """The regime that the formulas put a PLR in."""
    return ("1", "2A", "2B", "3")[int(np.searchsorted(BOUNDARIES, plr))]


def published_grid(
    plrs: Sequence[float] = PLRS,
    flrs: Sequence[float] = FLRS,
    ks: Sequence[int] = (5,),
    seeds: Sequence[int] = (0, 1, 2),
    num_epochs: int = 40,
    analysed: bool = True,
) -> SetupResults:
    """A grid of one set-up, with or without what `fasttrain analyse` makes."""
    noise = np.random.default_rng(7)
    stages, epochs = [], []
    for seed in seeds:
        for plr in plrs:
            cells = [("pretrain", NAN, NAN), *(("finetune", flr, NAN) for flr in flrs)]
            for kind, flr, k in [*cells, *(("swa", NAN, k) for k in ks)]:
                stage = _stage(len(stages), kind, seed, plr, flr, k, num_epochs, noise)
                stages.append(stage)
                if kind != "swa":
                    epochs.append(_epochs(stage, num_epochs, noise))
    table = pd.DataFrame(stages).assign(note="")
    table["k"] = table["k"].astype("Int64")
    curves = pd.concat(epochs, ignore_index=True).astype({"k": "Int64"})
    configuration = {"num_classes": 10, "guess_loss": math.log(10), "num_train": 50_000}
    configuration["training"] = {"batch_size": 128}
    tables = _analyses(table, noise) if analysed else {}
    return SetupResults(
        setup="s1", configuration=configuration, stages=table, epochs=curves, **tables
    )


def _stage(
    number: int,
    kind: str,
    seed: int,
    plr: float,
    flr: float,
    k: float,
    num_epochs: int,
    noise: np.random.Generator,
) -> dict[str, Any]:
    regime = regime_of(plr)
    tuned = {"1": 0.84, "2A": 0.885, "2B": 0.84, "3": 0.8}[regime]
    raw = {"1": 0.84, "2A": 0.73, "2B": 0.45, "3": 0.1}[regime]
    accuracy = {"pretrain": raw, "finetune": tuned, "swa": (raw + tuned) / 2}[kind]
    if not (regime == "3" and kind != "finetune"):
        accuracy += noise.normal(0, 0.004)
    # A fine-tuned network fits the training set, unless it started from a lost one.
    fits = kind == "finetune" and regime != "3" or regime == "1"
    loss = 1e-6 / plr if fits else {"2A": 0.5, "2B": 1.4}.get(regime, 10.0)
    loss *= np.exp(noise.normal(0, 0.1))
    return {
        "setup": "s1",
        "stage": f"{number:016x}",
        "dataset": "cifar10",
        "model": "resnet18",
        "width": 32,
        "seed": seed,
        "kind": kind,
        "plr": plr,
        "flr": flr,
        "k": k,
        "epoch": {"pretrain": num_epochs, "finetune": 2 * num_epochs}.get(kind, num_epochs + 4),
        "epochs": num_epochs,
        "train_loss": loss,
        "train_accuracy": {"2A": 0.8, "2B": 0.5, "3": 0.1}.get("" if fits else regime, 1.0),
        "grad_norm": NAN if kind == "swa" else _grad_norm(regime, loss, plr),
        "test_loss": 2.4 * (1 - accuracy),
        "test_accuracy": accuracy,
        "distance": NAN if kind == "swa" else min(1.55, 3 * plr**0.25),
        "state": "at-chance" if regime == "3" and kind != "finetune" else "done",
        "stopped": False,
        "built_on": {},
        "time_s": 2.0,
    }


def _grad_norm(regime: str, loss: float, plr: float) -> float:
    # That of 2A is twice the published one, so that a short run explores enough to be told.
    return {"1": 1e3 * loss, "2A": 90.0, "2B": 25.0, "3": 5 / plr}[regime]


def _epochs(stage: dict[str, Any], num_epochs: int, noise: np.random.Generator) -> pd.DataFrame:
    """From a loss of ln 10 to that of the end: all the way in regime 1, else a quarter of it."""
    epoch = np.arange(1, num_epochs + 1)
    left = (epoch / num_epochs) ** 0.5
    if regime_of(stage["plr"]) != "1":
        left = np.minimum(1.0, 4 * epoch / num_epochs)
    wobble = np.append(np.exp(noise.normal(0, 0.05, num_epochs - 1)), 1.0)
    names = ("setup", "stage", "seed", "kind", "plr", "flr", "k")
    return pd.DataFrame(
        {name: stage[name] for name in names}
        | {
            "epoch": stage["epoch"] - num_epochs + epoch,
            "train_loss": 2.3 ** (1 - left) * stage["train_loss"] ** left * wobble,
            "train_accuracy": stage["train_accuracy"] * left,
            "train_balanced_accuracy": stage["train_accuracy"] * left,
            "grad_norm": 30 ** (1 - left) * stage["grad_norm"] ** left * wobble,
            "test_loss": 1.0,
            "distance": stage["distance"] * left,
            "test_accuracy": np.where(epoch % 2 == 0, stage["test_accuracy"] * left, NAN),
        }
    )


def _analyses(stages: pd.DataFrame, noise: np.random.Generator) -> dict[str, pd.DataFrame]:
    tables: dict[str, list] = {name: [] for name in ("pairs", "paths", "angles", "norms")}
    tables |= {name: [] for name in ("histograms", "sharpness", "eigenvalues", "bands")}
    for (_, plr), rows in stages.groupby(["seed", "plr"]):
        _geometry(float(plr), rows, noise, tables)
    for seed_rows in (rows for _, rows in stages.groupby("seed")):
        ids, logs = seed_rows["stage"].to_numpy(), np.log10(seed_rows["plr"].to_numpy())
        for a in range(len(ids)):
            others = {
                "stage_b": ids[a + 1 :],
                "angle": np.pi / 2 * np.tanh(np.abs(logs[a] - logs[a + 1 :]) + 0.1),
            }
            tables["angles"].append(pd.DataFrame({"stage_a": ids[a], **others}))
    for stage in stages.to_dict("records"):
        _measures(stage, noise, tables)
    return {
        name: pd.concat(rows, ignore_index=True)
        if isinstance(rows[0], pd.DataFrame)
        else pd.DataFrame(rows).astype({"k": "Int64"} if name == "pairs" else {})
        for name, rows in tables.items()
        if rows
    }


def _geometry(plr: float, rows: pd.DataFrame, noise: np.random.Generator, tables: dict) -> None:
    """Pairs and their lines: a basin from 1e-4 to 2A, none elsewhere."""
    tuned = rows[rows["kind"] == "finetune"].sort_values("flr")["stage"].to_list()
    averaged = rows[rows["kind"] == "swa"].sort_values("k")
    ends = [("low-high", tuned[0], tuned[-1], None)] if len(tuned) > 1 else []
    if len(averaged):
        average, k = averaged["stage"].iloc[0], averaged["k"].iloc[0]
        ends += [("swa-low", average, tuned[0], k)] if tuned else []
        ends += [("swa-high", average, tuned[-1], k)] if len(tuned) > 1 else []
    regime = regime_of(plr)
    apart = regime in ("2B", "3") or plr < 5e-5
    angle = {"1": 0.02, "2A": 0.15, "2B": 0.82, "3": 1.53}[regime] if plr >= 5e-5 else 1.47
    barrier = (0.7 if apart else 0.0005) * np.exp(noise.normal(0, 0.05))
    for pair, a, b, k in ends:
        names = {"pair": pair, "stage_a": a, "stage_b": b}
        values = {"angle": angle * np.exp(noise.normal(0, 0.05)), "train_barrier": barrier}
        values |= {"test_barrier": 0.8 * barrier, "train_loss_barrier": 3 * barrier}
        tables["pairs"].append(names | values | {"test_loss_barrier": 2 * barrier, "k": k})
        for alpha in np.linspace(0, 1, 21):
            drop = barrier * np.sin(np.pi * alpha) ** 2
            line = {"train_loss": 3 * drop, "train_accuracy": 1 - drop}
            line |= {"test_loss": 1 + 2 * drop, "test_accuracy": 0.87 - 0.8 * drop}
            tables["paths"].append(names | {"alpha": alpha} | line)


def _measures(stage: dict[str, Any], noise: np.random.Generator, tables: dict) -> None:
    """Norms, histograms, sharpness and bands of one stage."""
    regime, kind, name = regime_of(stage["plr"]), stage["kind"], stage["stage"]
    wide = regime == "3" and not (kind == "finetune" and stage["flr"] == max(FLRS))
    spread = 1.0 if wide else 0.15
    error = 1 - stage["test_accuracy"]
    grad = 20 * error * np.exp(noise.normal(0, 0.2))
    sharp = {"stage": name, "train_loss": stage["train_loss"], "train_accuracy": 1.0}
    sharp |= {"grad_norm": grad / 28, "effective_grad_norm": grad, "trace": 1e4 * error}
    sharp |= {"norm": NORM, "num_weights": NUM_WEIGHTS}
    sharp["trace_at_norm"] = sharp["trace"] / (NORM**2 * NUM_WEIGHTS)
    tables["sharpness"].append(sharp | {"trace_error": 10.0, "num_images": 1000})
    tables["eigenvalues"] += [
        {"stage": name, "rank": rank, "value": 100 * grad / rank, "residual": 1e-3}
        | {"value_at_norm": 100 * grad / rank / NORM**2}
        for rank in range(1, 6)
    ]
    for band, (low, high) in enumerate([(0, 33), (0, 1), (1, 9), (9, 25), (25, 33)]):
        share = (1.0, 0.2, 0.9, 0.3, 0.12)[band]
        accuracy = 0.1 + (stage["test_accuracy"] - 0.1) * share
        row = {"stage": name, "band": band, "low": float(low), "high": float(high)}
        tables["bands"].append(row | {"accuracy": accuracy})
    if kind == "swa":
        return
    points = [(stage["epoch"], spread)]
    if kind == "pretrain":
        points = [(0, 0.05), (stage["epoch"] // 2, (0.05 + spread) / 2), *points]
    edges = np.linspace(-6, 0, 51)
    for epoch, width in points:
        groups = {"stage": name, "epoch": epoch, "num_groups": 2400, "spread": width}
        groups |= {"effective_groups": 2400 / (1 + width), "min_elr": 1e-3, "median_elr": 1.0}
        tables["norms"] += [
            groups | {"level": level, "max_elr": 9.0} for level in ("filter", "tensor")
        ]
        if epoch == stage["epoch"] or epoch == 0:
            logs = noise.normal(-1.7 - width, width, 2400).clip(-6, 0)
            counts, _ = np.histogram(logs, edges)
            bins = {"log10_low": edges[:-1], "log10_high": edges[1:], "count": counts}
            rows = pd.DataFrame({"stage": name, "epoch": epoch, "level": "filter", **bins})
            tables["histograms"].append(rows)
