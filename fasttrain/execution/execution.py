"""How a plan is carried out on this machine: processes, threads, and the size of packs.

None of it is part of a stage's identity: it changes the numbers within rounding only.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..machine import interrupts
from ..machine.precision import resolve_device, resolve_precision
from ..machine.timings import phase
from ..plan.config import Config, RunOptions
from ..plan.stages import Stage
from ..store.pack_records import STREAMS
from ..training.workbench import Workbench, open_workbench
from .choosing import choose
from .engines.local import Engine, InProcess, Workers
from .measured import Timing, measure
from .pack_size import Choice
from .packing import form_packs
from .sharing import Share, devices_of, found_by, shared


@dataclass(frozen=True)
class Execution:
    """The packs of a plan, and where they run."""

    packs: list[list[Stage]]
    share: Share
    choices: dict[str, Choice]
    """how new packs train on each kind of node, the fastest first; under "" where there is one"""
    size: int
    """most models in a pack"""
    note: str
    """what the user should know of how it came about"""
    options: RunOptions

    @property
    def processes(self) -> int:
        """How many train at once."""
        return self.share.processes

    def measured(self, workbench: Workbench) -> list[tuple[list[Timing], int]]:
        """Timings of it on each kind of node, and how many train at once there.

        Those that it was chosen by, or else new ones. Where all networks are to be compiled,
        several kinds have timings of others alone, and those stand for them.
        """
        if len(self.choices) > 1:
            of_kinds = [choice for choice in self.choices.values() if choice.processes]
            return [(c.measured() or list(c.timings), c.processes) for c in of_kinds]
        [choice] = self.choices.values()
        timings = choice.measured()
        if not timings:
            like = dataclasses.replace(workbench, compiled=choice.compiled)
            timings = [found_by(measure, like, self.options, self.share, self.size)]
        return [(timings, self.processes)]

    def explain(self) -> str:
        """The packs and their figures, in a line or two; with a line for each kind of node."""
        alone = self.processes == 1 and self.share.room is None
        where = "this process" if alone else f"{self.processes} processes"
        text = f"packs of up to {self.size} in {where}, {self.share.num_threads} threads each"
        if len(self.choices) > 1:
            lines = [text, *(_about(kind, choice) for kind, choice in self.choices.items())]
        else:
            lines = [text + "".join(map(_how, self.choices.values()))]
        return "\n".join(filter(None, [*lines, self.note]))

    def engine(
        self, workbench: Workbench, options: RunOptions
    ) -> contextlib.AbstractContextManager[Engine]:
        """The engine: this process, or workers with a workbench of their own each."""
        workbench.compiled = next(iter(self.choices.values())).compiled
        return open_engine(workbench, options, self.share, workbench.store.lock_file, self.choices)


def _about(kind: str, choice: Choice) -> str:
    """A kind of node and its packs, in a line."""
    return f"{kind}: {choice.processes} of them, packs of up to {choice.size}{_how(choice)}"


def _how(choice: Choice) -> str:
    """What is not as usual in how packs train, and their figures."""
    text = ", compiled" if choice.compiled else ""
    text += ", on streams" if choice.way == STREAMS else ""
    figures = ", ".join(f"{t.label()}: {t.model_step_s * 1e3:.3g}" for t in choice.timings)
    return text + (f"; ms per step and model in packs of {figures}" if figures else "")


def open_engine(
    workbench: Workbench,
    options: RunOptions,
    share: Share,
    lock: int | None,
    choices: Mapping[str, Choice],
) -> contextlib.AbstractContextManager[Engine]:
    """This process with its workbench, or workers with one like it each, on all devices.

    Args:
        lock: the file whose lock keeps others out of the store.
        choices: how packs train on each kind of node; of one, and of analyses, the workbench says.
    """
    if share.room is not None:
        from .engines.ray_engine import RayEngine

        return RayEngine(workbench, options, share.room, choices if len(choices) > 1 else {})
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
    """Form the packs of a plan, by measurement unless their size is given.

    They have at most the largest size of all kinds of nodes that train: `run_sweep` divides them
    for others.
    """
    roots = sum(stage.parent is None for stage in stages)
    share = shared(roots, workbench, options)
    if options.pack is None:
        choices, notes = choose(stages, workbench, options, share)
    else:
        given = workbench.at_most(options.pack)
        choices, notes = {"": Choice(given, options.compile == "on")}, []
    size = max(choice.size for choice in choices.values() if choice.processes)
    note = "\n".join(filter(None, [*notes, about_cluster(options)]))
    packs = form_packs(stages, workbench.store, size, math.ceil(roots / share.processes))
    return Execution(packs, share, choices, max(map(len, packs)), note, options)


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


def own_precision(device: str) -> str:
    """What `auto` is on a device of the process that is asked."""
    return resolve_precision("auto", resolve_device(device))


def _places(device: torch.device, name: str, processes: int) -> list[torch.device]:
    """The device of every process: those that there are, in turn."""
    return list(itertools.islice(itertools.cycle(devices_of(device, name)), processes))
