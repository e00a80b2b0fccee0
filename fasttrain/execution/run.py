"""Carries out a plan: what is done stays, what is left runs, failures stay in their stage."""

import math
from collections.abc import Collection, Mapping, Sequence

from ..machine.timings import phase
from ..plan.stages import Stage, lengths_of, predecessors
from ..store.pack_records import GROUPED, PackRecords, foundations
from ..store.store import Store
from ..training.starts import is_outdated, lost_before
from .driver import Driver, Waiting, halves
from .engines.local import Engine
from .engines.tasks import Task, Training
from .pack_size import Choice
from .packing import evenly, owners_of
from .progress import ProgressView


@phase("training")
def run_sweep(
    stages: Sequence[Stage],
    packs: Sequence[Sequence[Stage]],
    store: Store,
    engine: Engine,
    view: ProgressView,
    choices: Mapping[str, Choice] | None = None,
) -> dict[str, str]:
    """Run every stage that the store does not hold finished, each after those it builds on.

    One that was built on a state which has been replaced by another runs again. Returns the error
    of every stage that failed, by label; the stages that build on one are left.

    Args:
        packs: of the stages, and of others that may have to run for their sake (`form_packs`).
        choices: how packs that have not started before train on each kind of node; if not given,
            as they are, each as one network.

    Raises:
        EnvironmentProblem, OSError: the store cannot be read or written.
        KeyboardInterrupt: as raised; packs under way resume from their last finished epoch.
    """
    return _Sweep(stages, packs, store, engine, view, choices).run()


def reopen_outdated(stages: Sequence[Stage], store: Store) -> list[Stage]:
    """Let finished stages count as not yet run that were built on what has been replaced."""
    outdated = [stage for stage in stages if is_outdated(stage, store)]
    for stage in outdated:
        store.reopen(stage.id)
    return outdated


def outdated_line(outdated: Sequence[Stage]) -> str:
    """What the user should know of stages that are outdated."""
    names = ", ".join(stage.label() for stage in outdated)
    return f"run again, because what they started from was replaced: {names}"


class _Pack(Waiting[Stage]):
    """A pack that waits or runs.

    Args:
        own: ids of the stages that end in it; of others a part of this pack is the pack, since it
            failed.
        continued: epochs of what its own go on from, if it has started before.
        lengths: epochs that shorter ones of their lines may have.
        has_started: whether its bits are those of all its stages together.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        own: set[str],
        continued: int,
        lengths: Collection[int],
        has_started: bool = False,
    ) -> None:
        super().__init__(stages)
        self.own = own
        self.has_started = has_started
        self.starts = {s.id: _ids(foundations(s, continued)) for s in stages}
        """what each stage starts from"""
        self.before = {
            s.id: self.starts[s.id] | _ids(list(predecessors(s, lengths))) for s in stages
        }
        """what has to be settled before each, if it has to be at all"""
        self.todo: set[str] = set()
        """what it runs for"""


class _Sweep(Driver[Stage, _Pack]):
    """A plan under way."""

    members = "stages"
    view: ProgressView

    def __init__(
        self,
        stages: Sequence[Stage],
        packs: Sequence[Sequence[Stage]],
        store: Store,
        engine: Engine,
        view: ProgressView,
        choices: Mapping[str, Choice] | None,
    ) -> None:
        self.choices = choices or {"": Choice(max(map(len, packs), default=1))}
        self.store = store
        self.records = PackRecords(store)
        self.planned = _ids(stages)
        self.needed = _ids(stages)
        """what has to be finished: the plan, and what its packs turn out to need"""
        self.settled: set[str] = set()
        self.failed: set[str] = set()
        self.lengths = self.records.lengths() | lengths_of(stages)
        owners = owners_of(packs, store)
        waiting = [
            _Pack(
                pack,
                {stage.id for stage in pack if owners[stage.id] is pack},
                self.records.continued(pack),
                self.lengths,
                has_started=self.records.has(pack),
            )
            for pack in packs
        ]
        super().__init__(waiting, engine, view)

    def run(self) -> dict[str, str]:
        """As `run_sweep` says."""
        failures = super().run()
        assert self.needed <= self.settled | self.failed, "packs that wait for each other"
        return failures

    def take(self, kind: str) -> tuple[_Pack, Task] | None:
        """Take out the first pack with something to run and nothing before it; and what it trains.

        What builds on a failure is neither a result nor in the way of others.
        """
        # Of one kind of node the packs are as they were formed.
        most = math.inf if len(self.choices) == 1 else self.choices[kind].size
        # Those that are too large for this one and yet never divided come last.
        ordered = sorted(self.waiting, key=lambda p: self._is_whole(p, p.members, most))
        known: tuple[int, ...] | None = None
        # Until there is nothing to be learnt: a pack may bear on those before it in the list.
        while known != (known := tuple(map(len, (self.needed, self.settled, self.failed)))):
            for pack in ordered:
                if not self._open(pack):
                    continue
                able = [s for s in pack.members if not self.failed & pack.starts[s.id]]
                self.failed |= self._open(pack) - _ids(able)
                if self._is_ready(pack, able):
                    if len(able) > most and not self._is_whole(pack, able, most):
                        pack = self._divided(pack, able, int(most))
                        able = pack.members
                    self.waiting.remove(pack)
                    self._begin(pack, able, kind)
                    return pack, Training(able)
        return None

    def _is_whole(self, pack: _Pack, able: list[Stage], most: float) -> bool:
        """Whether the pack is larger than that, and trains as a whole nevertheless.

        It has started, perhaps on another kind of node, or goes on from shorter ones.
        """
        return len(able) > most and (pack.has_started or self._continued(able) > 0)

    def _is_ready(self, pack: _Pack, able: list[Stage]) -> bool:
        """Whether the pack has something to run, and all is settled that it starts from."""
        opened = [stage for stage in able if stage.id in self._open(pack)]
        if self._is_pending(set[str]().union(*(pack.before[s.id] for s in opened))):
            return False
        if not any(self._has_to_run(stage) for stage in opened):
            for stage in opened:
                # Should it have failed before.
                self.store.tidy(stage.id)
            self.settled |= _ids(opened)
            return False
        # What a member starts from that the plan does not have may be gone.
        self.needed |= set[str]().union(*(pack.starts[stage.id] for stage in able))
        before = set[str]().union(*(pack.before[stage.id] for stage in able))
        if self._is_pending(before | _ids(able) - pack.own):
            return False
        pack.todo = {s.id for s in able if s.id in pack.own and self._has_to_run(s)}
        self._reopen([s for s in able if s.id in pack.todo and self._is_finished(s.id)])
        return True

    def _is_pending(self, stages: set[str]) -> bool:
        # The stages of a plan are many: only those given are looked at.
        return bool((stages & self.needed) - self.settled - self.failed)

    def _has_to_run(self, stage: Stage) -> bool:
        return not self._is_finished(stage.id) or is_outdated(stage, self.store)

    def _open(self, pack: _Pack) -> set[str]:
        """The stages that have to end in the pack and have not."""
        return (pack.own & self.needed) - self.settled - self.failed

    def _is_finished(self, stage: str) -> bool:
        return self.store.summary(stage) is not None

    def _reopen(self, outdated: list[Stage]) -> None:
        if outdated:
            self.view.note(outdated_line(outdated))
        for stage in outdated:
            if stage.id in self.planned:
                self.view.reopen(stage, self.store.state(stage.id))
            self.store.reopen(stage.id)

    def _divided(self, pack: _Pack, able: list[Stage], most: int) -> _Pack:
        """Divide a pack that waits into as much as a kind of node is to train, and the rest.

        The rest waits in its place, for any kind. Of a pack that has not failed a sweep that goes
        on finds the same: the one is recorded, and the other what is left of the pack that the
        plan forms.
        """
        first = _ids(next(evenly(able, most)))
        parts = []
        for ids in (first, _ids(pack.members) - first):
            members = [stage for stage in pack.members if stage.id in ids]
            part = _Pack(members, pack.own & ids, 0, self.lengths)
            part.todo = pack.todo & ids
            parts.append(part)
        place = self.waiting.index(pack)
        self.waiting[place : place + 1] = parts
        return parts[0]

    def _begin(self, pack: _Pack, able: list[Stage], kind: str) -> None:
        """Record and show that a pack starts, with those of its stages that are able to."""
        pack.has_started = True
        trained = [stage for stage in able if lost_before(stage, self.store, self.lengths) is None]
        if trained:
            # What draws in its steps has no streams (`training.streams`).
            noisy = any(stage.knobs.noise for stage in trained)
            way = GROUPED if noisy else self.choices[kind].way
            self.records.write(trained, self._continued(trained), way)
        todo = [stage for stage in able if stage.id in pack.todo]
        along = len(_ids(trained) - pack.todo)
        if along:
            more = f" and {len(todo) - 1} more" if todo[1:] else ""
            self.view.note(
                f"{todo[0].label()}{more}: together with {along} others of its pack, for the same"
                " bits"
            )
        if begun := [stage for stage in todo if stage.id in self.planned]:
            self.view.begin(begun)

    def _continued(self, trained: list[Stage]) -> int:
        """Epochs of the longest shorter stages that all of a pack can go on from."""
        for before in zip(*(predecessors(s, self.lengths) for s in trained), strict=True):
            if before[0].num_epochs and all(
                self._is_finished(p.id) and not is_outdated(p, self.store) for p in before
            ):
                return before[0].num_epochs
        return 0

    def report(self, stage: Stage, epoch: int, scores: dict[str, float]) -> None:
        """An epoch of a stage has ended."""
        if stage.id in self.planned:
            self.view.epoch(stage, epoch, scores)

    def settle(self, pack: _Pack, task: Training) -> list[Stage]:
        """Take note of what has finished; returns what has not."""
        todo = [stage for stage in task.stages if stage.id in pack.todo]
        done = [stage for stage in todo if self._is_finished(stage.id)]
        self.settled |= _ids(done) | (pack.own & _ids(task.stages)) - pack.todo
        for stage in done:
            if stage.id in self.planned:
                self.view.end(stage, self.store.state(stage.id))
        return [stage for stage in todo if stage not in done]

    def parts(self, pack: _Pack, left: Sequence[Stage], error: str) -> list[_Pack]:
        """Halves of what is left of a failed pack of several."""
        if len(pack.members) == 1:
            return []
        return [_Pack(half, _ids(half), 0, self.lengths) for half in halves(left)]

    def give_up(self, member: Stage, error: str) -> None:
        """Record that a stage has failed."""
        self.failed.add(member.id)
        self.store.fail(member.id, error)
        if member.id in self.planned:
            self.view.end(member, "failed")


def _ids(stages: Sequence[Stage]) -> set[str]:
    return {stage.id for stage in stages}
