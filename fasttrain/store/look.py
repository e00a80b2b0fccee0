"""One look at a store by whoever holds its lock: every stage is read and checked once."""

from typing import Any

from .store import Store


class Look(Store):
    """A store whose summaries are kept; what is finished or reopened elsewhere is not seen.

    Args:
        store: the store to look at, whose lock the caller holds.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.path, accept_stopped=store.accept_stopped, shapes=store.shapes)
        self.kept: dict[str, dict[str, Any] | None] = {}

    def summary(self, stage: str) -> dict[str, Any] | None:
        """As of any store, read at most once; raises as that does."""
        if stage not in self.kept:
            self.kept[stage] = super().summary(stage)
        return self.kept[stage]

    def reopen(self, stage: str) -> None:
        """Let a finished stage count as not yet run."""
        super().reopen(stage)
        self.kept.pop(stage, None)
