"""`fasttrain locate`: where the regimes meet, by probes on the grid's own machinery.

Every probe is an ordinary pre-training of the store, or the fine-tunings from one: it runs once,
and an interrupted search goes on where it was. `search` says what to probe, `rules` what it shows.
"""

import dataclasses
import io
import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fasttrain.errors import raise_failures
from fasttrain.execution.compiling import compile_ahead
from fasttrain.execution.console import Console
from fasttrain.execution.cost import epochs_left
from fasttrain.execution.engines.local import Engine
from fasttrain.execution.execution import (
    Execution,
    cluster_left,
    device_and_precision,
    plan_execution,
)
from fasttrain.execution.journal import Journal
from fasttrain.execution.pack_size import models_in_memory
from fasttrain.execution.packing import form_packs
from fasttrain.execution.progress import ProgressView
from fasttrain.execution.run import outdated_line, reopen_outdated, run_sweep
from fasttrain.machine.files import is_empty, make_folder, write_atomically
from fasttrain.machine.provenance import provenance
from fasttrain.machine.timings import phase
from fasttrain.plan.config import Config, RunOptions
from fasttrain.plan.stages import Stage, setup_sections
from fasttrain.settings.knobs import Knobs
from fasttrain.store.entries import METRICS
from fasttrain.store.status import duration
from fasttrain.store.store import Store
from fasttrain.training.chance import ENDS
from fasttrain.training.starts import is_lost
from fasttrain.training.workbench import Workbench, open_workbench

from ..analysis.geometry import NUM_POINTS
from ..analysis.kinds import ANALYSERS
from ..analysis.records import is_done, load, save
from ..analysis.regimes import curves_of
from ..analysis.rules import Verdict, judge, split_equilibrium
from ..analysis.selection import path_between
from .findings import Findings
from .search import Probe, Search, Want
from .task import Task, length_lines, plan_search


class Located(NamedTuple):
    """What a search found."""

    findings: Findings
    probes: pd.DataFrame
    """one row per probe, in their order"""


@cluster_left()
def locate(
    config: Config, options: RunOptions, task: Task, *, name: str, command: str, console: Console
) -> Located:
    """Find the boundaries, and put the tables of them and of the probes into the store's report.

    Args:
        name: names the default store, runs/<name>-locate.
        command: what repeats this, for the record.
        console: for what is to be known meanwhile.
    """
    run, execution = _open(config, options, task, name, command, console, create=True)
    search, workbench = run.search, run.workbench
    with workbench.store.lock():
        workbench.store.clean()
        console.print("\n".join([*length_lines(search, config), execution.explain()]))
        path = workbench.store.path
        with (
            Journal(path, command, "locating") as journal,
            execution.engine(workbench, options) as engine,
        ):
            journal.processes = execution.processes
            with phase("training"):
                run.to_the_end(execution, engine, options, journal)
        located = Located(Findings(search, run.outcomes, run.purposes), run.table())
        folder = make_folder(path / "report")
        tables = {"boundaries": located.findings.boundaries(), "probes": located.probes}
        for stem, table in tables.items():
            write_atomically(folder / f"{stem}.csv", table.to_csv(index=False).encode())
    return located


def cost_lines(
    config: Config, options: RunOptions, task: Task, *, name: str, command: str
) -> list[str]:
    """What the search may take at most."""
    run, execution = _open(config, options, task, name, command, Console(quiet=True), create=False)
    return _cost_lines(run.search, run.workbench, execution)


def _open(
    config: Config,
    options: RunOptions,
    task: Task,
    name: str,
    command: str,
    console: Console,
    create: bool,
) -> tuple["_Run", Execution]:
    """The search, and how its first round would be carried out."""
    search = plan_search(config, task)
    device, precision = device_and_precision(config, options)
    path = options.store or Path("runs") / f"{name}-locate"
    fresh = not path.exists() or (path.is_dir() and is_empty(path))
    record = provenance(device, precision, command)
    # Measurements of packs take the first PLR of a configuration.
    grid = dataclasses.replace(config.grid, plr=(search.first, search.last))
    workbench = open_workbench(
        dataclasses.replace(config, grid=grid), options, path, device, precision, record
    )
    if create or not fresh:
        Store.open(path, create=create)
    run = _Run(search, workbench, setup_sections(config, workbench.data, precision), console)
    compile_ahead(workbench, options, console)
    return run, plan_execution(run.stages(search.next_round({})), workbench, options)


def end_points(low: Stage, high: Stage, workbench: Workbench) -> tuple[float, float]:
    """Of two finished fine-tunings the angle, rad, and the train barrier; NaN if one has no end.

    Made once, as `fasttrain analyse` makes it, and found again in the store. It takes passes over
    the images, no training: they are not among the epochs.
    """
    if is_lost(low, workbench.store) or is_lost(high, workbench.store):
        return math.nan, math.nan
    path = path_between("low-high", (low.id, high.id), low.plr, low.seed)
    if not is_done(path, workbench.store):
        [tables] = ANALYSERS[path.kind]([path], workbench, models_in_memory(workbench, NUM_POINTS))
        save(path, tables, workbench.provenance, workbench.store)
    pair = load(path, "pairs", workbench.store)
    return float(pair["angle"].iloc[0]), float(pair["train_barrier"].iloc[0])


class _Run:
    """A search under way: what its probes showed.

    Args:
        sections: the set-up of all stages, as `plan.setup_sections` makes it.
    """

    def __init__(
        self,
        search: Search,
        workbench: Workbench,
        sections: tuple[tuple[str, str], ...],
        console: Console,
    ) -> None:
        self.search = search
        self.workbench = workbench
        self.sections = sections
        self.console = console
        self.outcomes: dict[Probe, str] = {}
        self.purposes: dict[Probe, str] = {}
        self.reasons: dict[Probe, str] = {}

    def stages(self, wants: list[Want]) -> list[Stage]:
        """The stages of a round, parents before their children."""
        return [stage for want in wants for stage in self._chain(want.probe)]

    def _chain(self, probe: Probe) -> list[Stage]:
        about = {"seed": probe.seed, "setup": self.sections}
        root = Stage(knobs=Knobs(lr=probe.plr), num_epochs=probe.epochs, **about)
        if not probe.tuned:
            return [root]
        flr, length = self.workbench.config.grid.flr, self.workbench.config.training.finetune_epochs
        ends = [
            Stage(knobs=Knobs(lr=rate), num_epochs=length, parent=root, **about)
            for rate in (flr[0], flr[-1])
        ]
        return [root, *ends]

    def to_the_end(
        self, execution: Execution, engine: Engine, options: RunOptions, journal: Journal
    ) -> None:
        """Round after round.

        Raises:
            EnvironmentProblem: stages failed.
        """
        planned: list[Stage] = []
        while wants := self.search.next_round(self.outcomes):
            planned += self.stages(wants)
            journal.plan(planned, accept_stopped=options.stop_at_chance, more=True)
            purposes = list(dict.fromkeys(want.boundary for want in wants))
            self.console.print(f"{len(wants)} probes: {', '.join(purposes)}")
            self._round(wants, execution, engine, options, journal)
            for want in wants:
                verdict = self._verdict(want.probe)
                self.outcomes[want.probe], self.reasons[want.probe] = verdict
                self.purposes[want.probe] = want.boundary
        journal.plan(planned, accept_stopped=options.stop_at_chance)

    def _round(
        self,
        wants: list[Want],
        execution: Execution,
        engine: Engine,
        options: RunOptions,
        journal: Journal,
    ) -> None:
        stages, store = self.stages(wants), self.workbench.store
        roots = sum(stage.parent is None for stage in stages)
        packs = form_packs(stages, store, execution.size, math.ceil(roots / execution.processes))
        if outdated := reopen_outdated(stages, store):
            self.console.print(outdated_line(outdated), highlight=False, soft_wrap=True)
        states = [(stage, store.state(stage.id)) for stage in stages]
        if all(state in ENDS for _, state in states):
            return
        left = epochs_left(stages, store)
        with ProgressView(states, left, self.console, on_change=journal.report) as view:
            failures = run_sweep(stages, packs, store, engine, view, execution.choices)
        raise_failures(failures)

    def _verdict(self, probe: Probe) -> Verdict:
        root, *ends = self._chain(probe)
        store = self.workbench.store
        if ends:
            results = [(store.summary(stage.id) or {})["result"] for stage in ends]
            fitted = [result["train_accuracy"] for result in results]
            accuracy = math.nan if None in fitted else min(fitted)
            # A few passes over the data are not worth a compilation.
            eager = dataclasses.replace(self.workbench, compiled=False)
            turned, barrier = end_points(ends[0], ends[1], eager)
            return split_equilibrium(turned, barrier, accuracy)
        done = store.summary(root.id) or {}
        epochs = pd.read_parquet(io.BytesIO(store.read(root.id, METRICS)))
        about = {"plr": probe.plr, "state": done["state"], "stopped": done["stopped"]}
        of_config = self.workbench.config.training
        training = {"batch_size": of_config.batch_size, "steps": of_config.steps}
        counts = {"num_train": len(self.workbench.data.train_images)}
        counts |= {"num_classes": self.workbench.data.num_classes}
        counts |= {"guess_loss": self.workbench.chance.loss}
        return judge(curves_of(about, epochs, {"training": training, **counts}))

    def table(self) -> pd.DataFrame:
        """One row per probe, in their order."""
        return pd.DataFrame(
            [
                {**probe._asdict(), "purpose": self.purposes[probe]}
                | {"regime": regime, "reason": self.reasons[probe]}
                for probe, regime in self.outcomes.items()
            ]
        )


def _cost_lines(search: Search, workbench: Workbench, execution: Execution) -> list[str]:
    """What the search may take at most."""
    most = search.budget * search.num_seeds
    steps_per_s = sum(
        processes / min(timing.model_step_s for timing in timings)
        for timings, processes in execution.measured(workbench)
    )
    time_s = most * workbench.steps_per_epoch / steps_per_s
    return [
        *length_lines(search, workbench.config),
        f"PLR {search.first:g} to {search.last:g}, boundaries {', '.join(search.boundaries)}"
        f" to a ratio of {search.ratio:g}, {search.num_seeds} seeds",
        f"probes of {', '.join(map(str, search.lengths))} epochs; at most {most} epochs in all,"
        f" {100 * search.share:.3g} % of the {search.uniform_epochs} of a uniform grid of"
        f" {search.num_uniform} PLRs",
        execution.explain(),
        f"estimate: at most {duration(time_s)} in {workbench.store.path}, test passes apart",
    ]
