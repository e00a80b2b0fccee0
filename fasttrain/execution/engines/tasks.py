"""What engines carry out: packs that train. Packs of analyses are in `fasttrain.analysis`.

A task can be carried out where its store is not: it says what it reads of it, and what it writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...plan.stages import Stage, predecessors
from ...store.entries import METRICS, STATE
from ...store.pack_records import PackRecords
from ...store.store import Store
from ...training.run_pack import run_pack
from ...training.workbench import Workbench

if TYPE_CHECKING:
    from fasttrain_data import ImageData

Report = Callable[..., None]
"""takes what a task reports while it is carried out: on training, epochs (`OnEpoch`)"""


class Task(Protocol):
    """A pack, to be carried out in one process; what finishes is put into the store there."""

    def run(self, workbench: Workbench, report: Report) -> None: ...

    @property
    def results(self) -> set[str]:
        """Ids of what it may finish."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """The files that a result of it may have."""
        ...

    @property
    def images(self) -> "ImageData | None":
        """Those that it needs besides the workbench's."""
        ...

    def give(self, images: "ImageData") -> None:
        """Let it use these images of its own, where it cannot find them."""
        ...

    def reads(self, store: Store) -> list[Path]:
        """The files of a store that it starts from."""
        ...

    def place(self, store: Store) -> Store:
        """Where in a store its results are."""
        ...


@dataclass(frozen=True, eq=False)
class Training:
    """Stages that train in step."""

    stages: Sequence[Stage]
    images = None
    names = frozenset((METRICS, STATE))

    def run(self, workbench: Workbench, report: Report) -> None:
        """Run them to their end."""
        if any(stage.parent is None for stage in self.stages):
            workbench.final_states.clear()
        run_pack(self.stages, workbench, report)

    @property
    def results(self) -> set[str]:
        """Ids of the stages."""
        return {stage.id for stage in self.stages}

    def give(self, images: "ImageData") -> None:
        """It has none of its own."""

    def reads(self, store: Store) -> list[Path]:
        """The ends that they start from, their checkpoint, and the records of packs."""
        records = PackRecords(store)
        lengths = records.lengths()
        needed = self.results
        for stage in self.stages:
            needed |= {earlier.id for earlier in predecessors(stage, lengths)}
            needed |= {stage.parent.id} if stage.parent else set()
        return [
            *finished_files(needed, store),
            *store.checkpoints.of(self.results),
            *records.needed(self.stages),
        ]

    def place(self, store: Store) -> Store:
        """The store itself."""
        return store


def finished_files(stages: set[str], store: Store) -> list[Path]:
    """The files of those of some stages that are finished."""
    folders = [store.path / stage for stage in sorted(stages) if store.is_finished(stage)]
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
