"""Carries out a plan: what is done stays, what is left runs, failures stay in their stage."""

from collections import deque
from collections.abc import Sequence

from .engines import Engine
from .plan import Stage, predecessors
from .progress import ProgressView
from .store import Store


def run_sweep(
    packs: Sequence[Sequence[Stage]], store: Store, engine: Engine, view: ProgressView
) -> dict[str, str]:
    """Run every stage that the store does not hold finished, each after those it builds on.

    A pack that fails is tried again in halves, so that a failure ends where it belongs. Returns the
    error of every stage that failed, by label; the stages that build on one are left.

    Raises:
        EnvironmentProblem, OSError: the store cannot be read or written.
        KeyboardInterrupt: as raised; packs under way resume from their last finished epoch.
    """
    failures: dict[str, str] = {}
    failed: set[str] = set()
    waiting, unfinished = deque[list[Stage]](), set[str]()
    for pack in packs:
        left = {stage.id for stage in pack if store.summary(stage.id) is None}
        for stage in pack:
            if stage.id not in left:
                store.tidy(stage.id)
        if left:
            # Whole: an interrupted pack goes on as it was.
            waiting.append(list(pack))
            unfinished |= left
    num_running = 0
    while waiting or num_running:
        while num_running < engine.capacity and (pack := _take_ready(waiting, unfinished, failed)):
            view.begin([stage for stage in pack if stage.id in unfinished])
            engine.start(pack)
            num_running += 1
        if not num_running:
            assert not waiting, "packs that wait for each other"
            break
        outcome = engine.wait(view.epoch)
        num_running -= 1
        for stage in outcome.pack:
            if stage.id in unfinished and store.summary(stage.id) is not None:
                unfinished.discard(stage.id)
                view.end(stage, store.state(stage.id))
        if outcome.error is None:
            continue
        left = [stage for stage in outcome.pack if stage.id in unfinished]
        if len(outcome.pack) > 1 and left:
            view.note(f"{len(left)} stages left of a failed pack ({_last_line(outcome.error)})")
            middle = len(left) // 2
            waiting.extendleft(half for half in (left[middle:], left[:middle]) if half)
            continue
        for stage in left:
            unfinished.discard(stage.id)
            failed.add(stage.id)
            failures[stage.label()] = _last_line(outcome.error)
            store.fail(stage.id, outcome.error)
            view.end(stage, "failed")
    return failures


def reopen_orphans(stages: Sequence[Stage], store: Store) -> None:
    """Reopen stages that were given up with their parent, where it has since run to its end."""
    for stage in stages:
        summary = store.summary(stage.id)
        parent = stage.parent and store.summary(stage.parent.id)
        if summary is None or not summary.get("stopped") or summary["epoch"] > stage.start_epoch:
            continue
        if parent and not parent.get("stopped"):
            store.reopen(stage.id)


def _take_ready(
    waiting: deque[list[Stage]], unfinished: set[str], failed: set[str]
) -> list[Stage] | None:
    """Take out the first pack that nothing unfinished stands before; drop what cannot run."""
    for pack in list(waiting):
        runnable = [s for s in pack if s.parent is None or s.parent.id not in failed]
        for stage in pack:
            if stage not in runnable:
                # What fails to run is neither a result nor in the way of others.
                unfinished.discard(stage.id)
                failed.add(stage.id)
        before = {
            earlier.id
            for stage in runnable
            for earlier in ([stage.parent] if stage.parent else []) + list(predecessors(stage))
        }
        if not runnable:
            waiting.remove(pack)
        elif not before & unfinished:
            waiting.remove(pack)
            return runnable
    return None


def _last_line(error: str) -> str:
    """What a traceback ends with: the error itself."""
    return error.strip().splitlines()[-1]
