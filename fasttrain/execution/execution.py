"""How a plan is carried out on this machine: processes, threads, and the size of packs.

None of it is part of a stage's identity: it changes the numbers within rounding only.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..machine import interrupts
from ..machine.precision import resolve_device, resolve_precision
from ..machine.timings import phase
from ..plan.config import Config, RunOptions
from ..plan.stages import Stage
from ..store.pack_records import GROUPED, STREAMS
from ..training.workbench import Workbench, open_workbench
from .engines.local import Engine, InProcess, Workers
from .measured import Timing, measure
from .pack_size import fastest, measure_compiled, measure_ways
from .packing import form_packs, largest_wave

# Imported where it is used: it imports Ray.
if TYPE_CHECKING:
    from .engines.ray_cluster import Room

WORTH_S = 600.0
"""a plan that takes longer is worth the compilation that shows whether it is faster"""


class Share(NamedTuple):
    """How processes share this machine, or a cluster."""

    processes: int
    num_threads: int
    """of each process"""
    on_device: int
    """processes that share the memory of a device"""
    room: "Room | None" = None
    """of each on a cluster; None on this machine"""


@dataclass(frozen=True)
class Execution:
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
    options: RunOptions
    way: str = GROUPED
    """how the models of new packs train together"""

    @property
    def processes(self) -> int:
        """How many train at once."""
        return self.share.processes

    def measured(self, workbench: Workbench) -> list[Timing]:
        """Timings of it: those it was chosen by, or else new ones."""
        if self.timings:
            alike = [t for t in self.timings if t.compiled == self.compiled]
            # Of one model there is but one way.
            return [t for t in alike if t.way == self.way or t.size == 1]
        like = dataclasses.replace(workbench, compiled=self.compiled)
        return [found_by(measure, like, self.options, self.share, self.size)]

    def explain(self) -> str:
        """The packs and their figures, in a line or two."""
        alone = self.processes == 1 and self.share.room is None
        where = "this process" if alone else f"{self.processes} processes"
        text = f"packs of up to {self.size} in {where}, {self.share.num_threads} threads each"
        text += ", compiled" if self.compiled else ""
        text += ", on streams" if self.way == STREAMS else ""
        figures = ", ".join(f"{t.label()}: {t.model_step_s * 1e3:.3g}" for t in self.timings)
        text += f"; ms per step and model in packs of {figures}" if figures else ""
        return f"{text}\n{self.note}" if self.note else text

    def engine(
        self, workbench: Workbench, options: RunOptions
    ) -> contextlib.AbstractContextManager[Engine]:
        """The engine: this process, or workers with a workbench of their own each."""
        workbench.compiled = self.compiled
        return open_engine(workbench, options, self.share, workbench.store.lock_file)


def shared(count: int, workbench: Workbench, options: RunOptions) -> Share:
    """How this machine, or the cluster, is shared for so many things that can be done at once."""
    if options.engine == "ray":
        from .engines.ray_cluster import cluster

        room = cluster(options).room(count, options)
        sharing = options.per_gpu if room.num_gpus else room.processes
        return Share(room.processes, room.num_threads, sharing, room)
    available = torch.get_num_threads()
    devices = _devices(workbench.device, options.device)
    room = available if workbench.device.type == "cpu" else len(devices)
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
    workbench: Workbench, options: RunOptions, share: Share, lock: int | None
) -> contextlib.AbstractContextManager[Engine]:
    """This process with its workbench, or workers with one like it each, on all devices.

    Args:
        lock: the file whose lock keeps others out of the store.
    """
    if share.room is not None:
        from .engines.ray_engine import RayEngine

        return RayEngine(workbench, options, share.room)
    if share.processes == 1:
        return contextlib.nullcontext(InProcess(workbench))
    return Workers(
        [
            functools.partial(
                open_workbench,
                workbench.config,
                options,
                workbench.store.path,
                device,
                workbench.precision,
                workbench.provenance,
                workbench.compiled,
            )
            for device in _places(workbench.device, options.device, share.processes)
        ],
        share.num_threads,
        lock,
    )


@phase("choosing packs")
def plan_execution(stages: Sequence[Stage], workbench: Workbench, options: RunOptions) -> Execution:
    """Form the packs of a plan, by measurement unless their size is given."""
    roots = sum(stage.parent is None for stage in stages)
    share = shared(roots, workbench, options)
    timings: list[Timing] = []
    note = ""
    size, compiled = options.pack and workbench.at_most(options.pack), options.compile == "on"
    way = GROUPED
    if size is None:
        where, wave = (workbench, options, share), largest_wave(stages)
        timings = found_by(measure_ways, *where, wave, share.on_device, compiled)
        chosen = fastest(timings)
        whole_s = _whole_s(stages, timings, share.processes, workbench)
        if options.compile == "auto" and whole_s > WORTH_S and found_by(kernel_of, *where) is None:
            more, note = found_by(measure_compiled, *where, chosen.size, share.on_device)
            timings += more
            chosen = fastest([chosen, *more])
            compiled = chosen.compiled
        size, way = chosen.size, chosen.way
    note = "\n".join(filter(None, [note, about_cluster(options)]))
    packs = form_packs(stages, workbench.store, size, math.ceil(roots / share.processes))
    return Execution(packs, share, timings, max(map(len, packs)), compiled, note, options, way)


def found_by(
    function: Callable[..., Any],
    workbench: Workbench,
    options: RunOptions,
    share: Share,
    *arguments: Any,
) -> Any:
    """What a function finds of the workbench as packs train in it: here, or on a cluster's node."""
    if share.room is not None:
        from .engines.ray_engine import ask_workbench

        return ask_workbench(function, workbench, options, share.room, *arguments)
    with threads_of(share):
        return function(workbench, *arguments)


def device_and_precision(config: Config, options: RunOptions) -> tuple[torch.device, str]:
    """The device that this process uses, and the arithmetic of all that train.

    The driver of a cluster trains nothing, and leaves devices to its workers.

    Raises:
        UsageError, EnvironmentProblem: a device that is not there.
    """
    if options.engine == "ray":
        precision = config.training.precision
        if precision == "auto":
            from .engines.ray_engine import ask_node

            precision = ask_node(own_precision, options)
        return torch.device("cpu"), precision
    device = resolve_device(options.device)
    return device, resolve_precision(config.training.precision, device)


def about_cluster(options: RunOptions) -> str:
    """The cluster of the options in a line, and what there is to be warned of; "" without one."""
    if options.engine == "local":
        return ""
    from .engines.ray_cluster import cluster

    return cluster(options).explain()


def leave_cluster() -> None:
    """Disconnect from the cluster that this process is connected to, if it is."""
    module = sys.modules.get(f"{__package__}.engines.ray_cluster")
    if module is not None:
        with interrupts.passed_over():
            module.disconnect()


@contextlib.contextmanager
def cluster_left() -> Iterator[None]:
    """Leave the cluster afterwards, however this ends."""
    try:
        yield
    finally:
        leave_cluster()


def kernel_of(workbench: Workbench) -> str | None:
    """The kernel that would take the steps, where a process is asked."""
    return workbench.kernel


def own_precision(device: str) -> str:
    """What `auto` is on a device of the process that is asked."""
    return resolve_precision("auto", resolve_device(device))


def _whole_s(
    stages: Sequence[Stage], timings: Sequence[Timing], processes: int, workbench: Workbench
) -> float:
    """About how long the whole plan takes without compilation, whatever is finished of it."""
    num_epochs = sum(stage.num_epochs for stage in stages)
    return num_epochs * workbench.steps_per_epoch * fastest(timings).model_step_s / processes


def _devices(device: torch.device, name: str) -> list[torch.device]:
    """The devices that a name allows: every GPU, unless one was named, or the CPU."""
    if device.type == "cuda" and name in ("auto", "cuda"):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [device]


def _places(device: torch.device, name: str, processes: int) -> list[torch.device]:
    """The device of every process: those that there are, in turn."""
    return list(itertools.islice(itertools.cycle(_devices(device, name)), processes))
