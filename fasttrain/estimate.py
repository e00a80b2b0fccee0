"""What a plan will cost, from a few measured steps on the real model and data."""

import itertools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import EnvironmentProblem
from .files import tensors_to_bytes
from .lab import Lab
from .loop import train_epoch
from .plan import Stage, epochs_left

MEASURE_S = 2.0
MIN_STEPS = 3
SMALL_FILES_BYTES = 12_000
"""stage.json, done.json and metrics.parquet of one stage, about"""


@dataclass(frozen=True)
class Estimate:
    """Cost of the stages that are left, on this machine as loaded now."""

    num_epochs: int
    epoch_s: float
    """one epoch: training, its share of test passes, and the checkpoint"""
    time_s: float
    disk_bytes: int


def estimate(stages: list[Stage], lab: Lab) -> Estimate:
    """Measure some steps, a test pass and a checkpoint, and scale them to what is left.

    `stages` are those not finished. Writes nothing but a temporary file that has no name.

    Raises:
        EnvironmentProblem: the network cannot be run on this device.
    """
    try:
        step_s, test_s, checkpoint_s, size = _measure(lab)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise EnvironmentProblem(f"the network cannot be run on {lab.device}: {reason}") from None
    train_s = step_s * len(lab.train_loader(0))
    epoch_s = train_s + test_s / lab.config.training.evaluate_every + checkpoint_s
    num_epochs = sum(epochs_left(stages, lab.store).values())
    # Each average adds a pass over the training set, about a third of the cost of training on it.
    num_averages = sum(stage.kind == "swa" for stage in stages)
    return Estimate(
        num_epochs,
        epoch_s,
        num_epochs * epoch_s + num_averages * (train_s / 3 + test_s),
        sum(
            size * (2 if stage.kind == "swa" else 1)
            + stage.num_epochs * lab.num_filters * 4
            + SMALL_FILES_BYTES
            for stage in stages
        ),
    )


def _measure(lab: Lab) -> tuple[float, float, float, int]:
    """Seconds of a training step, a test pass and a checkpoint, and the checkpoint's bytes."""
    model = lab.new_model(0)
    optimizer = lab.new_optimizer(model, lab.config.grid.plr[0])
    optimizer.projected_()
    loader = lab.train_loader(0)
    forever = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    train_epoch(model, optimizer, itertools.islice(forever, 2), lab.precision, lab.device)
    timed = _Timed(forever)
    train_epoch(model, optimizer, timed, lab.precision, lab.device)
    _wait(lab.device)
    trained = time.perf_counter()
    lab.test(model)
    _wait(lab.device)
    tested = time.perf_counter()
    content = tensors_to_bytes(model.state_dict())
    with tempfile.TemporaryFile(dir=lab.store.folder_that_exists()) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    written = time.perf_counter()
    step_s = (trained - timed.started) / timed.num_steps
    return step_s, tested - trained, written - tested, len(content)


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
