"""Which stages train together: what a stage needs to end in the same bits once more.

    <store>/packs/<pack>.json    stages in order, and what they start from; written before they do

The bits of a stage depend on how many models train with it, on its place among them, and on the way
in which they train: as one network of so many groups, or each by itself on a stream of a GPU. So a
stage belongs to the pack that it first started in: whenever it has to be trained, after a kill or
because it was deleted, the whole pack trains, with members that are finished already or that this
plan does not have. Of several packs with a stage the newest counts: halves of one that failed.
Where stores are merged, one may be newer than the one that a stage has its bits from: its record
then says that the stage counts elsewhere.
"""

import dataclasses
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem
from ..machine.files import json_bytes, sha256_hex, write_atomically
from ..plan.identity import HASH_LENGTH
from ..plan.stages import Stage, predecessors, shorter
from ..settings.knobs import Knobs
from .json_files import read_json, seal
from .schema import PackRecord
from .store import Store

GROUPED = "grouped"
STREAMS = "streams"

Packs = dict[str, list[Stage]]
"""The pack of a stage, by id."""


class PackRecords:
    """The packs of a store that have started.

    Those that started with --stop-at-chance count with it alone: there a member may leave early.
    """

    def __init__(self, store: Store) -> None:
        self.folder = store.path / "packs"
        self.stop_at_chance = store.accept_stopped
        self.last_number = 0

    def write(self, pack: Sequence[Stage], continued: int, way: str = GROUPED) -> None:
        """Record a pack that starts, unless it is recorded.

        Args:
            continued: epochs of the shorter stages that its own go on from; 0 if they begin where
                their parents end.
            way: how its models train together.
        """
        path = self._path(pack)
        if path.exists():
            return
        self.folder.mkdir(exist_ok=True)
        # The caller alone writes: of what is there the largest number has to be found but once.
        last = self.last_number or max((r["number"] for r in self._records()), default=0)
        self.last_number = last + 1
        members = [{"stage": stage.id, "path": _path_of(stage)} for stage in pack]
        record = {"members": members, "continued": continued, "stop_at_chance": self.stop_at_chance}
        record |= {"epochs": pack[0].num_epochs}
        # As records were before there was another.
        record |= {} if way == GROUPED else {"way": way}
        record["number"] = self.last_number
        write_atomically(path, seal(record))

    def has(self, pack: Sequence[Stage]) -> bool:
        """Whether the pack is recorded: it has started."""
        return self._path(pack).exists()

    def continued(self, pack: Sequence[Stage]) -> int:
        """Epochs of what those of the pack go on from; 0 if it is not recorded."""
        path = self._path(pack)
        return read_record(path)["continued"] if path.exists() else 0

    def way(self, pack: Sequence[Stage]) -> str:
        """How the models of the pack train together."""
        path = self._path(pack)
        return read_record(path).get("way", GROUPED) if path.exists() else GROUPED

    def of(self, stages: Sequence[Stage]) -> tuple[Packs, list[Stage]]:
        """The packs in which stages have started, and the stages beyond those given that they need.

        Raises:
            EnvironmentProblem: a record is damaged.
        """
        newest = self._newest()
        packs: Packs = {}
        known = {stage.id: stage for stage in stages}
        waiting = deque(stages)
        while waiting:
            stage = waiting.popleft()
            record = newest.get(stage.id)
            if record is None:
                continue
            members = _members(stage, record)
            packs[stage.id] = members
            for member in members:
                for needed in (member, *foundations(member, record["continued"])):
                    if needed.id not in known:
                        known[needed.id] = needed
                        waiting.append(needed)
        return packs, list(known.values())[len(stages) :]

    def lengths(self) -> set[int]:
        """The epochs that the stages of all recorded packs are of."""
        return {record.get("epochs", 0) for record in self._records()}

    def left_to(self) -> dict[str, tuple[str, ...]]:
        """Of stages that a record leaves to another one, the members of the one that counts."""
        records = self._records()
        left = {stage for record in records for stage in record.get("elsewhere", ())}
        newest = counting(records) if left else {}
        return {i: tuple(m["stage"] for m in newest[i]["members"]) for i in left if i in newest}

    def shorter(self, stages: Sequence[Stage]) -> Packs:
        """Of stages the pack in which the longest shorter one of their line has started, if any."""
        lengths, newest = self.lengths(), self._newest()
        found: Packs = {}
        for stage in stages:
            for earlier in predecessors(stage, lengths):
                if earlier.id in newest:
                    found[stage.id] = _members(earlier, newest[earlier.id])
                    break
        return found

    def needed(self, pack: Sequence[Stage]) -> list[Path]:
        """The records that a pack needs elsewhere: those of its stages, and one of every length."""
        records, pack_ids = self._records(), {stage.id for stage in pack}
        by_length = {record.get("epochs", 0): record["path"] for record in records}
        own = (r["path"] for r in records if any(m["stage"] in pack_ids for m in r["members"]))
        return sorted({*by_length.values(), *own})

    def paths(self) -> list[Path]:
        """The records that are there, sorted."""
        return sorted(self.folder.glob("*.json"))

    def _newest(self) -> dict[str, dict[str, Any]]:
        """The record that counts of every stage, by id."""
        return counting(self._records())

    def _records(self) -> list[dict[str, Any]]:
        """Records that count, oldest first."""
        records = [read_record(path) for path in self.paths()]
        records = [r for r in records if r["stop_at_chance"] == self.stop_at_chance]
        return sorted(records, key=lambda record: record["number"])

    def _path(self, pack: Sequence[Stage]) -> Path:
        content = {"stages": [stage.id for stage in pack], "stop_at_chance": self.stop_at_chance}
        return self.folder / f"{sha256_hex(json_bytes(content))[:HASH_LENGTH]}.json"


def foundations(stage: Stage, continued: int) -> list[Stage]:
    """The stages whose ends a stage starts from: its parent, and the shorter one of its line."""
    parent = [] if stage.parent is None else [stage.parent]
    return [*parent, *([shorter(stage, continued)] if continued else [])]


def counting(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of records, oldest first, the one that counts of every stage, by id."""
    members = [(member["stage"], record) for record in records for member in record["members"]]
    # A record that leaves a stage to another one still has it where that one was deleted.
    return dict(members) | {id: r for id, r in members if id not in r.get("elsewhere", ())}


def _path_of(stage: Stage) -> list[dict[str, float]]:
    """The knobs of the legs from the root to a stage, or to the leg that an average reads."""
    return [leg.knobs.given() for leg in stage.legs]


def _members(stage: Stage, record: dict[str, Any]) -> list[Stage]:
    """The stages of a stage's pack: they differ in the knobs of their legs alone."""
    return [_member(stage, about, record) for about in record["members"]]


def _member(stage: Stage, about: dict[str, Any], record: dict[str, Any]) -> Stage:
    knobs = about.get("path") or [{"lr": about[name]} for name in ("plr", "lr")]
    path = [Knobs(**leg) for leg in knobs[: len(stage.legs)]]
    member = _with_knobs(stage, path)
    if member is None or member.id != about["stage"]:
        path = record["path"]
        what = f"stage {about['stage']} is not what it says"
        raise EnvironmentProblem(f"{path}: {what}; {_remedy(path)}")
    return member


def _with_knobs(stage: Stage, path: Sequence[Knobs]) -> Stage | None:
    """The stage with other knobs of its legs; None if there are not as many."""
    if len(stage.legs) != len(path):
        return None
    above = path if stage.k is not None else path[:-1]
    parent = None if stage.parent is None else _with_knobs(stage.parent, above)
    return dataclasses.replace(stage, knobs=path[-1], parent=parent)


def read_record(path: Path) -> dict[str, Any]:
    """A record, and under `path` where it is.

    Raises:
        EnvironmentProblem: it is not what was written.
    """
    return {**read_json(path, PackRecord, _remedy(path), sealed=True), "path": path}


def _remedy(path: Path) -> str:
    return (
        f"delete {path} and run the sweep again: what is left of its stages then trains in another"
        " pack, equal within rounding"
    )
