"""Choosing by measurement: how many models train fastest as one pack on this machine.

A few steps of packs of 1, 2, 4, ... models, on the real network and data, until two in a row are
slower per model or would not fit into memory; on a GPU as grouped networks, and as single ones on
streams. What was measured is kept in the user's cache directory, by all that a step's time depends
on: network, optimiser, loss, data and what becomes of them, noise, batch, device, arithmetic and
versions. So it is measured once, and again when one of them is another.
"""

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from ..errors import EnvironmentProblem
from ..machine.files import json_bytes, write_atomically
from ..machine.memory import free_bytes
from ..machine.precision import device_name
from ..plan.identity import digest
from ..settings.optimizers.kinds import SGD
from ..settings.part import section
from ..store.pack_records import GROUPED, STREAMS
from ..training.workbench import Workbench
from ..version import installed
from .measured import WINDOWS, Timing, first_knobs, measure, measure_streams

WORSE = 1.1
"""two sizes in a row that take so many times the fastest one's time per model end the search"""
EQUAL = 1.03
"""of packs within this factor of the fastest, the smallest is chosen"""
MOST_STREAMS = 16
"""models on streams: work of a process reaches a GPU through 8 queues, unless told otherwise"""
OF_BATCHES = ("flip", "crop_padding", "rand_augment", "rand_ops", "rand_magnitude", "loader")
"""keys of the data that say what is done for a batch"""
MEMORY_SHARE = 0.5
"""of the free memory that packs may take, over all processes"""


@dataclass(frozen=True)
class Choice:
    """How new packs train on a kind of node."""

    size: int
    """most models in a pack"""
    compiled: bool = False
    way: str = GROUPED
    """how they train together"""
    timings: Sequence[Timing] = ()
    """what that was chosen by; empty if it was given"""
    processes: int = 1
    """that train at once there"""

    @property
    def model_step_s(self) -> float:
        """One step of one model, as it was measured."""
        return fastest(self.timings).model_step_s

    def measured(self) -> list[Timing]:
        """The timings of packs that train as chosen."""
        alike = [timing for timing in self.timings if timing.compiled == self.compiled]
        # Of one model there is but one way.
        return [timing for timing in alike if timing.way == self.way or timing.size == 1]


def measure_packs(
    workbench: Workbench, largest: int, sharing: int, way: str = GROUPED
) -> list[Timing]:
    """Timings of packs of 1, 2, 4, ... models, at most `largest`, from the cache if it has them.

    Args:
        sharing: processes that share the memory of the workbench's device.
        way: how the models train together; of one model there is but one.

    Raises:
        EnvironmentProblem: not even one model can be run on this device.
    """
    largest = min(workbench.at_most(largest), MOST_STREAMS if way == STREAMS else largest)
    key = _key(workbench, largest, sharing) + ("" if way == GROUPED else f"-{way}")
    timings = _kept(key)
    if timings:
        return timings
    for size in _sizes(largest):
        if way == STREAMS and size == 1:
            continue
        if timings and not _fits(timings[-1], size, sharing, workbench.device):
            # Not kept: there may be more memory another time.
            return timings
        try:
            taken = measure_streams if way == STREAMS else measure
            timings.append(taken(workbench, size))
        except EnvironmentProblem:
            raise
        except (RuntimeError, MemoryError) as error:
            if not timings and way == GROUPED:
                reason = str(error).splitlines()[0] if str(error) else "out of memory"
                text = f"the network cannot be run on {workbench.device}: {reason}"
                raise EnvironmentProblem(text) from None
            return timings
        least = min(timing.model_step_s for timing in timings)
        if len(timings) > 2 and min(t.model_step_s for t in timings[-2:]) > WORSE * least:
            break
    if timings:
        _keep(key, timings)
    return timings


def measure_ways(workbench: Workbench, largest: int, sharing: int, compiled: bool) -> list[Timing]:
    """Timings of packs (`measure_packs`) in all ways in which they can train.

    Args:
        compiled: whether networks are to be compiled: they have graphs of their own.
    """
    timings = []
    for way in (GROUPED,) if compiled else ways(workbench):
        timings += measure_packs(workbench, largest, sharing, way)
    return timings


def ways(workbench: Workbench) -> tuple[str, ...]:
    """The ways in which models can train together, to be measured.

    Streams need a GPU, and steps that draw nothing: of torch's generator graphs read one place.
    """
    optimizer = workbench.config.optimizer
    draws = isinstance(optimizer, SGD) and optimizer.gradient_noise > 0
    draws = draws or first_knobs(workbench.config).noise > 0
    return (GROUPED,) if workbench.device.type != "cuda" or draws else (GROUPED, STREAMS)


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
    config, data, knobs = workbench.config, workbench.data, first_knobs(workbench.config)
    images = [data.train_images, data.test_images]
    return digest(
        {
            "parts": [section(part) for part in (config.network, config.optimizer)],
            "loss": workbench.loss.kind,
            "images": [[int(size) for size in split.shape] for split in images],
            "floats": data.holds_floats,
            "classes": data.num_classes,
            "augmented": {name: getattr(config.data, name) for name in OF_BATCHES},
            "knobs": [knobs.noise > 0, knobs.weight_decay is not None],
            "kernel": workbench.kernel,
            "batch_size": config.training.batch_size,
            "steps": config.training.steps,
            "precision": workbench.precision,
            "device": [platform.node(), device_name(workbench.device), torch.get_num_threads()],
            "versions": _versions(),
            "search": [largest, sharing, WINDOWS, WORSE],
        }
    )


def _versions() -> list[str]:
    """Of what computes: another one may do the same in another time."""
    found = [installed(), torch.__version__, metadata.version("numba")]
    # Kernels may be a distribution of their own; loaders are part of this one.
    for name in ("fasttrain-kernels", "triton"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def _fits(measured: Timing, size: int, sharing: int, device: torch.device) -> bool:
    """Whether packs of a larger size will leave memory to others."""
    needed = measured.memory_bytes * size / measured.size * sharing
    return needed <= MEMORY_SHARE * free_bytes(device)
