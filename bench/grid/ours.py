"""A grid on fasttrain's own engine, as `fasttrain sweep` runs it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from fasttrain.errors import EnvironmentProblem
from fasttrain.execution.cost import epochs_left
from fasttrain.execution.engines.local import Engine
from fasttrain.execution.execution import plan_execution
from fasttrain.execution.progress import ProgressView
from fasttrain.execution.run import run_sweep
from fasttrain.machine.precision import resolve_precision
from fasttrain.plan.config import Config, RunOptions
from fasttrain.plan.stages import Stage, setup_sections
from fasttrain.plan.trees import build
from fasttrain.store.store import Store
from fasttrain.training.workbench import open_workbench

from .cases import Cell

CPU = torch.device("cpu")
OTHER_SEEDS = 1_000_000


@dataclass
class OurSweep:
    """Trains the cells of a grid in packs and processes, as chosen by measurement."""

    config: Config
    options: RunOptions
    store: Path
    seed: int

    def __post_init__(self) -> None:
        self.precision = resolve_precision(self.config.training.precision, CPU)
        self.workbench = open_workbench(
            self.config, self.options, self.store, CPU, self.precision, {}
        )
        Store.open(self.store, create=True)
        self.stages = self.plan(self.config, self.seed)
        self.execution = plan_execution(self.stages, self.workbench, self.options)

    def plan(self, config: Config, seed: int) -> list[Stage]:
        """The stages of one seed."""
        return build(config, setup_sections(config, self.workbench.data, self.precision), [seed])

    def start_packs(self) -> list[list[Stage]]:
        """One epoch of one model for every process: what has to be loaded is, and is used once."""
        grid = dataclasses.replace(self.config.grid, flr=())
        training = dataclasses.replace(self.config.training, epochs=1)
        config = dataclasses.replace(self.config, grid=grid, training=training)
        # Of a seed that the grid does not have: none of its own stages may be done before.
        stages = self.plan(config, self.seed + OTHER_SEEDS)
        return [[stage] for stage in stages[: self.execution.processes]]

    def cells(self) -> list[Cell]:
        """PLR, FLR and final test accuracy of the finished cells; NaN for one that was lost."""
        found = []
        for stage in self.stages:
            if stage.flr is not None:
                accuracy = (self.workbench.store.summary(stage.id) or {})["result"]["test_accuracy"]
                found.append((stage.plr, stage.flr, float("nan") if accuracy is None else accuracy))
        return found


def run_packs(packs: Sequence[Sequence[Stage]], store: Store, engine: Engine) -> None:
    """Run packs and show nothing.

    Raises:
        EnvironmentProblem: a stage failed.
    """
    stages = [stage for pack in packs for stage in pack]
    left = epochs_left(stages, store)
    view = ProgressView([(stage, "todo") for stage in stages], left, Console(quiet=True))
    failures = run_sweep(stages, packs, store, engine, view)
    if failures:
        raise EnvironmentProblem("; ".join(f"{label}: {e}" for label, e in failures.items()))
