"""Choosing by measurement: how many models train fastest as one pack on this machine.

A few steps of packs of 1, 2, 4, ... models, on the real network and data, until two in a row are
slower per model or would not fit into memory. What was measured is kept in the user's cache
directory, by network, batch, device, arithmetic and versions, so that it is measured once.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import torch

from ..errors import EnvironmentProblem
from ..experiments.kinds import first_rates
from ..machine.files import json_bytes, write_atomically
from ..machine.memory import free_bytes, peak_bytes, reset_peak
from ..machine.precision import autocast, device_name
from ..plan.identity import digest
from ..settings.knobs import Knobs
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.groups import Built
from ..settings.part import section
from ..training.captured import WARM_UP, captured
from ..training.fused_mlp import FusedMLP, fused
from ..training.loop import train_epoch
from ..training.workbench import Workbench

WINDOWS = 4
WINDOW_S = 0.1
"""seconds of each, or one step; the fastest counts: other programs can only slow a step down"""
WORSE = 1.1
"""two sizes in a row that take so many times the fastest one's time per model end the search"""
EQUAL = 1.03
"""of packs within this factor of the fastest, the smallest is chosen"""
MEMORY_SHARE = 0.5
"""of the free memory that packs may take, over all processes"""


@dataclass(frozen=True)
class Timing:
    """A pack's cost on this machine, at its fastest while it was measured."""

    size: int
    step_s: float
    """one training step of all models"""
    test_batch_s: float
    """one batch of a test pass of all models"""
    memory_bytes: int
    """what it added to the process's peak"""
    compiled: bool = False

    @property
    def model_step_s(self) -> float:
        """One step of one model."""
        return self.step_s / self.size


def measure_packs(workbench: Workbench, largest: int, sharing: int) -> list[Timing]:
    """Timings of packs of 1, 2, 4, ... models, at most `largest`, from the cache if it has them.

    Args:
        sharing: processes that share the memory of the workbench's device.

    Raises:
        EnvironmentProblem: not even one model can be run on this device.
    """
    largest = workbench.at_most(largest)
    key = _key(workbench, largest, sharing)
    timings = _kept(key)
    if timings:
        return timings
    for size in _sizes(largest):
        if timings and not _fits(timings[-1], size, sharing, workbench.device):
            # Not kept: there may be more memory another time.
            return timings
        try:
            timings.append(measure(workbench, size))
        except EnvironmentProblem:
            raise
        except (RuntimeError, MemoryError) as error:
            if not timings:
                reason = str(error).splitlines()[0] if str(error) else "out of memory"
                text = f"the network cannot be run on {workbench.device}: {reason}"
                raise EnvironmentProblem(text) from None
            return timings
        least = min(timing.model_step_s for timing in timings)
        if len(timings) > 2 and min(t.model_step_s for t in timings[-2:]) > WORSE * least:
            break
    _keep(key, timings)
    return timings


def measure_compiled(workbench: Workbench, size: int, sharing: int) -> tuple[list[Timing], str]:
    """The timing of a pack of compiled networks, from the cache if it has it.

    Empty where they cannot be compiled, for want of a C++ compiler perhaps, and why.
    """
    key = f"{_key(workbench, size, sharing)}-compiled"
    timings = _kept(key)
    if not timings:
        try:
            timings = [measure(dataclasses.replace(workbench, compiled=True), size)]
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            return [], f"not compiled: {type(error).__name__}: {reason}"
        _keep(key, timings)
    return timings, ""


def fastest(timings: Sequence[Timing]) -> Timing:
    """The smallest pack that is as fast per model as the fastest."""
    least = min(timing.model_step_s for timing in timings)
    good = (timing for timing in timings if timing.model_step_s <= EQUAL * least)
    return min(good, key=lambda timing: timing.size)


def measure(workbench: Workbench, size: int) -> Timing:
    """Time steps and a test batch of a pack of so many models."""
    before = reset_peak(workbench.device)
    model = workbench.new_model(0, size)
    knobs = [Knobs(lr=first_rates(workbench.config)[0])] * size
    optimizer = workbench.new_optimizer(model, 0, knobs)
    optimizer.start_()
    kernel = fused(workbench, model, knobs)
    if kernel is not None:
        times = _measure_fused(workbench, kernel)
        return Timing(size, *times, peak_bytes(workbench.device) - before)
    step_s = _measure_steps(workbench, model, optimizer)
    images, _ = next(iter(workbench.test_loader.epoch(0)))
    model.eval()
    with torch.no_grad(), autocast(workbench.precision, workbench.device):
        model(images)
        _wait(workbench.device)
        started = time.perf_counter()
        model(images)
        _wait(workbench.device)
    test_batch_s = time.perf_counter() - started
    return Timing(
        size, step_s, test_batch_s, peak_bytes(workbench.device) - before, workbench.compiled
    )


def _measure_steps(workbench: Workbench, model: ImageClassifier, optimizer: Built) -> float:
    """Seconds of a step as training takes it: a graph, or one by one."""
    loader = workbench.train_loader(0)
    graphs = captured(workbench, model, optimizer, loader)
    if graphs is not None:
        # Whole epochs, once every size of a batch has its graph.
        epochs = map(graphs.train_epoch, itertools.count())
        collections.deque(itertools.islice(epochs, WARM_UP + 1), maxlen=0)
        timed = _Timed(epochs, workbench.device)
        collections.deque(timed, maxlen=0)
        return timed.step_s / len(loader)
    passes = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    # Of full batches, where there are any: a short one may be compiled apart.
    largest = min(workbench.config.training.batch_size, len(workbench.data.train_images))
    forever = (batch for batch in passes if len(batch[1]) == largest)
    arithmetic = workbench.precision, workbench.device
    train_epoch(model, workbench.loss, optimizer, itertools.islice(forever, 2), *arithmetic)
    timed = _Timed(forever, workbench.device)
    train_epoch(model, workbench.loss, optimizer, timed, *arithmetic)
    return timed.step_s


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


def models_in_memory(workbench: Workbench, most: int, sharing: int = 1) -> int:
    """How many models of a pack fit into memory, by what one takes to train; at most `most`.

    Args:
        sharing: processes that share the memory of the workbench's device, with such a pack each.

    Raises:
        EnvironmentProblem: not even one model can be run on this device.
    """
    most = workbench.at_most(most)
    [one] = measure_packs(workbench, 1, 1)
    free = MEMORY_SHARE * free_bytes(workbench.device) / sharing
    return max(1, min(most, int(free / max(1, one.memory_bytes))))


def cache_directory() -> Path:
    """Where the user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fasttrain"


def _kept(key: str) -> list[Timing]:
    """What was measured before; nothing if that cannot be read."""
    try:
        content = json.loads((cache_directory() / "tuning" / f"{key}.json").read_bytes())
        return [Timing(**entry) for entry in content["timings"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _keep(key: str, timings: list[Timing]) -> None:
    """Keep what was measured, where the user's cache directory can be written."""
    folder = cache_directory() / "tuning"
    with contextlib.suppress(OSError, EnvironmentProblem):
        folder.mkdir(parents=True, exist_ok=True)
        content = json_bytes({"timings": [asdict(timing) for timing in timings]})
        write_atomically(folder / f"{key}.json", content)


def _sizes(largest: int) -> Iterator[int]:
    """1, 2, 4, ... and the largest."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def _key(workbench: Workbench, largest: int, sharing: int) -> str:
    config = workbench.config
    return digest(
        {
            "parts": [section(part) for part in (config.network, config.optimizer)],
            "loss": workbench.loss.kind,
            "images": [int(size) for size in workbench.data.train_images.shape[1:]],
            "classes": workbench.data.num_classes,
            "kernel": workbench.kernel,
            "batch_size": config.training.batch_size,
            "precision": workbench.precision,
            "device": [platform.node(), device_name(workbench.device), torch.get_num_threads()],
            "versions": [torch.__version__, numba.__version__],
            "search": [largest, sharing, WINDOWS, WORSE],
        }
    )


def _fits(measured: Timing, size: int, sharing: int, device: torch.device) -> bool:
    """Whether packs of a larger size will leave memory to others."""
    needed = measured.memory_bytes * size / measured.size * sharing
    return needed <= MEMORY_SHARE * free_bytes(device)


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
