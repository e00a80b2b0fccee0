"""Packs of analyses on an engine: how one is made, wherever, and the loop that makes them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EnvironmentProblem
from ..execution.driver import Driver, Waiting, halves
from ..execution.engines.local import Engine
from ..execution.engines.tasks import Report, Task, finished_files
from ..store.store import Store
from ..training.workbench import Workbench
from .kinds import ANALYSERS
from .progress import AnalysisView
from .records import Analysis, is_done, save
from .tables import TABLES

if TYPE_CHECKING:
    from fasttrain_data import ImageData

OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "memoryerror", "signal sigkill"),
    # As Ray says it.
    *("low on memory", "worker died unexpectedly"),
)
"""in the error of a pack that was too large; who takes most of the memory is killed"""


@dataclass(frozen=True, eq=False)
class Measuring:
    """Analyses that are made together."""

    analyses: Sequence[Analysis]
    """of one kind and, where their models are one pack, of one seed"""
    size: int
    """most models in a pack"""
    names = frozenset(f"{table}.parquet" for table in TABLES)

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

    @property
    def results(self) -> set[str]:
        """Ids of the analyses."""
        return {analysis.id for analysis in self.analyses}

    @property
    def images(self) -> "ImageData | None":
        """Those of the target."""
        target = self.analyses[0].target
        return None if target is None else target.images

    def give(self, images: "ImageData") -> None:
        """Let the target be these."""
        target = self.analyses[0].target
        assert target is not None, "images of a target that there is not"
        target.give(images)

    def reads(self, store: Store) -> list[Path]:
        """What is measured, and what that was started from."""
        stages = {stage for analysis in self.analyses for stage in analysis.stages}
        parents = {parent for stage in stages if (parent := _parent(stage, store)) is not None}
        return finished_files(stages | parents, store)

    def place(self, store: Store) -> Store:
        """The analyses of the store."""
        return store.analyses


def _parent(stage: str, store: Store) -> str | None:
    """What a stage was started from; None of one that is damaged: that is said by what reads it."""
    try:
        return store.description(stage)["parent"]
    except EnvironmentProblem:
        return None


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

    def take(self, kind: str) -> tuple[Pack, Task] | None:
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
