"""Engine of a Ray cluster: packs run where it has room; what they tell is written here.

A task gets the files that its pack starts from through Ray's object store, and tells epochs,
checkpoints and results as they come (`ray_trial`). So workers need no file system that this process
sees, and a worker or a node that is lost costs what was trained since the pack's last checkpoint.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import ray  # type: ignore[import-not-found]
from ray.util.scheduling_strategies import (  # type: ignore[import-not-found]
    NodeAffinitySchedulingStrategy,
)

from ...errors import EnvironmentProblem
from ...machine import interrupts
from ...plan.config import RunOptions
from ...store.store import Result
from ...training.workbench import Workbench
from .local import STOP_S, Outcome
from .ray_checkpoints import checked, of_task, read_for, save_checkpoint
from .ray_cluster import Room, cluster
from .ray_head import QUIET_S
from .ray_kinds import Pools, pinned
from .ray_trial import (
    BEGUN,
    CHECKPOINT,
    ENDED,
    FINISHED,
    HERE,
    NOTE,
    PROBLEM,
    REPORT,
    Message,
    Setting,
    setting_of,
)
from .ray_worker import ONCE, Bell, answer_of, ask, carry_out, in_words, unable, versions
from .tasks import Report, Task

if TYPE_CHECKING:
    from ..pack_size import Choice

LAST_S = 1.0
"""seconds to take what the tasks have told, where they cannot be asked to stop"""


@dataclass(eq=False)
class _Job:
    """A task under way."""

    task: Task
    messages: Any
    """references to what it tells, as it does"""
    kind: str
    """of the nodes that it may run on"""
    batch: list[Message] = field(default_factory=list)
    """those that have come and are not dealt with yet"""
    node: str = ""
    """of the cluster, once it has begun there"""
    dead_before: frozenset[str] = frozenset()
    """nodes that were lost before it was sent"""
    has_kept: bool = False
    """whether something that it told is in the store: another try begins there"""


class RayEngine:
    """Runs tasks on the nodes of a cluster. A context manager.

    Args:
        choices: how packs train on each kind of node, where there are several.
    """

    def __init__(
        self,
        workbench: Workbench,
        options: RunOptions,
        room: Room,
        choices: "Mapping[str, Choice] | None" = None,
    ) -> None:
        self.workbench = workbench
        self.options = options
        self.room = room
        self.choices = choices or {}
        self.jobs: list[_Job] = []
        self.images: dict[str, Any] = {}
        """references to images that tasks have of their own, by digest"""

    def __enter__(self) -> Self:
        self.cluster = cluster(self.options)
        one = setting_of(self.workbench, self.options, self.room)
        # A process knows by its name what it has opened.
        every = {
            kind: replace(one, compiled=choice.compiled, name=f"{one.name} {kind}")
            for kind, choice in self.choices.items()
        }
        self.settings = {kind: ray.put(own) for kind, own in (every or {"": one}).items()}
        self.pools = Pools(self.cluster, self.room, self.choices) if self.choices else None
        # Where this process is, and nothing can be lost without it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.bell = ray.remote(num_cpus=0, scheduling_strategy=here)(Bell).remote()
        self.carry_out = ray.remote(
            num_cpus=self.room.num_cpus,
            num_gpus=self.room.num_gpus,
            num_returns="streaming",
            **ONCE,
        )(carry_out)
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.passed_over():
            self._stop()

    def _stop(self) -> None:
        """Let the tasks tell where they stand, and keep it."""
        # Without a head the bell is not found.
        is_lost = self.cluster.head.is_lost
        if self.jobs and not is_lost:
            self.bell.ring.remote()
        until = time.monotonic() + (LAST_S if is_lost else STOP_S)
        while self.jobs and (left_s := until - time.monotonic()) > 0:
            job = self._ready(left_s)
            if job is not None:
                with contextlib.suppress(EnvironmentProblem):
                    self._next(job, lambda *_: None)
        for job in self.jobs:
            ray.cancel(job.messages, force=True)

    def slots(self) -> list[str]:
        """As many as the room has; of several kinds (`Pools.free`) those of the nodes now."""
        if self.pools is None:
            return [""] * (self.room.processes - len(self.jobs))
        return self.pools.free(Counter(job.kind for job in self.jobs))

    def start(self, task: Task, kind: str) -> None:
        """Send the task to the cluster, to nodes of a kind."""
        given = [self.settings[kind], ray.put((task, read_for(task, self.workbench.store)))]
        if (images := task.images) is not None:
            if images.digest not in self.images:
                self.images[images.digest] = ray.put(images)
            given.append(self.images[images.digest])
        where = {} if self.pools is None else self.pools.where(kind)
        messages = self.carry_out.options(**where).remote(versions(), given, self.bell)
        self.jobs.append(_Job(task, messages, kind, dead_before=frozenset(self.cluster.head.dead)))

    def wait(self, report: Report) -> Outcome | None:
        """Write and pass on what the tasks tell until one has ended; None where nodes have joined.

        Raises:
            EnvironmentProblem: a node cannot or must not train; none is left; the store cannot be
                written.
        """
        while True:
            job = self._ready(QUIET_S)
            if job is None:
                self.cluster.check(self.room)
            elif (outcome := self._next(job, report)) is not None:
                return outcome
            if (outcome := self._cut_off()) is not None:
                return outcome
            if self.pools is not None and self.pools.joined(QUIET_S):
                return None

    def _cut_off(self) -> Outcome | None:
        """What becomes of a task on a node that Ray has given up.

        Where the network to it is cut, and no process has ended, Ray tells nobody for minutes.
        """
        dead = self.cluster.head.lost(QUIET_S)
        for job in self.jobs:
            # One that has not begun may have been on its way to any of those lost since.
            if job.node in dead or (not job.node and dead - job.dead_before):
                self.jobs.remove(job)
                ray.cancel(job.messages, force=True)
                return Outcome(job.task, "RuntimeError: its node was lost", lost=True)
        return None

    def _ready(self, timeout_s: float) -> _Job | None:
        """A task that has told something, if any does in time."""
        for job in self.jobs:
            if job.batch:
                # This process was interrupted while it dealt with that.
                return job
        waiting = {job.messages: job for job in self.jobs}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        return waiting[ready[0]] if ready else None

    def _next(self, job: _Job, report: Report) -> Outcome | None:
        """Deal with what a task has told; returns how it ended, if it has."""
        outcome = None
        try:
            if not job.batch:
                with interrupts.put_off():
                    job.batch = list(ray.get(next(job.messages)))
            while job.batch:
                with interrupts.put_off():
                    outcome = self._deal_with(job, job.batch.pop(0), report)
        except StopIteration:
            outcome = Outcome(job.task, "RuntimeError: the task was stopped")
        except ray.exceptions.RayTaskError as error:
            # What fails in training is told: the node does not even begin.
            self.jobs.remove(job)
            raise unable(error) from None
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ObjectLostError):
                # The task may run on, and nobody hears it any more.
                ray.cancel(job.messages, force=True)
            # A pack that found no node of its kind any more has not begun.
            lost = job.has_kept or isinstance(error, ray.exceptions.TaskUnschedulableError)
            outcome = Outcome(job.task, f"RuntimeError: {in_words(error)}", lost=lost)
        except EnvironmentProblem:
            self.jobs.remove(job)
            raise
        if outcome is not None:
            self.jobs.remove(job)
        return outcome

    def _deal_with(self, job: _Job, message: Message, report: Report) -> Outcome | None:
        kind, *told = message
        task, store = job.task, self.workbench.store
        if kind == REPORT:
            report(*told[0])
        elif kind == HERE:
            job.node = told[0]
        elif kind == NOTE:
            self.cluster.say(told[0])
        elif kind == BEGUN:
            task.place(store).begin_all(of_task(task, told[0].items()))
        elif kind == CHECKPOINT:
            save_checkpoint(store, *told)
            job.has_kept = True
        elif kind == FINISHED:
            results = of_task(task, ((result[0], Result(*result)) for result in told[0]))
            task.place(store).finish_all(checked(task, result) for result in results.values())
            store.checkpoints.tidy()
            job.has_kept = True
        elif kind == PROBLEM:
            raise EnvironmentProblem(told[0])
        else:
            assert kind == ENDED, kind
            return Outcome(task, told[0])
        return None


def ask_workbench(
    function: Callable[..., Any],
    workbench: Workbench,
    options: RunOptions,
    rooms: Mapping[str, Room],
    *arguments: Any,
) -> dict[str, Any]:
    """What a function says of the workbench and of further arguments, on a node of every room.

    Args:
        rooms: by kind of node; under "" where there is one.

    Raises:
        EnvironmentProblem: as the function; no node can be asked.
    """
    setting = setting_of(workbench, options, next(iter(rooms.values())))
    return _asked(options, rooms, function, arguments, setting)


def ask_node(function: Callable[[str], Any], options: RunOptions) -> Any:
    """What a function says, on a node, of the kind of device there; raises as `ask_workbench`."""
    found = cluster(options)
    return _asked(options, {"": found.room(1, options)}, function, (found.device(options),))[""]


def _asked(
    options: RunOptions,
    rooms: Mapping[str, Room],
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *settings: Setting,
) -> dict[str, Any]:
    connected = cluster(options)
    given = [ray.put(part) for part in ((function, arguments), *settings)]
    dead_before = connected.head.lost(0.0)
    asking = []
    for room in rooms.values():
        needs = {"num_cpus": room.num_cpus, "num_gpus": room.num_gpus, **pinned(room.nodes)}
        asking.append(ray.remote(**needs, **ONCE)(ask))
    answers = [ask_there.remote(versions(), given) for ask_there in asking]
    while left := ray.wait(answers, num_returns=len(answers), timeout=QUIET_S)[1]:
        connected.check(next(iter(rooms.values())))
        if (dead := connected.head.lost(QUIET_S)) - dead_before:
            # They may have been asked of one of those: they are asked again of what is left.
            dead_before = dead
            for at, ask_there in enumerate(asking):
                if answers[at] in left:
                    ray.cancel(answers[at], force=True)
                    answers[at] = ask_there.remote(versions(), given)
    return {kind: answer_of(kind, given) for kind, given in zip(rooms, answers, strict=True)}
