"""What commands and the Python interface do: data, device, plan, sweep, analyses. Quiet by itself.

What is to be known while they do it goes to the console that they are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..analysis.analyse import analyse as run_analyses
from ..analysis.progress import AnalysisView
from ..analysis.records import add_choices, current
from ..analysis.reopen import Location
from ..analysis.request import Request
from ..execution.callbacks import Callback, CallbackView
from ..execution.compiling import compile_ahead
from ..execution.console import Console
from ..execution.cost import epochs_left
from ..execution.execution import cluster_left, device_and_precision, plan_execution
from ..execution.journal import Journal
from ..execution.run import outdated_line, reopen_outdated, run_sweep
from ..machine.files import is_empty
from ..machine.provenance import provenance
from ..machine.timings import phase
from ..plan.config import Config, RunOptions
from ..plan.shards import Shard, num_epochs_of
from ..plan.stages import Stage, setup_sections
from ..plan.trees import build
from ..store.inputs import one_line_errors
from ..store.look import Look
from ..store.marker import MARKER
from ..store.merging import Merged, merge_stores, survey
from ..store.sources import change_lines
from ..store.store import Store
from ..training.fused_mlp import explain
from ..training.parts import notes
from ..training.workbench import Workbench, open_workbench

ANALYSING = "analysing finished stages"


@dataclass(frozen=True)
class Session:
    """A study on this machine: the workbench that its stages run in, and what it leaves to run."""

    stages: list[Stage]
    workbench: Workbench
    options: RunOptions
    command: str
    """for the record"""
    notes: list[str]
    """what is to be said before it runs: of data and parts, and where batches come from"""
    shard: Shard | None = None
    """which part of the study its stages are; None of all of it"""

    def states(self) -> list[tuple[Stage, str]]:
        """Every stage, and how it stands."""
        look = Look(self.workbench.store)
        return [(stage, look.state(stage.id)) for stage in self.stages]


@phase("data, device and plan")
def open_session(
    config: Config,
    options: RunOptions,
    *,
    name: str,
    command: str,
    seeds: Sequence[int] | None = None,
    shard: Shard | None = None,
    create: bool = True,
) -> Session:
    """Data, device, store and plan of a study.

    Args:
        name: names the default store, runs/<name>.
        command: what repeats this, for the record.
        seeds: seeds to run; 0, 1, ... up to the configured number if not given.
        shard: which part of the study to run; all of it if not given.
        create: whether to make the store if it is not there.

    Raises:
        UsageError, EnvironmentProblem: something given, or around the program, is wrong.
    """
    device, precision = device_and_precision(config, options)
    path = options.store or Path("runs") / name
    fresh = not path.exists() or (path.is_dir() and is_empty(path))
    record = provenance(device, precision, command)
    workbench = open_workbench(config, options, path, device, precision, record)
    if create or not fresh:
        Store.open(path, create=create)
    whole = build(config, setup_sections(config, workbench.data, precision), seeds)
    stages = whole if shard is None else shard.part(whole)
    with one_line_errors():
        batches = f"batches: {workbench.train_loader(0).explain()}"
    changed = [] if fresh else change_lines(config, workbench.store)
    return Session(
        stages,
        workbench,
        options,
        command,
        [*_shard_line(shard, stages, whole), *notes(workbench), *changed]
        + [batches, *explain(workbench)],
        shard,
    )


def _shard_line(shard: Shard | None, stages: Sequence[Stage], whole: Sequence[Stage]) -> list[str]:
    """What a shard has of its study."""
    if shard is None:
        return []
    roots = ", ".join(stage.label() for stage in stages if stage.parent is None)
    return [
        f"shard {shard}: {len(stages)} of {len(whole)} stages, {num_epochs_of(stages)} of"
        f" {num_epochs_of(whole)} epochs" + (f": {roots}, and all that starts there" * bool(roots))
    ]


@cluster_left()
def sweep(
    session: Session,
    console: Console,
    *,
    every_epoch: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, str]:
    """Run what the store has not finished; returns the errors of what failed, by label.

    Args:
        every_epoch: without a live table, a line per epoch instead of one per stage.
        callbacks: told of stages and epochs as they pass.
    """
    stages, workbench, options = session.stages, session.workbench, session.options
    say(console, "\n".join(session.notes))
    with workbench.store.lock():
        workbench.store.clean()
        look = Look(workbench.store)
        if outdated := reopen_outdated(stages, look):
            say(console, outdated_line(outdated))
        states = [(stage, look.state(stage.id)) for stage in stages]
        look.keep()
        with Journal(workbench.store.path, session.command, "choosing packs") as journal:
            accept = options.stop_at_chance
            journal.plan(stages, accept_stopped=accept, shard=session.shard)
            if not any(state in ("todo", "failed") for _, state in states):
                return {}
            compile_ahead(workbench, options, console)
            execution = plan_execution(stages, workbench, options)
            say(console, execution.explain())
            journal.processes = execution.processes
            view = CallbackView(
                states,
                epochs_left(stages, workbench.store),
                console,
                every_epoch=every_epoch,
                on_change=journal.report,
                workbench=workbench,
                callbacks=callbacks,
            )
            with view, execution.engine(workbench, options) as engine:
                packs, choices = execution.packs, execution.choices
                return run_sweep(stages, packs, workbench.store, engine, view, choices)


@cluster_left()
def analyse(path: Path, request: Request, location: Location, console: Console) -> dict[str, str]:
    """Measure what a store holds; returns the errors of what failed, by label."""
    store = Store.open(path, create=False)
    with store.lock():
        store.clean()
        with Journal(path, location.command, ANALYSING, counts_stages=False) as journal:

            def told(view: AnalysisView, started: bool) -> None:
                journal.phase = f"{ANALYSING}, {view.finished} of {view.totals.total()} done"
                journal.processes = view.processes
                journal.report(view, started)

            return run_analyses(store, request, location, console, told)


def merge(target: Path, stores: Sequence[Path], command: str) -> Merged:
    """Copy what stores have finished into another one, which is made if it is not there.

    Raises:
        EnvironmentProblem: stores that contradict each other, which are left as they are; a damaged
            file. What was copied before that is whole, and the same call goes on.
    """
    sources = [Store.open(path, create=False) for path in stores]
    if not (target / MARKER).exists():
        # Before there is a target.
        survey(sources)
    store = Store.open(target, create=True)
    with store.lock():
        store.clean()
        with Journal(target, command, "merging stores", counts_stages=False):
            chosen = [current(source) for source in sources]
            merged = merge_stores(store, sources)
            add_choices(chosen, store)
    return merged


def say(console: Console, text: str) -> None:
    """Print lines as they are."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
