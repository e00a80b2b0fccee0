"""What the commands do: data, device, plan, sweep, report, in this order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .analysis.analyse import analyse as run_analyses
from .analysis.images import Place
from .analysis.selection import Request
from .choice import choose
from .config import Config, RunOptions
from .console import Console
from .errors import raise_failures
from .estimate import estimate
from .files import is_empty
from .inputs import one_line_errors
from .journal import Journal
from .lab import Lab, open_lab
from .parts import notes
from .plan import KINDS, Stage, build, epochs_left, setup_sections, unshared_epochs
from .precision import resolve_device, resolve_precision
from .progress import STATES, ProgressView
from .provenance import provenance
from .rebuild import rebuild, watch
from .report import rich_table, summary
from .results import load
from .sources import change_lines
from .status import duration
from .store import Store
from .sweep import outdated_line, reopen_outdated, run_sweep


def sweep(
    config: Config,
    options: RunOptions,
    *,
    name: str,
    command: str,
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    every_epoch: bool = False,
) -> int:
    """Run a grid, or say what it would take; returns the exit code.

    Args:
        name: names the default store, runs/<name>.
        command: the command line, for the record.
        seeds: seeds to run; 0, 1, ... up to the configured number if not given.
        every_epoch: without a terminal, a line per epoch instead of one per stage.
    """
    console = Console()
    device = resolve_device(options.device)
    precision = resolve_precision(config.training.precision, device)
    path = options.store or Path("runs") / name
    fresh = not path.exists() or (path.is_dir() and is_empty(path))
    record = provenance(device, precision, command)
    lab = open_lab(config, options, path, device, precision, record)
    if not (dry_run and fresh):
        Store.open(path, create=not dry_run)
    stages = build(config, setup_sections(config, lab.data, precision), seeds)
    with one_line_errors():
        batches = f"batches: {lab.train_loader(0).explain()}"
    if not options.quiet:
        said = [*notes(lab), *(change_lines(config, lab.store) if not fresh else []), batches]
        console.print("\n".join(said), highlight=False, soft_wrap=True, markup=False)
    if dry_run:
        _print_plan(stages, lab, options, console)
        return 0
    with lab.store.lock():
        lab.store.clean()
        if outdated := reopen_outdated(stages, lab.store):
            console.print(outdated_line(outdated), highlight=False, soft_wrap=True)
        states = [(stage, lab.store.state(stage.id)) for stage in stages]
        failures: dict[str, str] = {}
        with Journal(path, command, "choosing packs") as journal:
            journal.plan(stages, accept_stopped=options.stop_at_chance)
            if any(state in ("todo", "failed") for _, state in states):
                failures = _run(stages, states, lab, options, console, journal, every_epoch)
        page = rebuild(lab.store)
    if not options.quiet:
        _print_outcome(stages, lab.store, page, console)
    raise_failures(failures)
    return 0


def _run(
    stages: list[Stage],
    states: list[tuple[Stage, str]],
    lab: Lab,
    options: RunOptions,
    console: Console,
    journal: Journal,
    every_epoch: bool,
) -> dict[str, str]:
    """Run what is left, shown and noted down; returns the errors of what failed, by label."""
    choice = choose(stages, lab, options)
    if not options.quiet:
        console.print(choice.explain(), highlight=False, soft_wrap=True)
    journal.processes = choice.processes
    view = ProgressView(
        states,
        epochs_left(stages, lab.store),
        console,
        quiet=options.quiet,
        every_epoch=every_epoch,
        on_change=journal.report,
    )
    with view, choice.engine(lab, options) as engine:
        return run_sweep(stages, choice.packs, lab.store, engine, view)


def analyse(path: Path, request: Request, place: Place) -> int:
    """Measure what a store holds, and rebuild its report; returns the exit code."""
    store = Store.open(path, create=False)
    with store.lock():
        store.clean()
        with Journal(path, place.command, "analysing finished stages"):
            failures = run_analyses(store, request, place, Console())
        print(f"report: {rebuild(store)}")
    raise_failures(failures, "analyses", f" below {store.path / 'analyses'}")
    return 0


def report(path: Path, watch_s: float | None = None) -> int:
    """Rebuild everything that is derived from a store; returns the exit code.

    Args:
        watch_s: seconds between looks at the store, to rebuild until interrupted; else once.
    """
    if watch_s is not None:
        return watch(path, watch_s)
    print(rebuild(Store.open(path, create=False)))
    return 0


def _print_plan(stages: list[Stage], lab: Lab, options: RunOptions, console: Console) -> None:
    states = [(stage, lab.store.state(stage.id)) for stage in stages]
    left = [stage for stage, state in states if state in ("todo", "failed")]
    for kind in KINDS:
        counts = Counter(state for stage, state in states if stage.kind == kind)
        if counts:
            text = ", ".join(f"{counts[s]} {s}" for s in (*STATES, "todo") if counts[s])
            console.print(f"{kind:10}{counts.total():6} stages: {text}", highlight=False)
    children = Counter(stage.parent.id for stage in stages if stage.parent)
    shared = sum(count > 1 for count in children.values())
    console.print(
        f"{shared} pre-training runs are shared by {sum(children.values())} later stages",
        highlight=False,
    )
    if not left:
        console.print("nothing left to run")
        return
    choice = choose(stages, lab, options)
    cost = estimate(choice.packs, choice.measured(lab), choice.processes, lab)
    lines = [
        f"left: {len(left)} stages, {cost.num_epochs} epochs"
        f" ({unshared_epochs(left)} if nothing were shared)",
        choice.explain(),
        f"measured on {lab.provenance['device']}, {lab.precision}",
        f"estimate: {duration(cost.time_s)}, {cost.disk_bytes / 2**20:.1f} MiB in {lab.store.path}"
        f" ({lab.store.free_bytes() / 2**30:.1f} GiB free)",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _print_outcome(stages: list[Stage], store: Store, page: Path, console: Console) -> None:
    """The summary of this grid's stages, and where the report is."""
    ids = {stage.id for stage in stages}
    table = load(store.path)
    console.print(rich_table(summary(table[table["stage"].isin(ids)])))
    print(f"report: {page}")
