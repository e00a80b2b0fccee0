"""How a plan is carried out on this machine: processes, threads, and the size of packs.

None of it is part of a stage's identity: it changes the numbers within rounding only.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..plan.config import RunOptions
from ..plan.stages import Stage
from ..training.workbench import Lab, open_lab
from .engines.local import Engine, InProcess, Workers
from .pack_size import Timing, fastest, measure, measure_compiled, measure_packs
from .packing import form_packs, largest_wave

WORTH_S = 600.0
"""a plan that takes longer is worth the compilation that shows whether it is faster"""


class Share(NamedTuple):
    """How processes share this machine."""

    processes: int
    num_threads: int
    """of each process"""
    on_device: int
    """processes that share the memory of a device"""


@dataclass(frozen=True)
class Choice:
    """The packs of a plan, and where they run."""

    packs: list[list[Stage]]
    share: Share
    timings: list[Timing]
    """what the size of packs was chosen by; empty if it was given"""
    size: int
    """most models in a pack"""
    compiled: bool
    note: str
    """what the user should know of how it came about"""

    @property
    def processes(self) -> int:
        """How many train at once."""
        return self.share.processes

    def measured(self, lab: Lab) -> list[Timing]:
        """Timings of this choice: those it was made by, or else new ones."""
        if self.timings:
            return [t for t in self.timings if t.compiled == self.compiled]
        with threads_of(self.share):
            return [measure(dataclasses.replace(lab, compiled=self.compiled), self.size)]

    def explain(self) -> str:
        """The choice and its figures, in a line or two."""
        where = "this process" if self.processes == 1 else f"{self.processes} processes"
        text = f"packs of up to {self.size} in {where}, {self.share.num_threads} threads each"
        text += ", compiled" if self.compiled else ""
        figures = ", ".join(
            f"{t.size}{' compiled' if t.compiled else ''}: {t.model_step_s * 1e3:.3g}"
            for t in self.timings
        )
        text += f"; ms per step and model in packs of {figures}" if figures else ""
        return f"{text}\n{self.note}" if self.note else text

    def engine(self, lab: Lab, options: RunOptions) -> contextlib.AbstractContextManager[Engine]:
        """The engine: this process, or workers with a lab of their own each."""
        lab.compiled = self.compiled
        return open_engine(lab, options, self.share, lab.store.lock_file)


def shared(count: int, lab: Lab, options: RunOptions) -> Share:
    """How this machine is shared for so many things that can be done at once."""
    available = torch.get_num_threads()
    devices = _devices(lab.device, options.device)
    room = available if lab.device.type == "cpu" else len(devices)
    processes = options.processes or min(count, room)
    threads = max(1, available // processes)
    return Share(processes, threads, math.ceil(processes / len(devices)))


@contextlib.contextmanager
def threads_of(share: Share) -> Iterator[None]:
    """Compute here as each of the processes does."""
    before = torch.get_num_threads()
    torch.set_num_threads(share.num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_engine(
    lab: Lab, options: RunOptions, share: Share, lock: int | None
) -> contextlib.AbstractContextManager[Engine]:
    """This process with its lab, or workers with one like it each, on the devices that there are.

    Args:
        lock: the file whose lock keeps others out of the store.
    """
    if share.processes == 1:
        return contextlib.nullcontext(InProcess(lab))
    return Workers(
        [
            functools.partial(
                open_lab,
                lab.config,
                options,
                lab.store.path,
                device,
                lab.precision,
                lab.provenance,
                lab.compiled,
            )
            for device in _places(lab.device, options.device, share.processes)
        ],
        share.num_threads,
        lock,
    )


def choose(stages: Sequence[Stage], lab: Lab, options: RunOptions) -> Choice:
    """Form the packs of a plan, by measurement unless their size is given."""
    roots = sum(stage.parent is None for stage in stages)
    share = shared(roots, lab, options)
    timings: list[Timing] = []
    note = ""
    size, compiled = options.pack and lab.at_most(options.pack), options.compile == "on"
    if size is None:
        with threads_of(share):
            timings = measure_packs(lab, largest_wave(stages), share.on_device)
            size = fastest(timings).size
            whole_s = _whole_s(stages, timings, share.processes, lab)
            if options.compile == "auto" and whole_s > WORTH_S and lab.kernel is None:
                more, note = measure_compiled(lab, size, share.on_device)
                timings += more
                compiled = fastest([t for t in timings if t.size == size]).compiled
    packs = form_packs(stages, lab.store, size, math.ceil(roots / share.processes))
    return Choice(packs, share, timings, max(map(len, packs)), compiled, note)


def _whole_s(stages: Sequence[Stage], timings: Sequence[Timing], processes: int, lab: Lab) -> float:
    """About how long the whole plan takes without compilation, whatever is finished of it."""
    num_epochs = sum(stage.num_epochs for stage in stages)
    return num_epochs * lab.steps_per_epoch * fastest(timings).model_step_s / processes


def _devices(device: torch.device, name: str) -> list[torch.device]:
    """The devices that a name allows: every GPU, unless one was named, or the CPU."""
    if device.type == "cuda" and name in ("auto", "cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]


def _places(device: torch.device, name: str, processes: int) -> list[torch.device]:
    """The device of every process: those that there are, in turn."""
    return list(itertools.islice(itertools.cycle(_devices(device, name)), processes))
