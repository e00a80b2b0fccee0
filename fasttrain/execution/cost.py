"""What a plan will cost, from measured steps on the real model and data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..machine.files import tensors_to_bytes
from ..plan.stages import Stage, lengths_of, predecessors
from ..store.pack_records import PackRecords
from ..store.store import Store
from ..training.workbench import Workbench
from .measured import Timing

SMALL_FILES_BYTES = 12_000
"""stage.json, done.json and metrics.parquet of one stage, about"""
STAGE_S = 0.017
"""of a core for what a stage takes besides its epochs: its files, what it starts from, its reports.
Measured on 506 stages of the tick features, of 253 models in 15 packs, on a Xeon"""


@dataclass(frozen=True)
class Estimate:
    """Cost of the stages that are left, on this machine as fast as it was measured."""

    num_epochs: int
    time_s: float
    disk_bytes: int


def epochs_left(stages: Sequence[Stage], store: Store) -> dict[str, int]:
    """Epochs that each stage still takes, by id, when all are run in order.

    Finished stages take none, a stage under way what its checkpoint lacks, and another what the
    longest shorter one of its line lacks.
    """
    left: dict[str, int] = {}
    lengths = PackRecords(store).lengths() | lengths_of(stages)
    for stage in stages:
        if store.summary(stage.id) is not None:
            left[stage.id] = 0
            continue
        done = store.checkpoints.epochs(stage.id)
        for earlier in predecessors(stage, lengths):
            if earlier.id in left or store.summary(earlier.id) is not None:
                done = max(done, earlier.num_epochs)
                break
        left[stage.id] = stage.num_epochs - done
    return left


def together(estimates: Iterable[Estimate]) -> Estimate:
    """What a plan costs that kinds of nodes share, each as fast as if it had all of it."""
    estimates = list(estimates)
    rates = sum(1 / found.time_s for found in estimates if found.time_s)
    return replace(estimates[0], time_s=1 / rates if rates else 0.0)


def estimate(
    packs: Sequence[Sequence[Stage]],
    timings: Sequence[Timing],
    processes: int,
    workbench: Workbench,
) -> Estimate:
    """Scale what was measured to the stages of the packs that are not finished."""
    todo = [stage for pack in packs for stage in pack if workbench.store.summary(stage.id) is None]
    left = epochs_left(todo, workbench.store)
    num_steps = workbench.steps_per_epoch
    num_tests = len(workbench.test_loader) / workbench.config.training.evaluate_every
    seconds = STAGE_S * len(todo)
    for pack in packs:
        members = [stage for stage in pack if stage.id in left]
        if not members:
            continue
        # Finished members of the pack train along.
        timing = min(timings, key=lambda timing: abs(timing.size - len(pack)))
        scale = len(pack) / timing.size
        step_s, test_s = timing.step_s * num_steps * scale, timing.test_batch_s * num_tests * scale
        if every := workbench.config.training.pass_every:
            # Of the steps of a pass the optimiser's alone is not taken.
            test_s += timing.step_s * len(workbench.passes(0)) * scale / every
        epochs = max(left[stage.id] for stage in members)
        # An average adds two passes over the training set, each about a third of training on it.
        seconds += epochs * (step_s + test_s) + (members[0].kind == "swa") * step_s * 2 / 3
    model = workbench.new_model(0)
    size = len(tensors_to_bytes(model.state_dict()))
    # Two moments, or a buffer, of every parameter: about as many again each.
    if workbench.config.optimizer.keeps_state:
        size *= 3 if workbench.config.optimizer.kind in ("adam", "custom") else 2
    num_filters = sum(weight.shape[0] for weight in model.sphere_parameters())
    return Estimate(
        sum(left.values()),
        seconds / min(processes, len(packs)),
        sum(
            size * (2 if stage.kind == "swa" else 1)
            + stage.num_epochs * num_filters * 4
            + SMALL_FILES_BYTES
            for stage in todo
        ),
    )
