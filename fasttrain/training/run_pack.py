"""Stages: from their start states to finished stages in the store, several in step, resumable.

Everything random is a function of (seed, epoch, sample index), and a checkpoint holds all that the
next epoch depends on: a pack that was killed and resumed ends in the same bits as one that was not,
on the same machine with the same number of threads.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from ..machine.files import parquet, tensors_to_bytes
from ..plan.identity import digest
from ..plan.stages import Stage
from ..store.checkpoints import CheckpointWriter
from ..store.columns import PASS_COLUMNS
from ..store.entries import METRICS, STATE
from ..store.pack_records import STREAMS, PackRecords, foundations
from ..store.store import Result
from .chance import AT_CHANCE, DONE, NON_FINITE
from .epochs import OnEpoch, content, is_given_up, run_epochs, standing
from .pack import Pack
from .progress import Run, is_at_chance
from .starts import ended_with, lost_before, start_of, state_digest
from .streams import SideBySide
from .workbench import End, Workbench


def run_pack(stages: Sequence[Stage], workbench: Workbench, on_epoch: OnEpoch) -> None:
    """Run stages of one seed and the same epochs to their end, into the store.

    Finished ones train along without a result, so that the others end in the bits of their pack.
    "non-finite" is a result like any other: the stage ends where its loss became so, without a
    network, and so do its children. So is "at-chance": at its end the network does no better on its
    training set than guessing. With `workbench.stop_at_chance` hopeless runs end early, without a
    network too, and say so.
    """
    workbench = workbench.of_seed(stages[0].seed)
    todo = [stage for stage in stages if workbench.store.summary(stage.id) is None]
    about = workbench.about()
    workbench.store.begin_all({stage.id: {**stage.description(), **about} for stage in todo})
    pack, records = [], PackRecords(workbench.store)
    lengths = records.lengths()
    for stage in stages:
        lost = lost_before(stage, workbench.store, lengths)
        if lost is None:
            pack.append(stage)
        elif stage in todo:
            _finish(ended_with(stage, lost, workbench.store), None, workbench)
    continued = records.continued(pack)
    built_on = {
        stage.id: {b.id: state_digest(b.id, workbench.store) for b in foundations(stage, continued)}
        for stage in pack
    }
    name = digest([[stage.id, built_on[stage.id]] for stage in pack])
    while left := {stage.id for stage in pack if workbench.store.summary(stage.id) is None}:
        # What has parted from the pack before has no part in a later checkpoint. If just that is
        # left, because it was deleted, the pack begins again.
        found = workbench.store.checkpoints.load(name, left)
        runs = []
        for stage in pack:
            if not found or stage.id in found:
                progress, start = start_of(stage, found.get(stage.id), continued, workbench)
                run = Run(stage, progress, start, stage.id in left, built_on=built_on[stage.id])
                run.stopped = is_given_up(run, workbench)
                runs.append(run)
        _run_in_step(runs, name, records.way(pack), workbench, on_epoch)
    workbench.store.checkpoints.tidy()


def _pack(runs: Sequence[Run], way: str, workbench: Workbench) -> Pack | SideBySide:
    """The runs on the device."""
    first = runs[0]
    return (SideBySide if way == STREAMS else Pack)(
        workbench,
        first.stage.seed,
        [run.stage.knobs for run in runs],
        [run.progress.model for run in runs] if first.progress.model else None,
        [run.progress.average for run in runs] if first.progress.average else (),
        # The first checkpoint of an average is its parent's end.
        num_averaged=len(first.progress.series) + 1,
        optimizers=[run.progress.optimizer for run in runs] if first.progress.optimizer else (),
        starts=[run.start for run in runs],
    )


def _run_in_step(
    runs: list[Run], pack: str, way: str, workbench: Workbench, on_epoch: OnEpoch
) -> None:
    """Train runs that stand at the same epoch, as one pack of this name, and finish them.

    A run whose loss becomes non-finite, that is given up, or that has reached its training loss,
    ends there; the others go on, as long as one of them is wanted.
    """
    stage = runs[0].stage
    with CheckpointWriter(workbench.store.checkpoints, pack, workbench.checkpoint_s) as writer:
        while True:
            for run in runs:
                if run.over and run.wanted:
                    _finish(run, run.progress.series[-1] if run.reached else None, workbench)
            runs = [run for run in runs if not run.over]
            if not any(run.wanted for run in runs):
                return
            with _kept(runs, writer), _memory(workbench):
                if runs[0].next_epoch == stage.end_epoch:
                    _finish_pack(runs, way, workbench)
                    return
                trained = _pack(runs, way, workbench)
                run_epochs(trained, runs, workbench, on_epoch, writer)
                trained.close()
            if any(run.over for run in runs):
                # From here the others are another pack: a resumed one must part at the same place.
                writer.write(functools.partial(content, standing(runs)))


@contextlib.contextmanager
def _kept(runs: Sequence[Run], writer: CheckpointWriter) -> Iterator[None]:
    """Keep the last finished epoch if what is done here is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        # Unless it struck between two runs of the pack, or before there was anything to keep.
        epochs = {run.next_epoch for run in runs}
        if len(epochs) == 1 and not any(run.over for run in runs) and runs[0].progress.series:
            writer.write(functools.partial(content, standing(runs)))
        raise


@contextlib.contextmanager
def _memory(workbench: Workbench) -> Iterator[None]:
    """Where memory does not suffice, leave none of it to graphs of other packs."""
    try:
        yield
    except torch.OutOfMemoryError:
        workbench.graphs.clear(workbench.device)
        raise


def _finish_pack(runs: Sequence[Run], way: str, workbench: Workbench) -> None:
    """Finish runs that have come to their end."""
    stage = runs[0].stage
    if stage.kind == "swa":
        pack = _pack(runs, way, workbench)
        scores, probes = pack.score_average(stage.end_epoch)
        # An average has no distance.
        rows = torch.cat([scores, torch.full_like(scores[:, :1], math.nan), probes], dim=1)
        for run, statistics in zip(runs, pack.statistics(), strict=True):
            run.progress.statistics = statistics
        pack.close()
        _finish_all(runs, rows, workbench)
    else:
        _finish_all(runs, [run.progress.series[-1] for run in runs], workbench)


def _finish_all(
    runs: Sequence[Run], results: Sequence[Tensor] | Tensor, workbench: Workbench
) -> None:
    """Finish the runs that are wanted; results have one row of scores per run."""
    workbench.store.finish_all(
        _result(run, row, workbench) for run, row in zip(runs, results, strict=True) if run.wanted
    )


def _finish(run: Run, scores: Tensor | None, workbench: Workbench) -> None:
    """Put a run's results into the store, with its final scores if any."""
    workbench.store.finish_all([_result(run, scores, workbench)])


def _result(run: Run, scores: Tensor | None, workbench: Workbench) -> Result:
    """What a run puts into the store, with its final scores if any."""
    progress = run.progress
    values = {} if scores is None else dict(zip(workbench.columns, scores.tolist(), strict=True))
    result = {name: _json_number(values.get(name)) for name in workbench.columns}
    summary = {
        "state": _state(run, scores, workbench),
        "stopped": run.stopped,
        "epoch": run.next_epoch,
        "result": result,
        "built_on": run.built_on,
        "time_s": round(progress.time_s, 3),
        # What runs, where it is not torch step by step.
        "provenance": workbench.provenance
        | ({"kernel": workbench.kernel} if workbench.kernel else {}),
    }
    files = {METRICS: _metrics(run, workbench.columns)}
    if scores is not None:
        files[STATE] = tensors_to_bytes(progress.tensors())
        if run.stage.parent is None:
            workbench.final_states[run.stage.id] = End(progress.model, progress.optimizer)
    return Result(run.stage.id, files, summary)


def _state(run: Run, scores: Tensor | None, workbench: Workbench) -> str:
    """How it ended, of `ENDS`; an average as the run that it averages."""
    if scores is None:
        return AT_CHANCE if run.stopped else NON_FINITE
    if run.stage.kind == "swa" and run.stage.parent is not None:
        return workbench.store.state(run.stage.parent.id)
    return AT_CHANCE if is_at_chance(scores, workbench.chance) else DONE


def _metrics(run: Run, columns: Sequence[str]) -> bytes:
    """The epochs of the stage as a Parquet table."""
    series = run.progress.series
    values = torch.stack(series).numpy() if series else None
    table = pd.DataFrame(values, columns=list(columns), dtype="float64")
    if run.progress.passes:
        table[list(PASS_COLUMNS)] = torch.stack(run.progress.passes).numpy()
    first = run.stage.start_epoch + 1
    table.insert(0, "epoch", range(first, first + len(table)))
    return parquet(table)


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
