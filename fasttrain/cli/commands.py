"""What commands print around the work of a session; each returns its exit code."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..analysis.reopen import Location
from ..analysis.request import Request
from ..api import session
from ..api.session import Session, say
from ..boundaries.findings import notes_on_boundaries, table_of_boundaries
from ..boundaries.locate import cost_lines
from ..boundaries.locate import locate as find_boundaries
from ..boundaries.task import Task
from ..errors import raise_failures
from ..execution.compiling import compile_ahead
from ..execution.console import Console
from ..execution.cost import estimate, together
from ..execution.execution import plan_execution
from ..execution.progress import STATES
from ..machine.processes import usable_cpus
from ..plan.config import Config, RunOptions
from ..plan.shards import Shard
from ..plan.stages import KINDS, Stage, unshared_epochs
from ..report.renew import Report, renew
from ..store.status import duration
from ..store.store import Store


def sweep(
    config: Config,
    options: RunOptions,
    *,
    name: str,
    command: str,
    seeds: Sequence[int] | None = None,
    shard: Shard | None = None,
    dry_run: bool = False,
    every_epoch: bool = False,
) -> int:
    """Run a grid and rebuild its report, or say what it would take.

    Args:
        name: names the default store, runs/<name>.
        command: the command line, for the record.
        seeds: seeds to run; 0, 1, ... up to the configured number if not given.
        shard: which part of the study to run; all of it if not given.
        every_epoch: without a terminal, a line per epoch instead of one per stage.
    """
    console = Console(quiet=options.quiet)
    opened = session.open_session(
        config, options, name=name, command=command, seeds=seeds, shard=shard, create=not dry_run
    )
    if dry_run:
        _print_plan(opened, Console())
        return 0
    failures = session.sweep(opened, console, every_epoch=every_epoch)
    store = opened.workbench.store
    _print_outcome(opened.stages, report(store, processes_here(options)), console)
    raise_failures(failures)
    return 0


def locate(
    config: Config,
    options: RunOptions,
    task: Task,
    *,
    name: str,
    arguments: list[str],
    command: str,
    dry_run: bool = False,
) -> int:
    """Find where regimes meet, or say what that may cost.

    Args:
        arguments: of the command line, for the proposed sweep.
    """
    console = Console(quiet=options.quiet, highlight=False, soft_wrap=True, markup=False)
    if dry_run:
        lines = cost_lines(config, options, task, name=name, command=command)
        console.print("\n".join(lines))
        return 0
    found = find_boundaries(config, options, task, name=name, command=command, console=console)
    console.print(table_of_boundaries(found.findings))
    for line in notes_on_boundaries(found.findings):
        console.print(line)
    console.print("\n".join(found.findings.sentences(arguments, config.grid.flr)))
    return 0


def analyse(path: Path, request: Request, location: Location) -> int:
    """Measure what a store holds, and rebuild its report."""
    failures = session.analyse(path, request, location, Console())
    processes = processes_here(location.options())
    print(f"report: {report(Store.open(path, create=False), processes)}")
    raise_failures(failures, "analyses", f" below {path / 'analyses'}")
    return 0


def merge(target: Path, stores: Sequence[Path], *, command: str) -> int:
    """Join stores, and rebuild the report of the target."""
    print(session.merge(target, stores, command).sentence(target))
    print(f"report: {report(Store.open(target, create=False), None)}")
    return 0


def processes_here(options: RunOptions) -> int | None:
    """How many were asked for of this machine; of a cluster's it has none."""
    return options.processes if options.engine == "local" else None


def report(store: Store, processes: int | None) -> Report:
    """Renew a store's report, with figures drawn in as many processes as have trained."""
    return renew(store, processes or usable_cpus())


def _print_plan(opened: Session, console: Console) -> None:
    stages, workbench, states = opened.stages, opened.workbench, opened.states()
    say(console, "\n".join(opened.notes))
    left = [stage for stage, state in states if state in ("todo", "failed")]
    for kind in KINDS:
        counts = Counter(state for stage, state in states if stage.kind == kind)
        if counts:
            text = ", ".join(f"{counts[s]} {s}" for s in (*STATES, "todo") if counts[s])
            console.print(f"{kind:10}{counts.total():6} stages: {text}", highlight=False)
    children = Counter(stage.parent.id for stage in stages if stage.parent)
    shared = sum(count > 1 for count in children.values())
    console.print(
        f"{shared} pre-training runs serve {sum(children.values())} later stages",
        highlight=False,
    )
    if not left:
        console.print("nothing left to run")
        return
    # What a plan takes is measured by training.
    compile_ahead(workbench, opened.options, console)
    execution = plan_execution(stages, workbench, opened.options)
    measured = execution.measured(workbench)
    cost = together(estimate(execution.packs, *of_kind, workbench) for of_kind in measured)
    on_ray = opened.options.engine == "ray"
    where = (
        f"a node of {'each kind' if measured[1:] else 'the cluster'}"
        if on_ray
        else workbench.provenance["device"]
    )
    lines = [
        f"left: {len(left)} stages, {cost.num_epochs} epochs"
        f" ({unshared_epochs(left)} without sharing)",
        execution.explain(),
        f"measured on {where}, {workbench.precision}",
        f"estimate: {duration(cost.time_s)}, {cost.disk_bytes / 2**20:.1f} MiB in"
        f" {workbench.store.path} ({workbench.store.free_bytes() / 2**30:.1f} GiB free)",
    ]
    say(console, "\n".join(lines))


def _print_outcome(stages: list[Stage], made: Report, console: Console) -> None:
    """The summary of this grid's stages, and where the report is."""
    from ..report import chain_table, rich_table, summary

    if console.quiet:
        return
    if not stages:
        print(f"report: {made}")
        return
    ids = {stage.id for stage in stages}
    table = made.stages()
    mine = table[table["stage"].isin(ids)]
    of_chain = stages[0].experiment == "chain"
    console.print(chain_table(mine) if of_chain else rich_table(summary(mine)))
    print(f"report: {made}")
