"""Choosing by measurement: how many models train fastest as one pack on this machine.

A few steps of packs of 1, 2, 4, ... models, on the real network and data, until larger packs are no
faster per model or would not fit into memory. What was measured is kept in the user's cache
directory, by network, batch, device, arithmetic and versions, so that it is measured once.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import torch
from torch import Tensor

from .errors import EnvironmentProblem
from .files import json_bytes, write_atomically
from .lab import Lab
from .loop import train_epoch
from .plan import NUMERICS, digest
from .precision import device_name

MEASURE_S = 0.4
MIN_STEPS = 3
WORSE = 1.1
"""a pack that takes so many times the fastest one's time per model ends the search"""
EQUAL = 1.03
"""of packs within this factor of the fastest, the smallest is chosen"""
MEMORY_SHARE = 0.5
"""of the free memory that packs may take, over all processes"""


@dataclass(frozen=True)
class Timing:
    """A pack's cost on this machine as loaded when it was measured."""

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


def measure_packs(lab: Lab, largest: int, processes: int) -> list[Timing]:
    """Timings of packs of 1, 2, 4, ... models, at most `largest`, from the cache if it has them.

    Raises:
        EnvironmentProblem: not even one model can be run on this device.
    """
    key = _key(lab, largest, processes)
    timings = _kept(key)
    if timings:
        return timings
    for size in _sizes(largest):
        if timings and not _fits(timings[-1], size, processes, lab.device):
            break
        try:
            timings.append(measure(lab, size))
        except (RuntimeError, MemoryError) as error:
            if not timings:
                reason = str(error).splitlines()[0] if str(error) else "out of memory"
                text = f"the network cannot be run on {lab.device}: {reason}"
                raise EnvironmentProblem(text) from None
            break
        least = min(timing.model_step_s for timing in timings)
        if timings[-1].model_step_s > WORSE * least:
            break
    _keep(key, timings)
    return timings


def measure_compiled(lab: Lab, size: int, processes: int) -> Timing:
    """The timing of a pack of compiled networks, from the cache if it has it."""
    key = f"{_key(lab, size, processes)}-compiled"
    timings = _kept(key)
    if not timings:
        timings = [measure(dataclasses.replace(lab, compiled=True), size)]
        _keep(key, timings)
    return timings[0]


def fastest(timings: Sequence[Timing]) -> Timing:
    """The smallest pack that is as fast per model as the fastest."""
    least = min(timing.model_step_s for timing in timings)
    good = (timing for timing in timings if timing.model_step_s <= EQUAL * least)
    return min(good, key=lambda timing: timing.size)


def measure(lab: Lab, size: int) -> Timing:
    """Time steps and a test batch of a pack of so many models."""
    before = _peak_bytes(lab.device)
    model = lab.new_model(0, size)
    optimizer = lab.new_optimizer(model, [lab.config.grid.plr[0]] * size)
    optimizer.projected_()
    loader = lab.train_loader(0)
    forever = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    train_epoch(model, optimizer, itertools.islice(forever, 2), lab.precision, lab.device)
    timed = _Timed(forever)
    train_epoch(model, optimizer, timed, lab.precision, lab.device)
    _wait(lab.device)
    trained = time.perf_counter()
    batches = itertools.islice(lab.test_loader.epoch(0), 2)
    count = 0
    model.eval()
    with torch.no_grad():
        for images, _ in batches:
            model(images)
            count += 1
    _wait(lab.device)
    tested = time.perf_counter()
    step_s = (trained - timed.started) / timed.num_steps
    added = _peak_bytes(lab.device) - before
    return Timing(size, step_s, (tested - trained) / count, added, lab.compiled)


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


def _key(lab: Lab, largest: int, processes: int) -> str:
    return digest(
        {
            "network": asdict(lab.config.network),
            "images": [int(size) for size in lab.data.train_images.shape[1:]],
            "classes": lab.data.num_classes,
            "batch_size": lab.config.training.batch_size,
            "precision": lab.precision,
            "device": device_name(lab.device),
            "versions": [torch.__version__, numba.__version__, NUMERICS],
            "search": [largest, processes],
        }
    )


def _fits(measured: Timing, size: int, processes: int, device: torch.device) -> bool:
    """Whether packs of a larger size will leave memory to others."""
    needed = measured.memory_bytes * size / measured.size * processes
    return needed <= MEMORY_SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
