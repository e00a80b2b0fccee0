"""What steps of packs take on this machine, as training takes them, and how much memory."""

import collections
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..experiments.kinds import Chain, first_rates
from ..machine.memory import peak_bytes, reset_peak
from ..machine.precision import autocast
from ..plan.config import Config
from ..settings.knobs import Knobs
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.groups import Built
from ..store.pack_records import GROUPED, STREAMS
from ..training.captured import WARM_UP, captured, side_by_side
from ..training.fused_mlp import FusedMLP, fused
from ..training.loop import train_epoch
from ..training.workbench import Workbench

WINDOWS = 4
WINDOW_S = 0.1
"""seconds of each, or one step; the fastest counts: other programs can only slow a step down"""


@dataclass(frozen=True)
class Timing:
    """A pack's cost on this machine, at its fastest while it was measured."""

    size: int
    step_s: float
    """one training step of all models"""
    test_batch_s: float
    """one batch of a test pass of all models"""
    memory_bytes: int
    """what it added to the most that the process holds: with graphs the pools that are theirs"""
    compiled: bool = False
    way: str = GROUPED
    """how its models train together"""

    @property
    def model_step_s(self) -> float:
        """One step of one model."""
        return self.step_s / self.size

    def label(self) -> str:
        """The size, and what is not as usual."""
        return f"{self.size}{' compiled' * self.compiled}{' on streams' * (self.way == STREAMS)}"


def measure(workbench: Workbench, size: int) -> Timing:
    """Time steps and a test batch of a pack of so many models."""
    before = reset_peak(workbench.device)
    model, optimizer, knobs = _made(workbench, size)
    kernel = fused(workbench, model, knobs)
    if kernel is not None:
        times = _measure_fused(workbench, kernel)
        return Timing(size, *times, peak_bytes(workbench.device) - before)
    step_s = _measure_steps(workbench, model, optimizer)
    test_batch_s = _test_batch_s(workbench, model)
    memory = peak_bytes(workbench.device) - before
    return Timing(size, step_s, test_batch_s, memory, workbench.compiled)


def measure_streams(workbench: Workbench, size: int) -> Timing:
    """As `measure`, of so many packs of one with graphs on streams of their own.

    Raises:
        RuntimeError: their steps cannot be captured.
    """
    before, loader = reset_peak(workbench.device), workbench.train_loader(0)
    made = [_made(workbench, 1) for _ in range(size)]
    graphs = [captured(workbench, model, optimizer, loader) for model, optimizer, _ in made]
    models = [one for one in graphs if one is not None]
    if len(models) < size:
        raise RuntimeError("steps that cannot be captured have no streams")
    step_s = _measure_epochs(workbench, lambda epoch: side_by_side(models, epoch))
    if any(one.failed for one in models):
        raise RuntimeError("a step could not be captured")
    # Tests are launched one after another.
    test_batch_s = size * _test_batch_s(workbench, made[0][0])
    memory = peak_bytes(workbench.device) - before
    return Timing(size, step_s, test_batch_s, memory, way=STREAMS)


def first_knobs(config: Config) -> Knobs:
    """Knobs that new networks are trained at: noise, if any, takes operations of its own."""
    [lr, *_], experiment = first_rates(config), config.experiment
    if not isinstance(experiment, Chain):
        return Knobs(lr=lr)
    legs = [chain[0] for chain in experiment.legs]
    noise = max(itertools.chain.from_iterable(leg.noise for leg in legs), default=0.0)
    return Knobs(lr=lr, weight_decay=next(iter(legs[0].weight_decay), None), noise=noise)


def _made(workbench: Workbench, size: int) -> tuple[ImageClassifier, Built, list[Knobs]]:
    knobs = [first_knobs(workbench.config)] * size
    model = workbench.new_model(0, size, [one.noise for one in knobs])
    optimizer = workbench.new_optimizer(model, 0, knobs)
    optimizer.start_()
    return model, optimizer, knobs


def _test_batch_s(workbench: Workbench, model: ImageClassifier) -> float:
    """Seconds of a batch of a test pass, after one that is not timed."""
    images, _ = next(iter(workbench.test_loader.epoch(0)))
    model.eval()
    with torch.no_grad(), autocast(workbench.precision, workbench.device):
        model(images)
        _wait(workbench.device)
        started = time.perf_counter()
        model(images)
        _wait(workbench.device)
    return time.perf_counter() - started


def _measure_steps(workbench: Workbench, model: ImageClassifier, optimizer: Built) -> float:
    """Seconds of a step as training takes it: a graph, or one by one."""
    loader = workbench.train_loader(0)
    graphs = captured(workbench, model, optimizer, loader)
    if graphs is not None:
        return _measure_epochs(workbench, graphs.train_epoch)
    passes = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    # Of full batches, where there are any: a short one may be compiled apart.
    largest = min(workbench.config.training.batch_size, len(workbench.data.train_images))
    forever = (batch for batch in passes if len(batch[1]) == largest)
    arithmetic = workbench.precision, workbench.device
    train_epoch(model, workbench.loss, optimizer, itertools.islice(forever, 2), *arithmetic)
    timed = _Timed(forever, workbench.device)
    train_epoch(model, workbench.loss, optimizer, timed, *arithmetic)
    return timed.step_s


def _measure_epochs(workbench: Workbench, train: Callable[[int], object]) -> float:
    """Seconds of a step in whole epochs, once every size of a batch has its graph."""
    epochs = map(train, itertools.count())
    collections.deque(itertools.islice(epochs, WARM_UP + 1), maxlen=0)
    timed = _Timed(epochs, workbench.device)
    collections.deque(timed, maxlen=0)
    return timed.step_s / len(workbench.train_loader(0))


def _measure_fused(workbench: Workbench, kernel: FusedMLP) -> tuple[float, float]:
    """Seconds of a step and of a test batch of a pack whose epochs run in a kernel."""
    batches = workbench.train_loader(0)
    kernel.train_epoch(batches, 0)
    kernel.score(workbench.test_loader)
    found = []
    for what, count in (
        (lambda epoch: kernel.train_epoch(batches, epoch), len(batches)),
        (lambda _: kernel.score(workbench.test_loader), len(workbench.test_loader)),
    ):
        timed = _Timed(map(what, itertools.count()), workbench.device)
        collections.deque(timed, maxlen=0)
        found.append(timed.step_s / count)
    return found[0], found[1]


class _Timed:
    """Batches for some windows of time; `step_s` is what a step took in the fastest of them."""

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self.batches = batches
        self.device = device
        self.step_s = math.inf

    def __iter__(self) -> Iterator[Any]:
        for _ in range(WINDOWS):
            started = time.perf_counter()
            for num_steps in itertools.count(1):
                yield next(self.batches)
                if time.perf_counter() > started + WINDOW_S:
                    _wait(self.device)
                    self.step_s = min(self.step_s, (time.perf_counter() - started) / num_steps)
                    break


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
