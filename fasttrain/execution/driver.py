"""The loop of a driver: hands packs to an engine, and tries again what fails.

It is the same for packs of stages and of analyses. A pack that fails is tried again as a whole,
since its members would end in other bits without the others; then in halves, so that a failure ends
where it belongs.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from .engines.local import Engine
from .engines.tasks import Report, Task
from .progress import Node, NodeView

ATTEMPTS = 2
"""times that a pack is tried as a whole"""

N = TypeVar("N", bound=Node)


class Waiting(Generic[N]):
    """A pack that waits or runs."""

    def __init__(self, members: Sequence[N]) -> None:
        self.members = list(members)
        self.num_failures = 0


W = TypeVar("W", bound=Waiting[Any])


class Driver(ABC, Generic[N, W]):
    """Packs under way. Of which nodes, and what has to be known of them, says the subclass."""

    members = "members"
    """what they are called"""
    report: Report
    """takes what tasks report"""

    def __init__(self, waiting: Sequence[W], engine: Engine, view: NodeView[N]) -> None:
        self.waiting = list(waiting)
        self.running: dict[Task, W] = {}
        self.engine = engine
        self.view = view

    def run(self) -> dict[str, str]:
        """Run packs until none can be; returns the error of every member that failed, by label."""
        failures: dict[str, str] = {}
        while True:
            for kind in self.engine.slots():
                if (ready := self.take(kind)) is None:
                    break
                pack, task = ready
                self.running[task] = pack
                self.engine.start(task, kind)
            if not self.running:
                return failures
            if (outcome := self.engine.wait(self.report)) is None:
                continue
            pack = self.running.pop(outcome.task)
            left = self.settle(pack, outcome.task)
            if outcome.error is not None and left:
                pack.num_failures += not outcome.lost
                failures |= self._failed(outcome.error, pack, left)

    @abstractmethod
    def take(self, kind: str) -> tuple[W, Task] | None:
        """Take the next pack that can run out of those that wait, and make its task.

        Args:
            kind: of the nodes where it is to run, as the engine calls them.
        """

    @abstractmethod
    def settle(self, pack: W, task: Any) -> list[N]:
        """Take note of what has finished of a pack; returns what has not."""

    @abstractmethod
    def parts(self, pack: W, left: Sequence[N], error: str) -> list[W]:
        """Smaller packs of what is left of one that has failed; none if it has one member."""

    @abstractmethod
    def give_up(self, member: N, error: str) -> None:
        """Record that a member cannot be run."""

    def _failed(self, error: str, pack: W, left: list[N]) -> dict[str, str]:
        """Let what failed be tried again, or give it up; returns the errors of the latter."""
        self.view.halt(left)
        line = _last_line(error)
        if pack.num_failures < ATTEMPTS:
            size = len(pack.members)
            self.view.note(f"{left[0].label()}: its pack of {size} runs again ({line})")
            self.waiting.insert(0, pack)
            return {}
        if parts := self.parts(pack, left, error):
            self.view.note(f"{len(left)} {self.members} left of a failed pack ({line})")
            self.waiting[:0] = parts
            return {}
        (member,) = left
        self.give_up(member, error)
        return {member.label(): line}


def halves(members: Sequence[N]) -> list[Sequence[N]]:
    """The members in two parts, or in one if there is one."""
    middle = len(members) // 2
    return [half for half in (members[:middle], members[middle:]) if half]


def _last_line(error: str) -> str:
    """What a traceback ends with: the error itself."""
    return error.strip().splitlines()[-1]
