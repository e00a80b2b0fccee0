"""From a plan to packs: which stages train in step as one, in which order.

Stages of one seed that train over the same epochs see the same batches, so that any number of them
can be one pack. The packs follow from the plan and the largest size alone, never from what is
finished: a sweep that was interrupted forms the same packs again. Stages that have started before
belong to the pack that they started in.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from ..plan.stages import Stage, lengths_of, predecessors, shorter
from ..store.pack_records import PackRecords, Packs
from ..store.store import Store

T = TypeVar("T")


def make_packs(
    stages: Sequence[Stage], size: int, root_size: int | None = None
) -> list[list[Stage]]:
    """Packs of at most `size` stages, of nearly equal sizes, parents before their children.

    Those of pre-training have at most `root_size`, so that there is work for several processes.

    The children of a pack follow it at once, so that what must be kept for them does not grow with
    the grid; averages of fewer checkpoints come before those of more.
    """
    children: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.parent is not None:
            children.setdefault(stage.parent.id, []).append(stage)
    for below in children.values():
        below.sort(key=lambda stage: stage.k or 0)
    prefixes = _prefixes(stages)

    def from_ends(starts: Sequence[Stage]) -> Iterator[list[Stage]]:
        below = [child for start in starts for child in children.get(start.id, ())]
        for wave in _waves(below, prefixes):
            for pack in evenly(wave, size):
                yield list(pack)
                yield from from_ends(pack)

    packs: list[list[Stage]] = []
    for wave in _waves([stage for stage in stages if stage.parent is None], prefixes):
        for pack in evenly(wave, min(size, root_size or size)):
            packs.append(list(pack))
            packs.extend(from_ends(pack))
    return packs


def form_packs(
    stages: Sequence[Stage], store: Store, size: int, root_size: int | None = None
) -> list[list[Stage]]:
    """The packs in which stages of a store have started, and `make_packs` of what is left.

    With those that their members need, though the plan may not have them.
    """
    records = PackRecords(store)
    recorded, others = records.of(stages)
    grown = _grown(stages, recorded, records)
    formed: dict[tuple[str, ...], list[Stage]] = {}
    for pack in [*make_packs(stages, size, root_size), *([stage] for stage in others)]:
        new = []
        for stage in pack:
            if stage.id in recorded:
                old = recorded[stage.id]
            elif store.summary(stage.id) is not None:
                # In another mode of giving up, or its record has been deleted.
                old = [stage]
            elif stage.id in grown:
                old = grown[stage.id]
            else:
                new.append(stage)
                continue
            formed.setdefault(tuple(s.id for s in old), old)
        if new:
            formed[tuple(s.id for s in new)] = new
    return list(formed.values())


def _grown(stages: Sequence[Stage], recorded: Packs, records: PackRecords) -> Packs:
    """The packs of legs that go on from shorter ones of their lines: those that these were in."""
    new = [stage for stage in stages if stage.id not in recorded and stage.k is None]
    starts = records.shorter(new)
    planned = {stage.id: stage for stage in new}
    grown: Packs = {}
    for stage in new:
        if stage.id in grown or stage.id not in starts:
            continue
        start = starts[stage.id]
        ids = [shorter(other, stage.num_epochs).id for other in start]
        # Others of that pack may be in no plan, or may go on from longer ones.
        pack = [planned[i] for i in ids if starts.get(i) == start]
        grown |= {member.id: pack for member in pack}
    return grown


def owners_of(packs: Sequence[Sequence[Stage]], store: Store) -> dict[str, Sequence[Stage]]:
    """The pack in which each stage ends, by id, of all that it is in.

    The one that its record names, where stores were merged; else the smallest, a part of those that
    failed. Packs that would wait for each other's stages are left to their sizes.
    """
    by_size: dict[str, Sequence[Stage]] = {}
    for pack in sorted(packs, key=len, reverse=True):
        by_size |= {stage.id: pack for stage in pack}
    known = {tuple(stage.id for stage in pack): pack for pack in packs}
    named = PackRecords(store).left_to().items()
    recorded = {stage: known[ids] for stage, ids in named if ids in known}
    while recorded:
        owners = by_size | recorded
        waits = {
            id(pack): {id(owners[s.id]) for s in pack if not store.is_finished(s.id)} - {id(pack)}
            for pack in packs
        }
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            circle = set(error.args[1])
            recorded = {i: pack for i, pack in recorded.items() if id(pack) not in circle}
        else:
            return owners
    return by_size


def largest_wave(stages: Sequence[Stage]) -> int:
    """The largest pack that a plan can fill."""
    return max(len(pack) for pack in make_packs(stages, len(stages)))


def _prefixes(stages: Sequence[Stage]) -> dict[str, int]:
    """Of each leg, by id, the epochs of the longest shorter one of its line in the plan."""
    lengths = lengths_of(stages)
    if len(lengths) == 1:
        return {}
    planned = {stage.id for stage in stages}
    found = {}
    for stage in stages:
        if stage.k is None:
            before = (s.num_epochs for s in predecessors(stage, lengths) if s.id in planned)
            found[stage.id] = next(before, 0)
    return found


def _waves(stages: Sequence[Stage], prefixes: Mapping[str, int]) -> Iterator[list[Stage]]:
    """Stages that can train in step: the shorter ones of a line before the longer ones.

    Those that go on from a shorter one start later than those that have none.
    """
    waves: dict[tuple[object, ...], list[Stage]] = {}
    for stage in stages:
        waves.setdefault((stage.shape, prefixes.get(stage.id, 0)), []).append(stage)
    yield from sorted(waves.values(), key=lambda wave: (wave[0].k is not None, wave[0].num_epochs))


def evenly(wave: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The wave in as few packs as possible, sizes differing by one at most, larger ones first."""
    count = math.ceil(len(wave) / size)
    small, larger = divmod(len(wave), count)
    first = 0
    for index in range(count):
        last = first + small + (index < larger)
        yield wave[first:last]
        first = last
