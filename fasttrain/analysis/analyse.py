"""Carries out the analyses of a store: what is done stays, what is left runs, failures stay apart.

Everything goes through `analyse`: it finds the set-ups, opens the images of each again, forms
batches of models that can be one pack, and files every analysis as soon as it is made.
"""

import traceback
from collections import Counter, deque
from collections.abc import Sequence

from ..console import Console
from ..entries import STATE
from ..errors import EnvironmentProblem, UsageError
from ..lab import Lab
from ..results import Finished, finished
from ..setups import load_grids
from ..store import Store
from ..tuning import fastest, measure_packs, models_in_memory
from .images import Place, reopen
from .records import Analysis, choose, is_done, save
from .selection import Request, Selection, missing_rates, select
from .view import AnalysisView
from .works import WORKS

AT_ONCE = {"cpu": 21, "cuda": 63}
"""most models in a pack, by kind of device: on a CPU larger ones are no faster"""
TOGETHER = ("lines", "sharpness", "features")
"""kinds whose analyses of one seed are packed"""
SECOND_DERIVATIVES = 4
"""times the memory of a training step that a product with the Hessian takes, at least"""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def analyse(store: Store, request: Request, place: Place, console: Console) -> dict[str, str]:
    """Make what is missing; the caller holds the lock. Returns the error of each failure, by label.

    Raises:
        UsageError: learning rates that the store does not have.
        EnvironmentProblem: nothing to analyse; the store cannot be read or written.
    """
    stages, _, configurations = load_grids(store.path)
    if stages.empty:
        raise EnvironmentProblem(f"{store.path}: no stage is finished: nothing to analyse")
    _check_rates(request, stages)
    records = {record.stage: record for record in finished(store.path)}
    with_state = [stage for stage, record in records.items() if STATE in record.done["files"]]
    selections = {
        setup: select(stages[stages["setup"] == setup], with_state, request)
        for setup in configurations
    }
    choose({setup: found.analyses for setup, found in selections.items()}, store)
    failures: dict[str, str] = {}
    with AnalysisView(console) as view:
        for setup, selection in selections.items():
            first = records[stages.loc[stages["setup"] == setup, "stage"].iloc[0]]
            several = f"set-up {setup}: " if len(selections) > 1 else ""
            failures |= _analyse_setup(selection, first, several, store, place, view)
    return failures


def _check_rates(request: Request, stages) -> None:
    missing = missing_rates(request, stages)
    if missing:
        rates = sorted(stages["flr"].dropna().unique())
        listing = ", ".join(f"{rate:g}" for rate in rates) or "none"
        raise UsageError(f"{missing[0]}: no stage was fine-tuned at it; FLRs are {listing}")


def _analyse_setup(
    selection: Selection,
    example: Finished,
    several: str,
    store: Store,
    place: Place,
    view: AnalysisView,
) -> dict[str, str]:
    """What one set-up lacks; images that are not there are one failure of the whole set-up."""
    for note in selection.notes:
        view.note(f"{several}{note}")
    left = {
        kind: [analysis for analysis in members if not is_done(analysis, store)]
        for kind, members in selection.analyses.items()
    }
    counts = Counter({kind: len(members) for kind, members in left.items()})
    done = sum(map(len, selection.analyses.values())) - counts.total()
    view.note(f"{several}{counts.total()} analyses to make, {done} done before")
    if not counts.total():
        return {}
    try:
        lab = reopen(example, store.path, place)
    except (UsageError, EnvironmentProblem) as error:
        if not several:
            raise
        return {several.removesuffix(": "): str(error)}
    for kind, count in counts.items():
        view.add(kind, count)
    fitting = models_in_memory(lab, AT_ONCE[lab.device.type])
    size = fastest(measure_packs(lab, fitting, 1)).size
    counts_at_once = {
        # A path is packs by itself; those that share their ends share the evaluation of these.
        "lines": 3,
        "sharpness": min(size, max(1, fitting // SECOND_DERIVATIVES)),
    }
    failures: dict[str, str] = {}
    for kind, members in left.items():
        for batch in _batches(kind, members, counts_at_once.get(kind, size)):
            failures |= _make(batch, lab, size, view)
    return failures


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


def _make(batch: list[Analysis], lab: Lab, size: int, view: AnalysisView) -> dict[str, str]:
    """Make a batch, in halves if it fails as a whole; returns the errors of what cannot be made."""
    waiting = deque([(batch, size)])
    failures: dict[str, str] = {}
    while waiting:
        members, size = waiting.popleft()
        view.begin(members)
        try:
            made = WORKS[members[0].kind](members, lab, size)
        except OSError:
            raise
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            short = size > 1 and any(word in str(error).lower() for word in OUT_OF_MEMORY)
            if len(members) > 1 or short or isinstance(error, MemoryError) and size > 1:
                view.note(f"again in smaller parts ({last})")
                middle = (len(members) + 1) // 2
                halves = [half for half in (members[:middle], members[middle:]) if half]
                waiting.extendleft((half, max(1, size // 2)) for half in reversed(halves))
                continue
            lab.store.analyses.fail(members[0].id, traceback.format_exc())
            failures[members[0].label] = last
            view.end(members, f"failed: {last}")
            continue
        for analysis, tables in zip(members, made, strict=True):
            save(analysis, tables, lab.provenance, lab.store)
        view.end(members)
    return failures
