"""Where the time of a pack goes: loaders, optimiser and store are timed, in one process."""

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasttrain.execution.engines.local import InProcess
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.modules import ImageClassifier
from fasttrain.settings.optimizers.groups import Built
from fasttrain.store.store import Store
from fasttrain.training.workbench import Workbench

from .ours import CPU, OurSweep, run_packs

PARTS = ("data", "forward and backward", "step", "statistics", "evaluation", "input and output")
REST = "all else"


class Clock:
    """Seconds by part; of nested parts the outermost counts."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self.busy = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.busy:
                return function(*args, **kwargs)
            self.busy, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self.busy = False

        return call


@dataclass
class TimedLoader:
    """A loader whose batches are timed, and the whole from asking for the first to the end.

    Args:
        batches: the part that the batches count for.
        whole: the part that all of it counts for.
    """

    loader: Any
    clock: Clock
    batches: str
    whole: str

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        started = time.perf_counter()
        batches = iter(self.loader.epoch(epoch))
        take = self.clock.timed(self.batches, lambda: next(batches, None))
        while (batch := take()) is not None:
            yield batch
        self.clock.seconds[self.whole] += time.perf_counter() - started


@dataclass
class ProfiledLab(Workbench):
    """A workbench whose loaders, optimisers and store are timed. On a CPU an operation ends when it
    returns, so that the time between two points is that of what stands between them."""

    clock: Clock = field(default_factory=Clock)
    model_steps: int = 0
    """steps taken, each counted once for every model of its pack"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.test_loader: Any = TimedLoader(
            self.test_loader, self.clock, "test batches", "evaluation"
        )
        for name in ("begin", "finish", "read_tensors"):
            setattr(self.store, name, self.clock.timed(PARTS[-1], getattr(self.store, name)))
        self.store.checkpoints.load = self.clock.timed(PARTS[-1], self.store.checkpoints.load)

    def new_optimizer(self, model: ImageClassifier, seed: int, knobs: Sequence[Knobs]) -> Built:
        """The optimiser, with its step and its statistics timed."""
        optimizer = super().new_optimizer(model, seed, knobs)

        step = optimizer.step

        def counted_step() -> None:
            self.model_steps += len(knobs)
            step()

        timed: Any = optimizer
        timed.add_effective_grad_norm_ = self.clock.timed(
            "statistics", optimizer.add_effective_grad_norm_
        )
        timed.step = self.clock.timed("step", counted_step)
        return optimizer

    def train_loader(self, *args: Any, **kwargs: Any) -> Any:
        """The training batches, timed."""
        return TimedLoader(super().train_loader(*args, **kwargs), self.clock, "data", "training")


@dataclass(frozen=True)
class Profile:
    """Where the time of a pack went."""

    seconds: dict[str, float]
    """by part"""
    step_ms: float
    """of training, per step and model"""
    size: int
    """models of the pack"""


def profile(sweep: OurSweep, folder: Path) -> Profile:
    """Run the first pack of a sweep and its children in this process, timed by part.

    With as many threads as the sweep gives each of its own.
    """
    torch.set_num_threads(sweep.execution.share.num_threads)
    store = Store.open(folder, create=True)
    workbench = ProfiledLab(sweep.config, sweep.workbench.data, store, CPU, sweep.precision, {})
    run_packs(sweep.start_packs()[:1], store, InProcess(workbench))
    workbench.clock.seconds.clear()
    workbench.model_steps = 0
    first = sweep.execution.packs[0]
    packs = itertools.takewhile(
        lambda pack: pack is first or pack[0].parent is not None, sweep.execution.packs
    )
    started = time.perf_counter()
    run_packs(list(packs), store, InProcess(workbench))
    whole = time.perf_counter() - started
    found = workbench.clock.seconds
    inner = found["data"] + found["step"] + found["statistics"]
    found["forward and backward"] = found["training"] - inner
    shown = {part: found[part] for part in PARTS}
    shown[REST] = whole - sum(shown.values())
    return Profile(shown, found["training"] / workbench.model_steps * 1e3, len(first))
