"""The epochs of a pack as its runs take them: progress, checkpoints, and what ends a run."""

import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..plan.stages import Stage
from ..store.checkpoints import CheckpointWriter
from .enqueued import Enqueued, Epoch
from .pack import Pack
from .progress import Progress, Run, is_hopeless, set_tested
from .starts import has_pass, is_due
from .streams import SideBySide, Together
from .workbench import Workbench

OnEpoch = Callable[[Stage, int, dict[str, float]], None]


def run_epochs(
    pack: Pack | SideBySide,
    runs: Sequence[Run],
    workbench: Workbench,
    on_epoch: OnEpoch,
    writer: CheckpointWriter,
) -> None:
    """Epochs of the pack, until one of its runs is over or the stage is at its end.

    Where graphs leave the host little to do, the next epoch is told to the device before the last
    one's result is awaited. Should that result end a run, nothing has come of the epoch: the others
    go on as another pack, from where all stood when the result was made. Where an outcome is what a
    stage waits for, a training loss or chance, the result comes first.
    """
    stage, waiting = runs[0].stage, list[Enqueued | Together]()
    decides = stage.until_loss is not None or workbench.stop_at_chance
    started = time.monotonic()
    while (epoch := runs[0].next_epoch) < stage.end_epoch and not any(run.over for run in runs):
        depth = 2 if pack.is_ahead and not decides else 1
        for number in range(epoch + len(waiting), min(epoch + depth, stage.end_epoch)):
            waiting.append(_enqueue(pack, stage, number, workbench))
        result = waiting.pop(0).read()
        ended = time.monotonic()
        for index, run in enumerate(runs):
            run.progress = _appended(run, result, index, (ended - started) / len(runs))
            run.stopped = is_given_up(run, workbench)
        _test_reached(pack, runs)
        if not any(run.over for run in runs):
            writer.offer(functools.partial(content, standing(runs)))
        for run in runs:
            if run.wanted:
                row = run.progress.series[-1].tolist()
                named = dict[str, float](zip(workbench.columns, row, strict=True))
                on_epoch(run.stage, epoch + 1, named)
        # What the host does meanwhile costs an epoch that is on its way nothing.
        started = ended if waiting else time.monotonic()


def _enqueue(
    pack: Pack | SideBySide, stage: Stage, epoch: int, workbench: Workbench
) -> Enqueued | Together:
    """Tell the device of one epoch."""
    return pack.enqueue(
        epoch,
        tested=is_due(stage, epoch + 1, workbench),
        passed=has_pass(stage, epoch + 1, workbench),
        batches=epoch - workbench.first_epoch(stage),
    )


def _test_reached(pack: Pack | SideBySide, runs: Sequence[Run]) -> None:
    """Test runs that have reached their training loss, if their last epoch was not tested."""
    waiting = [(i, run) for i, run in enumerate(runs) if run.reached and not run.is_tested]
    if waiting:
        scores = torch.cat([torch.stack([*pack.test()], dim=1), pack.probe()], dim=1).cpu()
        for index, run in waiting:
            set_tested(run.progress.series[-1], scores[index])


def standing(runs: Sequence[Run]) -> dict[str, Progress]:
    """Where the runs stand now, by stage: nothing changes it any more."""
    return {run.stage.id: run.progress for run in runs}


def content(standing: dict[str, Progress]) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds: the weights come to the host here, if they are not there yet."""
    return {stage: progress.checkpoint() for stage, progress in standing.items()}


def _appended(run: Run, result: Epoch, index: int, time_s: float) -> Progress:
    """The run's progress after one more epoch; whole or not at all, should it be interrupted."""
    progress = run.progress
    moved = result.moved[index : index + 1]
    row = torch.cat([result.scores[index], moved, result.probes[index]])
    return Progress(
        result.states[index],
        result.averages[index],
        result.optimizers[index],
        [*progress.series, row],
        [*progress.norms, result.norms[index]],
        progress.passes_with(None if result.passes is None else result.passes[index]),
        progress.time_s + time_s,
    )


def is_given_up(run: Run, workbench: Workbench) -> bool:
    unfinished = run.next_epoch < run.stage.end_epoch
    if not (workbench.stop_at_chance and unfinished):
        return False
    return is_hopeless(run, workbench.chance, workbench.steps_per_epoch)
