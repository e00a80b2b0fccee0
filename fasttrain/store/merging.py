"""Joins stores: what others have finished is copied into one, as a sweep would write it.

A result is in the target, or comes from the first store that has it; in every other store that has
it, its files have to be the same by their digests. stage.json alone may differ: it also says what
is part of no identity, such as the path of the data. Nor may a pack have trained on streams for
results of one store and grouped for those of another: what is lost later has to come out in the
same bits. Nothing is written before all of that has been compared. Then, in this order: which
stages train together, the stages, earlier ones before those that started from them, the analyses,
the plan. Every file is verified when it is copied, and done.json is written last, so that a kill at
any moment leaves a store, into which the same merge then copies what it lacks.

The other stores are only read, and may be written meanwhile: what is finished does not change.
Checkpoints stay where they are. What was under way ends in its own store, or trains again in this.
Notes contradict nothing: all that stores have on a stage are on it afterwards.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EnvironmentProblem
from ..machine.files import write_atomically
from .entries import DESCRIPTION, DONE, STATE, Entry
from .json_files import seal
from .notes import copy_notes, read_notes
from .pack_records import GROUPED, STREAMS, PackRecords, counting, read_record
from .status import merged, read_plan, write_plan
from .store import Store

SHOWN = 3
"""contradictions that a message names"""
Owned = dict[str, tuple[Store, Entry]]
"""Finished stages or analyses by id, each with the first of the stores that have it."""


class Recorded(NamedTuple):
    """The record of a pack in a store."""

    store: Store
    record: dict[str, Any]
    counts: set[str]
    """stages for which it is the one that counts in the store"""
    trained: set[str]
    """those that are finished"""


@dataclass(frozen=True)
class Merged:
    """What a merge has done."""

    num_stores: int
    num_stages: int
    """copied"""
    num_analyses: int
    """copied"""
    num_known: int
    """stages and analyses of the stores that the target had"""
    num_notes: int
    """copied"""

    def sentence(self, target: Path) -> str:
        """It in a line."""
        known = f"; {self.num_known} were there" if self.num_known else ""
        notes = f" and {self.num_notes} note{'s' * (self.num_notes != 1)}" * bool(self.num_notes)
        what = f"{self.num_stages} stages{',' if notes else ' and'} {self.num_analyses} analyses"
        return (
            f"{target}: {what}{notes} copied from"
            f" {self.num_stores} store{'s' * (self.num_stores != 1)}{known}"
        )


def survey(stores: Sequence[Store]) -> tuple[Owned, Owned]:
    """The finished stages and analyses of stores that may be joined.

    Raises:
        EnvironmentProblem: a damaged file, or results that contradict each other, by name.
    """
    stages, contradictions = _owned(stores)
    contradictions += _other_starts(stages)
    analyses, others = _owned([store.analyses for store in stores])
    contradictions += others + _chosen_packs(stores)[1]
    if contradictions:
        more = len(contradictions) - SHOWN
        raise EnvironmentProblem(
            "nothing was merged, the stores contradict each other: "
            + "; ".join(contradictions[:SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + "; delete one of each two and merge again"
        )
    return stages, analyses


def merge_stores(target: Store, sources: Sequence[Store]) -> Merged:
    """Copy what the sources have finished; the caller holds the target's lock.

    Raises:
        EnvironmentProblem: as `survey`, or a file cannot be written.
    """
    stages, analyses = survey([target, *sources])
    notes = [note for source in sources for note in read_notes(source.path)]
    _add_packs(_chosen_packs([target, *sources])[0], [target, *sources])
    new = [name for name, (store, _) in stages.items() if store is not target]
    # Parents end where their children begin, shorter legs of a line before the longer ones.
    for stage in sorted(new, key=lambda name: _place(stages[name][1])):
        _copy(stage, *stages[stage], target)
    analysed = [name for name, (store, _) in analyses.items() if store.path.parent != target.path]
    for analysis in analysed:
        _copy(analysis, *analyses[analysis], target.analyses)
    target.checkpoints.tidy()
    plan = read_plan(target.path)
    for planned in (planned for source in sources for planned in read_plan(source.path)):
        plan = plan if planned in plan else merged(plan, planned)
    if plan != read_plan(target.path):
        write_plan(target.path, plan)
    known = {n for s in sources for n in (*s.stages(), *s.analyses.stages())} - {*new, *analysed}
    num_notes = copy_notes(notes, target.path)
    return Merged(len(sources), len(new), len(analysed), len(known), num_notes)


def _owned(stores: Sequence[Store]) -> tuple[Owned, list[str]]:
    """The first of the stores that have each result, and where others have another one."""
    owned: Owned = {}
    contradictions = []
    for store in stores:
        for name in store.stages():
            entry = store.entry(name)
            # A sweep may have taken it up again since it was listed.
            if entry is None:
                continue
            first, known = owned.setdefault(name, (store, entry))
            if differing := _differing(known, entry):
                here, there = store.path / name, first.path / name
                contradictions.append(
                    f"{', '.join(differing)} of {here} and of {there}, {_label(entry.about)}"
                )
    return owned, contradictions


def _differing(one: Entry, other: Entry) -> list[str]:
    """The files of a result of which two stores have different ones."""
    files = [entry.done["files"] for entry in (one, other)]
    names = sorted({*files[0], *files[1]} - {DESCRIPTION})
    return [name for name in names if files[0].get(name) != files[1].get(name)]


def _other_starts(stages: Owned) -> list[str]:
    """Stages that started from another state of a stage than the one of another store."""
    found = []
    for name, (store, entry) in stages.items():
        for earlier, sha256 in entry.done["built_on"].items():
            owner, start = stages.get(earlier, (store, None))
            if start is None or owner is store:
                continue
            if start.done["files"].get(STATE, {}).get("sha256") != sha256:
                found.append(
                    f"{store.path / name} ({_label(entry.about)}) started from another state than"
                    f" that of {owner.path / earlier}"
                )
    return found


def _label(about: dict[str, Any]) -> str:
    names = ("plr", "flr", "k", "seed")
    rates = (f" {n} {about[n]:g}" for n in names if about.get(n) is not None)
    return about["kind"] + "".join(rates)


def _place(entry: Entry) -> tuple[int, int]:
    return entry.about["start_epoch"], entry.about["epochs"]


def _copy(name: str, source: Store, entry: Entry, target: Store) -> None:
    """Copy a result, as `Store.finish` writes it."""
    folder = target.path / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in entry.done["files"]:
        write_atomically(folder / file, source.content(name, file, entry.done))
    write_atomically(folder / DONE, seal(entry.done))
    target.tidy(name)


def _recorded_packs(store: Store) -> list[Recorded]:
    """The records of a store, oldest first, each with the stages that it counts for."""
    records = [read_record(path) for path in PackRecords(store).paths()]
    records.sort(key=lambda record: record["number"])
    counts: dict[Path, set[str]] = {record["path"]: set() for record in records}
    for stopping in (False, True):
        own = [record for record in records if record["stop_at_chance"] == stopping]
        for stage, record in counting(own).items():
            counts[record["path"]].add(stage)
    trained = {path: set(filter(store.is_finished, ids)) for path, ids in counts.items()}
    return [Recorded(store, r, counts[r["path"]], trained[r["path"]]) for r in records]


def _chosen_packs(stores: Sequence[Store]) -> tuple[list[Recorded], list[str]]:
    """Of each pack that counts the record that has to be the target's, and contradictions.

    Where stores have trained a pack in different ways, it is the one by whose way all results of
    the pack came about, wherever they are.
    """
    by_name: dict[str, dict[str, list[Recorded]]] = {}
    for pack in itertools.chain.from_iterable(map(_recorded_packs, stores)):
        if pack.trained:
            ways = by_name.setdefault(_name(pack), {})
            ways.setdefault(_way(pack), []).append(pack)
    chosen, contradictions = [], []
    for ways in by_name.values():
        # The way of all results has the most; of as many the first store's.
        most, *others = sorted(ways.values(), key=lambda packs: -len(_trained(packs)))
        chosen.append(most[0])
        for packs in others:
            if _trained(packs).keys() <= _trained(most).keys():
                continue
            here, there = _only(packs, most), _only(most, packs)
            contradictions.append(
                f"{here} and {there} are of one pack, which trained {_way(packs[0])} in one store"
                f" and {_way(most[0])} in the other"
            )
    return chosen, contradictions


def _trained(packs: Sequence[Recorded]) -> dict[str, Path]:
    """The finished stages of a pack by id, each where the first of the stores has it."""
    return {stage: p.store.path / stage for p in reversed(packs) for stage in p.trained}


def _only(packs: Sequence[Recorded], others: Sequence[Recorded]) -> Path:
    """A finished stage of a pack that trained in one way alone."""
    trained = _trained(packs)
    return trained[min(trained.keys() - _trained(others).keys())]


def _way(pack: Recorded) -> str:
    """How the models of a pack trained together, in words."""
    return "on streams" if pack.record.get("way") == STREAMS else GROUPED


def _add_packs(packs: Sequence[Recorded], stores: Sequence[Store]) -> None:
    """Record packs in the first store, behind those that it has, and which stages count in which.

    New ones are written with what they leave to others, so that after a kill each stage has the
    pack that it had.
    """
    target, records = stores[0], PackRecords(stores[0])
    recorded = [pack for store in stores for pack in _recorded_packs(store)]
    there = {_name(pack): pack for pack in recorded if pack.store is target}
    number = max((pack.record["number"] for pack in there.values()), default=0)
    wanted = {name: pack.record for name, pack in there.items()}
    for pack in packs:
        name = _name(pack)
        if name in there and _way(there[name]) == _way(pack):
            continue
        if name in there:
            # Begun the other way, with no result that counts: it does not go on from there.
            members = [member["stage"] for member in pack.record["members"]]
            for checkpoint in target.checkpoints.of(members):
                checkpoint.unlink(missing_ok=True)
        number += 1
        wanted[name] = {**pack.record, "number": number}
    places = _places([pack for pack in recorded if _name(pack) in wanted])
    for name, record in wanted.items():
        own = {field: v for field, v in record.items() if field not in ("path", "elsewhere")}
        ids, stopping = [m["stage"] for m in record["members"]], record["stop_at_chance"]
        elsewhere = [id for id in ids if places.get((id, stopping), name) != name]
        content = seal(own | ({"elsewhere": elsewhere} if elsewhere else {}))
        path = records.folder / name
        if not path.exists() or path.read_bytes() != content:
            records.folder.mkdir(exist_ok=True)
            write_atomically(path, content)


def _places(packs: Sequence[Recorded]) -> dict[tuple[str, bool], str]:
    """The pack in which a stage trains again: the first in which it has a result, else the first.

    By stage, and whether packs with --stop-at-chance count.
    """
    found: dict[tuple[str, bool], str] = {}
    for pack, stages in [*((p, p.trained) for p in packs), *((p, p.counts) for p in packs)]:
        for stage in stages:
            found.setdefault((stage, pack.record["stop_at_chance"]), _name(pack))
    return found


def _name(pack: Recorded) -> str:
    return pack.record["path"].name
