"""The analyses of a store: what is done stays, what is left is made, failures stay apart.

Everything goes through `analyse`: it finds the set-ups, opens the images of each again, forms packs
and hands them to an engine, of this process or of several, as a sweep does with its stages.
"""

import math
from collections.abc import Callable, Sequence

from ..errors import EnvironmentProblem, UsageError
from ..execution.console import Console
from ..execution.execution import about_cluster, open_engine
from ..execution.pack_size import fastest, measure_packs, models_in_memory
from ..execution.sharing import Share, found_by, shared
from ..machine.timings import phase
from ..plan.config import RunOptions
from ..store.entries import STATE
from ..store.setups import load_setups
from ..store.store import Store
from ..store.tables import Finished, finished
from ..training.workbench import Workbench
from .measuring import Analyses, Pack
from .progress import AnalysisView
from .records import Analysis, choose, is_done
from .reopen import Location, reopen
from .selection import Request, Selection, missing_rates, select
from .target import Target
from .transfer import check_features

AT_ONCE = {"cpu": 21, "cuda": 63}
"""most models in a pack, by kind of device: on a CPU larger ones are no faster"""
TOGETHER = ("lines", "sharpness", "features", "transfer")
"""kinds whose analyses of one seed are packed"""
SECOND_DERIVATIVES = 4
"""times the memory of a training step that a product with the Hessian takes, at least"""


@phase("measuring")
def analyse(
    store: Store,
    request: Request,
    location: Location,
    console: Console,
    on_change: Callable[[AnalysisView, bool], None],
) -> dict[str, str]:
    """Make what is missing; the caller holds the lock. Returns the error of each failure, by label.

    Args:
        on_change: as of the view.

    Raises:
        UsageError: learning rates that the store does not have; a target that does not fit.
        EnvironmentProblem: nothing to analyse; the store cannot be read or written.
    """
    stages, configurations = load_setups(store.path)
    if stages.empty:
        raise EnvironmentProblem(f"{store.path}: no stage is finished: nothing to analyse")
    _check_rates(request, stages)
    records = {record.stage: record for record in finished(store.path)}
    with_state = [stage for stage, record in records.items() if STATE in record.done["files"]]
    first = stages.drop_duplicates("setup").set_index("setup")["stage"]
    examples = {setup: records[first[setup]] for setup in configurations}
    target, unfit = _target(request, location, examples)
    selections = {
        setup: select(
            stages[stages["setup"] == setup],
            with_state,
            request,
            pictures=examples[setup].about.get("pictures", True),
            target=None if setup in unfit else target,
        )
        for setup in configurations
    }
    for setup, reason in unfit.items():
        selections[setup].notes.append(f"no transfer: {reason}")
    choose({setup: found.analyses for setup, found in selections.items()}, store)
    failures: dict[str, str] = {}
    with AnalysisView(console, on_change) as view:
        for setup, selection in selections.items():
            several = f"set-up {setup}: " if len(selections) > 1 else ""
            failures |= _analyse_setup(selection, examples[setup], several, store, location, view)
    return failures


def _check_rates(request: Request, stages) -> None:
    missing = missing_rates(request, stages)
    if missing:
        rates = sorted(stages["flr"].dropna().unique())
        listing = ", ".join(f"{rate:g}" for rate in rates) or "none"
        raise UsageError(f"{missing[0]}: no stage was fine-tuned at it; FLRs are {listing}")


def _target(
    request: Request, location: Location, examples: dict[str, Finished]
) -> tuple[Target | None, dict[str, str]]:
    """What features are transferred to, and the set-ups that cannot be given it, with the reason.

    Raises:
        UsageError, EnvironmentProblem: there is no such data set; no set-up can be given it.
    """
    if request.target is None:
        return None, {}
    sizes = request.target_train, request.target_test
    target = Target(request.target, location.data_root, *sizes)
    found = {setup: target.unfit(example.about) for setup, example in examples.items()}
    unfit = {setup: reason for setup, reason in found.items() if reason is not None}
    if len(unfit) == len(examples):
        raise UsageError(f"--target {request.target}: {next(iter(unfit.values()))}")
    return target, unfit


def _analyse_setup(
    selection: Selection,
    example: Finished,
    several: str,
    store: Store,
    location: Location,
    view: AnalysisView,
) -> dict[str, str]:
    """What one set-up lacks; images that are not there are one failure of the whole set-up."""
    for note in selection.notes:
        view.note(f"{several}{note}")
    members = [analysis for kind in selection.analyses.values() for analysis in kind]
    left = [analysis for analysis in members if not is_done(analysis, store)]
    done = len(members) - len(left)
    view.note(f"{several}{len(left)} analyses to make, {done} done before")
    if not left:
        return {}
    try:
        workbench = reopen(example, store.path, location)
        if any(analysis.kind == "transfer" for analysis in left):
            check_features(workbench)
    except (UsageError, EnvironmentProblem) as error:
        if not several:
            raise
        return {several.removesuffix(": "): str(error)}
    options = location.options()
    share = shared(len(left), workbench, options)
    view.add(left, share.processes)
    packs = _packs(left, workbench, options, share)
    if share.processes > 1 or share.room is not None:
        view.note(f"in {share.processes} processes, {share.num_threads} threads each")
    if line := about_cluster(options):
        view.note(line)
    with open_engine(workbench, options, share, store.lock_file, {}) as engine:
        return Analyses(packs, engine, view, store).run()


def _packs(
    analyses: Sequence[Analysis], workbench: Workbench, options: RunOptions, share: Share
) -> list[Pack]:
    """Packs that fit into memory, small enough for every process to have one of a kind."""
    fitting, size = found_by(sizes, workbench, options, share, share.on_device)
    counts_at_once = {
        # A path is packs by itself; those that share their ends share the evaluation of these.
        "lines": 3,
        "sharpness": min(size, max(1, fitting // SECOND_DERIVATIVES)),
    }
    kinds: dict[str, list[Analysis]] = {}
    for analysis in analyses:
        kinds.setdefault(analysis.kind, []).append(analysis)
    packs = []
    for kind, members in kinds.items():
        count = min(counts_at_once.get(kind, size), math.ceil(len(members) / share.processes))
        packs += [Pack(batch, size) for batch in _batches(kind, members, count)]
    return packs


def sizes(workbench: Workbench, sharing: int) -> tuple[int, int]:
    """Models of a pack that fit into memory where this is asked, and those that are fastest.

    Args:
        sharing: processes that share the memory of the workbench's device.
    """
    fitting = models_in_memory(workbench, AT_ONCE[workbench.device.type], sharing)
    return fitting, fastest(measure_packs(workbench, fitting, sharing)).size


def _batches(kind: str, analyses: Sequence[Analysis], count: int) -> list[list[Analysis]]:
    """Analyses that are made together: of one seed, as many as make one pack."""
    if kind not in TOGETHER:
        return [[analysis] for analysis in analyses]
    together: dict[int, list[Analysis]] = {}
    for analysis in analyses:
        together.setdefault(analysis.seed, []).append(analysis)
    return [
        members[first : first + count]
        for members in together.values()
        for first in range(0, len(members), count)
    ]
