"""From a plan to packs: which stages train in step as one, in which order.

Stages of one seed that train over the same epochs see the same batches, so that any number of them
can be one pack. The packs follow from the plan and the largest size alone, never from what is
finished: a sweep that was interrupted forms the same packs again. Stages that have started before
belong to the pack that they started in.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from .pack_records import PackRecords
from .plan import Stage
from .store import Store

T = TypeVar("T")


def make_packs(
    stages: Sequence[Stage], size: int, root_size: int | None = None
) -> list[list[Stage]]:
    """Packs of at most `size` stages, of nearly equal sizes, parents before their children.

    Those of pre-training have at most `root_size`, so that there is work for several processes.

    The children of a pack follow it at once, so that what must be kept for them does not grow with
    the grid; averages of fewer checkpoints come before those of more.
    """
    packs: list[list[Stage]] = []
    for parents in _waves(stage for stage in stages if stage.parent is None):
        for pack in evenly(parents, min(size, root_size or size)):
            packs.append(list(pack))
            ids = {stage.id for stage in pack}
            children = [stage for stage in stages if stage.parent and stage.parent.id in ids]
            children.sort(key=lambda stage: stage.k or 0)
            for wave in _waves(children):
                packs.extend(map(list, evenly(wave, size)))
    return packs


def form_packs(
    stages: Sequence[Stage], store: Store, size: int, root_size: int | None = None
) -> list[list[Stage]]:
    """The packs in which stages of a store have started, and `make_packs` of what is left.

    With those that their members need, though the plan may not have them.
    """
    recorded, others = PackRecords(store).of(stages)
    formed: dict[tuple[str, ...], list[Stage]] = {}
    for pack in [*make_packs(stages, size, root_size), *([stage] for stage in others)]:
        new = []
        for stage in pack:
            if stage.id in recorded:
                old = recorded[stage.id]
            elif store.summary(stage.id) is not None:
                # In another mode of giving up, or its record has been deleted.
                old = [stage]
            else:
                new.append(stage)
                continue
            formed.setdefault(tuple(s.id for s in old), old)
        if new:
            formed[tuple(s.id for s in new)] = new
    return list(formed.values())


def largest_wave(stages: Sequence[Stage]) -> int:
    """The largest pack that a plan can fill."""
    return max(len(pack) for pack in make_packs(stages, len(stages)))


def _waves(stages: Iterable[Stage]) -> Iterator[list[Stage]]:
    """Stages that can train in step, in the order of the first of each wave."""
    waves: dict[tuple[object, ...], list[Stage]] = {}
    for stage in stages:
        key = (stage.kind, stage.seed, stage.start_epoch, stage.num_epochs)
        waves.setdefault(key, []).append(stage)
    yield from waves.values()


def evenly(wave: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The wave in as few packs as possible, sizes differing by one at most, larger ones first."""
    count = math.ceil(len(wave) / size)
    small, larger = divmod(len(wave), count)
    first = 0
    for index in range(count):
        last = first + small + (index < larger)
        yield wave[first:last]
        first = last
