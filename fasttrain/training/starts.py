"""What a stage starts from: its parent's end, a shorter leg of its line, a checkpoint; and whether
that is there, and is what it was.
"""

import io
import math
from collections.abc import Collection

import pandas as pd
import torch
from torch import Tensor

from ..plan.stages import Stage, predecessors
from ..store.columns import PASS_COLUMNS
from ..store.entries import METRICS, STATE
from ..store.pack_records import foundations
from ..store.store import Store
from .progress import Progress, Run, set_tested
from .workbench import End, Workbench


def lost_before(stage: Stage, store: Store, lengths: Collection[int]) -> Stage | None:
    """What a stage would start from or go through, if it ended early without a network.

    Args:
        lengths: epochs that shorter legs of its line may have been trained for.
    """
    before = [*([stage.parent] if stage.parent else []), *predecessors(stage, lengths)]
    return next((earlier for earlier in before if is_lost(earlier, store)), None)


def ended_with(stage: Stage, lost: Stage, store: Store) -> Run:
    """The run of a stage that goes no further than what it would start from."""
    progress = Progress({})
    if lost is not stage.parent and stage.k is None:
        # The beginning of the same leg: what is known of that is known of this.
        table = pd.read_parquet(io.BytesIO(store.read(lost.id, METRICS)))
        passes = [name for name in PASS_COLUMNS if name in table]
        rows = table.drop(columns=["epoch", *passes]).to_numpy()
        progress.series = list(torch.tensor(rows, dtype=torch.float64))
        if passes:
            progress.passes = list(torch.tensor(table[passes].to_numpy(), dtype=torch.float64))
    stopped = store.is_stopped(lost.id)
    return Run(stage, progress, stopped=stopped, built_on={lost.id: None})


def is_lost(stage: Stage, store: Store) -> bool:
    """Whether the stage ended early, so that nothing can start from it."""
    summary = store.summary(stage.id)
    return summary is not None and STATE not in summary["files"]


def state_digest(stage: str, store: Store) -> str | None:
    """The digest of a finished stage's state; None if it has none."""
    return (store.summary(stage) or {"files": {}})["files"].get(STATE, {}).get("sha256")


def is_outdated(stage: Stage, store: Store) -> bool:
    """Whether a finished stage was built on a state that has since been replaced by another."""
    record = store.summary(stage.id) or {"built_on": {}}
    return any(
        store.summary(earlier) is not None and then != state_digest(earlier, store)
        for earlier, then in record["built_on"].items()
    )


def start_of(
    stage: Stage, tensors: dict[str, Tensor] | None, continued: int, workbench: Workbench
) -> tuple[Progress, list[Tensor]]:
    """Where the stage stands: its checkpoint, what it builds on, or a new network.

    And the sphere weights that it starts from, whether or not it is there any more.
    """
    if stage.parent is None:
        end = End(workbench.initial_state(stage.seed), {})
    else:
        end = end_of(stage.parent, workbench)
    state, start = end.model, [end.model[name] for name in workbench.sphere_names]
    if tensors is not None:
        return Progress.from_tensors(tensors), start
    if continued:
        shorter = foundations(stage, continued)[-1]
        progress = Progress.from_tensors(workbench.store.read_tensors(shorter.id, STATE))
        reached = Run(stage, progress).reached
        if stage.k is None and not reached and not is_due(stage, shorter.end_epoch, workbench):
            # Its last epoch was tested because it was the last.
            set_tested(progress.series[-1], torch.tensor(math.nan))
        if progress.passes and not has_pass(stage, shorter.end_epoch, workbench):
            progress.passes[-1] = torch.full_like(progress.passes[-1], math.nan)
        return progress, start
    if stage.parent is None:
        return Progress({}), start
    optimizer = end.optimizer if stage.inherit == "optimizer" else {}
    names = [*workbench.sphere_names, *workbench.free_names] if stage.kind == "swa" else []
    # Of one checkpoint the average is written as it starts, beside the network: a copy.
    return Progress(state, {name: state[name].clone() for name in names}, optimizer), start


def end_of(stage: Stage, workbench: Workbench) -> End:
    """What a finished pre-training ended as."""
    end = workbench.final_states.get(stage.id)
    if end is None:
        progress = Progress.from_tensors(workbench.store.read_tensors(stage.id, STATE))
        end = End(progress.model, progress.optimizer)
    return end


def is_due(stage: Stage, epoch: int, workbench: Workbench) -> bool:
    """Whether there is a test pass after so many epochs.

    A run that goes on for an average is tested by the cadence alone, so that it does not depend on
    where the averages of fewer checkpoints ended.
    """
    return _at_cadence(stage, epoch, workbench.config.training.evaluate_every)


def has_pass(stage: Stage, epoch: int, workbench: Workbench) -> bool:
    """Whether there is a pass over the training set after so many epochs: as `is_due`."""
    every = workbench.config.training.pass_every
    return every is not None and _at_cadence(stage, epoch, every)


def _at_cadence(stage: Stage, epoch: int, every: int) -> bool:
    last = epoch == stage.end_epoch and stage.k is None
    return last or epoch % every == 0
