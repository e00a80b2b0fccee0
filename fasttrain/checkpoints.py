"""Checkpoints written beside the training, and no more often than needed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from .store import Store

Content = Callable[[], dict[str, dict[str, Tensor]]]
"""Makes the tensors of every stage of a pack, by id, in memory that nothing writes to again."""


class CheckpointWriter:
    """Writes where a pack stands every `interval_s` seconds, in a thread. A context manager.

    Leaving it waits for the writing that is under way, and raises what stopped it.
    """

    def __init__(self, store: Store, interval_s: float) -> None:
        self.store = store
        self.interval_s = interval_s
        self.last = time.monotonic()
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self.thread.shutdown()

    def offer(self, content: Content) -> None:
        """Begin to write the content if the interval has passed."""
        if time.monotonic() - self.last >= self.interval_s:
            self._wait()
            self.last = time.monotonic()
            self.writing = self.thread.submit(self.store.save_checkpoint, content())

    def write(self, content: Content) -> None:
        """Write the content now, and return when it is on disk."""
        self._wait()
        self.store.save_checkpoint(content())

    def _wait(self) -> None:
        if self.writing is not None:
            # Forgotten only when it has ended: an interruption may come here twice.
            self.writing.result()
            self.writing = None
