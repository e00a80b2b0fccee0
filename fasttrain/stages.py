"""Stages: from a start state to a finished stage in the store, resumable at every epoch.

Everything random is a function of (seed, epoch, sample index), and the checkpoint of an epoch holds
all that the next one depends on: a stage that was killed and resumed ends in the same bits as one
that was not, on the same machine with the same number of threads.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from fasttrain_data import ImageData, Loader
from fasttrain_kernels import SphereSGD

from .evaluate import reestimate_batch_norm_
from .files import parquet, tensors_to_bytes
from .lab import Lab
from .loop import group_norms, train_epoch
from .models import ImageClassifier
from .plan import Stage, predecessors
from .store import Store

COLUMNS = ("train_loss", "train_accuracy", "grad_norm", "test_loss", "test_accuracy")
"""One value each per epoch; test scores are NaN in epochs without a test pass."""
STATE = "state.safetensors"
METRICS = "metrics.parquet"

OnEpoch = Callable[[Stage, int, dict[str, float]], None]


@dataclass
class Progress:
    """What is known of a stage after some of its epochs: all that a checkpoint holds."""

    model: dict[str, Tensor]
    """the network's state_dict"""
    average: dict[str, Tensor] = field(default_factory=dict)
    """running mean of the sphere parameters over the checkpoints so far (SWA)"""
    series: Tensor = field(
        default_factory=lambda: torch.empty(0, len(COLUMNS), dtype=torch.float64)
    )
    """(epochs, columns)"""
    norms: Tensor = field(default_factory=lambda: torch.empty(0))
    """norm of every conv filter after each epoch, (epochs, filters) fp32"""
    time_s: float = 0.0
    """spent on the epochs and their tests, by all processes that worked on the stage"""

    def append(self, model: dict[str, Tensor], row: Tensor, norms: Tensor) -> None:
        """Add a finished epoch: the network after it, its scores, its filters' norms."""
        self.model = model
        self.series = torch.cat([self.series, row[None]])
        self.norms = torch.cat([self.norms.reshape(-1, len(norms)), norms[None]])
        count = len(self.series) + 1
        for name, mean in self.average.items():
            mean.lerp_(model[name], 1 / count)

    def tensors(self) -> dict[str, Tensor]:
        """One flat dictionary for a file."""
        named = {f"model.{name}": value for name, value in self.model.items()}
        named |= {f"average.{name}": value for name, value in self.average.items()}
        return {**named, "series": self.series, "norms": self.norms}

    def checkpoint(self) -> dict[str, Tensor]:
        """`tensors`, and what is no result."""
        return {**self.tensors(), "time_s": torch.tensor(self.time_s, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Progress":
        """The inverse of `tensors` and of `checkpoint`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        time_s = float(tensors.get("time_s", 0))
        return cls(part("model."), part("average."), tensors["series"], tensors["norms"], time_s)


def run_stage(stage: Stage, lab: Lab, on_epoch: OnEpoch) -> str:
    """Run one stage to its end, from its checkpoint if there is one; returns its state.

    "diverged" is a result like any other: the loss became non-finite (the stage ends there, without
    a state, and so do its children), or at its end the network does no better on its training set
    than guessing.
    """
    about = {"dataset": lab.data.name, "num_classes": lab.data.num_classes}
    lab.store.begin(stage.id, {**stage.description(), **about})
    progress = Progress({})
    result: dict[str, float] | None = None
    if stage.parent is None or not is_lost(stage.parent, lab.store):
        model = lab.new_model(stage.seed)
        optimizer = lab.new_optimizer(model, stage.lr)
        loader = lab.train_loader(stage.seed)
        progress = _start(stage, lab, model, optimizer)
        if _train(stage, lab, model, optimizer, loader, progress, on_epoch):
            result = _result(stage, lab, model, loader, progress)
    summary = {
        "state": _state(stage, lab, result),
        "epoch": stage.start_epoch + len(progress.series),
        "result": {name: _json_number((result or {}).get(name)) for name in COLUMNS},
        "time_s": round(progress.time_s, 3),
        "provenance": lab.provenance,
    }
    files = {METRICS: _metrics(stage, progress)}
    if result is not None:
        files[STATE] = tensors_to_bytes(progress.tensors())
    lab.store.finish(stage.id, files, summary)
    return summary["state"]


def is_lost(stage: Stage, store: Store) -> bool:
    """Whether the stage finished with a non-finite loss, so that nothing can start from it."""
    summary = store.summary(stage.id)
    return summary is not None and STATE not in summary["files"]


def _state(stage: Stage, lab: Lab, result: dict[str, float] | None) -> str:
    """done or diverged; an average is what the run that it averages is."""
    if result is None:
        return "diverged"
    if stage.kind == "swa" and stage.parent is not None:
        return lab.store.state(stage.parent.id)
    return "diverged" if is_chance(result["train_accuracy"], lab.data) else "done"


def is_chance(train_accuracy: float, data: ImageData) -> bool:
    """Whether the training accuracy is a guess's: the commonest class plus 3 standard errors.

    Training without a mistake is never a guess, however few or alike the images are.
    """
    counts = torch.bincount(torch.from_numpy(data.train_labels))
    share = float(counts.max()) / len(data.train_labels)
    error = math.sqrt(share * (1 - share) / len(data.train_labels))
    return train_accuracy < 1 and train_accuracy <= share + 3 * error


def _start(stage: Stage, lab: Lab, model: ImageClassifier, optimizer: SphereSGD) -> Progress:
    """Put the model where the stage stands: its checkpoint, what it builds on, or a new network."""
    tensors = lab.store.load_progress(stage.id)
    if tensors is None:
        for earlier in predecessors(stage):
            if lab.store.summary(earlier.id) is not None and not is_lost(earlier, lab.store):
                tensors = lab.store.read_tensors(earlier.id, STATE)
                break
    if tensors is not None:
        progress = Progress.from_tensors(tensors)
        model.load_state_dict(progress.model)
        return progress
    if stage.parent is None:
        optimizer.projected_()
        return Progress(_snapshot(model))
    parent = Progress.from_tensors(lab.store.read_tensors(stage.parent.id, STATE))
    model.load_state_dict(parent.model)
    average = {}
    if stage.kind == "swa":
        average = {name: parent.model[name].clone() for name, _ in model.named_sphere_parameters()}
    return Progress(parent.model, average)


def _train(
    stage: Stage,
    lab: Lab,
    model: ImageClassifier,
    optimizer: SphereSGD,
    loader: Loader,
    progress: Progress,
    on_epoch: OnEpoch,
) -> bool:
    """Train what is left, a checkpoint after each epoch; False if the loss became non-finite."""
    every = lab.config.training.evaluate_every
    for epoch in range(stage.start_epoch + len(progress.series), stage.end_epoch):
        started = time.monotonic()
        totals = train_epoch(model, optimizer, loader.epoch(epoch), lab.precision, lab.device)
        # A continuing run is tested by the cadence alone, so that it does not depend on where the
        # averages of fewer checkpoints ended.
        last = epoch + 1 == stage.end_epoch and stage.kind != "swa"
        tested = last or (epoch + 1) % every == 0
        scores = lab.test(model) if tested else (totals.train_loss * math.nan,) * 2
        row = torch.stack([*totals, *scores]).cpu()
        norms = group_norms(model.sphere_parameters()).cpu()
        progress.append(_snapshot(model), row, norms)
        progress.time_s += time.monotonic() - started
        if math.isfinite(row[0]):
            lab.store.save_progress(stage.id, progress.checkpoint())
        on_epoch(stage, epoch + 1, dict(zip(COLUMNS, row.tolist(), strict=True)))
        if not math.isfinite(row[0]):
            return False
    return True


def _result(
    stage: Stage, lab: Lab, model: ImageClassifier, loader: Loader, progress: Progress
) -> dict[str, float]:
    """The stage's final figures: its last epoch, or the scores of its average.

    The average is scored as it is, not rescaled to the sphere, with batch-norm statistics
    re-estimated over the training set; its training score is that of the same pass.
    """
    if stage.kind != "swa":
        return dict(zip(COLUMNS, progress.series[-1].tolist(), strict=True))
    with torch.no_grad():
        for name, parameter in model.named_sphere_parameters():
            parameter.copy_(progress.average[name])
    train = reestimate_batch_norm_(model, loader.epoch(stage.end_epoch), lab.precision, lab.device)
    test = lab.test(model)
    values = (*torch.stack(train).tolist(), math.nan, *torch.stack(test).tolist())
    return dict(zip(COLUMNS, values, strict=True))


def _snapshot(model: ImageClassifier) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _metrics(stage: Stage, progress: Progress) -> bytes:
    """The epochs of the stage as a Parquet table."""
    table = pd.DataFrame(progress.series.numpy(), columns=list(COLUMNS))
    table.insert(0, "epoch", range(stage.start_epoch + 1, stage.start_epoch + 1 + len(table)))
    return parquet(table)


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
