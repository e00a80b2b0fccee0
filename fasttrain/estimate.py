"""What a plan will cost, from a few measured steps on the real model and data."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .lab import Lab
from .loop import group_norms, train_epoch
from .plan import Stage, remaining_epochs
from .store import to_bytes

MEASURE_S = 2.0
MIN_STEPS = 3
SMALL_FILES_BYTES = 12_000
"""stage.json, done.json and metrics.parquet of one stage, about"""


@dataclass(frozen=True)
class Estimate:
    """Cost of the stages that are left, on this machine as loaded now."""

    num_epochs: int
    epoch_s: float
    """one epoch: training, its share of test passes, and the checkpoint's serialisation"""
    time_s: float
    disk_bytes: int


def estimate(stages: list[Stage], lab: Lab) -> Estimate:
    """Measure some seconds of training and a test pass, and scale them to these stages."""
    training = lab.config.training
    model = lab.new_model(0)
    optimizer = lab.new_optimizer(model, lab.config.grid.plr[0])
    optimizer.projected_()
    loader = lab.train_loader(0)
    forever = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    train_epoch(model, optimizer, itertools.islice(forever, 2), lab.precision, lab.device)
    timed = _Timed(forever)
    train_epoch(model, optimizer, timed, lab.precision, lab.device)
    _wait(lab.device)
    step_s = (time.perf_counter() - timed.started) / timed.num_steps
    started = time.perf_counter()
    lab.test(model)
    size = len(to_bytes({**model.state_dict()}))
    _wait(lab.device)
    test_s = time.perf_counter() - started
    num_epochs = remaining_epochs(stages)
    epoch_s = step_s * len(loader) + test_s / training.evaluate_every
    # Each average adds a pass over the training set, about a third of the cost of training on it.
    num_averages = sum(stage.kind == "swa" for stage in stages)
    average_s = step_s * len(loader) / 3 + test_s
    norms_bytes = group_norms(model.sphere_parameters()).numel() * 4
    return Estimate(
        num_epochs,
        epoch_s,
        num_epochs * epoch_s + num_averages * average_s,
        sum(
            size * (2 if stage.kind == "swa" else 1)
            + stage.num_epochs * norms_bytes
            + SMALL_FILES_BYTES
            for stage in stages
        ),
    )


class _Timed:
    """Batches for `MEASURE_S` seconds, at least `MIN_STEPS` of them."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.num_steps = 0
        self.started = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.started = time.perf_counter()
        for batch in self.batches:
            self.num_steps += 1
            yield batch
            if self.num_steps >= MIN_STEPS and time.perf_counter() > self.started + MEASURE_S:
                return


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
