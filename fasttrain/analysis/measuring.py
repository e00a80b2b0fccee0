"""Packs of analyses on an engine: how one is made, wherever, and the loop that makes them all."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import EnvironmentProblem
from ..execution.driver import Driver, Waiting, halves
from ..execution.engines.local import Engine, Report, Task
from ..store.store import Store
from ..training.workbench import Workbench
from .kinds import ANALYSERS
from .progress import AnalysisView
from .records import Analysis, is_done, save

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "memoryerror", "signal sigkill")
"""in the error of a pack that was too large; who takes most of the memory is killed"""


@dataclass(frozen=True, eq=False)
class Measuring:
    """Analyses that are made together."""

    analyses: Sequence[Analysis]
    """of one kind and, where their models are one pack, of one seed"""
    size: int
    """most models in a pack"""

    def run(self, workbench: Workbench, report: Report) -> None:
        """Make them and put them into the store."""
        workbench = workbench.of_seed(self.analyses[0].seed)
        try:
            made = ANALYSERS[self.analyses[0].kind](self.analyses, workbench, self.size)
        except EnvironmentProblem as error:
            # Of a stage that is gone or damaged, which is in nobody else's way.
            raise RuntimeError(str(error)) from error
        # Before anything is kept, since a worker looks at its threads then.
        report()
        for analysis, tables in zip(self.analyses, made, strict=True):
            save(analysis, tables, workbench.provenance, workbench.store)


class Pack(Waiting[Analysis]):
    """Analyses that wait, or are being made together.

    Args:
        size: most models in a pack.
    """

    def __init__(self, analyses: Sequence[Analysis], size: int) -> None:
        super().__init__(analyses)
        self.size = size


class Analyses(Driver[Analysis, Pack]):
    """Analyses of one set-up under way; `run` makes them."""

    members = "analyses"
    view: AnalysisView

    def __init__(
        self, packs: Sequence[Pack], engine: Engine, view: AnalysisView, store: Store
    ) -> None:
        super().__init__(packs, engine, view)
        self.store = store

    def take(self) -> tuple[Pack, Task] | None:
        """The next one; of a pack that failed, what is left."""
        if not self.waiting:
            return None
        pack = self.waiting.pop(0)
        left = [analysis for analysis in pack.members if not is_done(analysis, self.store)]
        self.view.begin(left)
        return pack, Measuring(left, pack.size)

    def report(self) -> None:
        """A pack has been computed, and is about to be saved."""
        self.view.changed()

    def settle(self, pack: Pack, task: Measuring) -> list[Analysis]:
        """Take note of what has been made; returns what has not."""
        left = []
        for analysis in task.analyses:
            if is_done(analysis, self.store):
                self.view.end(analysis, "done")
            else:
                left.append(analysis)
        return left

    def parts(self, pack: Pack, left: Sequence[Analysis], error: str) -> list[Pack]:
        """Halves of what is left; of a single one smaller packs of models, if memory is short."""
        short = pack.size > 1 and any(word in error.lower() for word in OUT_OF_MEMORY)
        if len(pack.members) == 1 and not short:
            return []
        return [Pack(half, max(1, pack.size // 2)) for half in halves(left)]

    def give_up(self, member: Analysis, error: str) -> None:
        """Record that an analysis has failed."""
        self.store.analyses.fail(member.id, error)
        self.view.end(member, "failed")
