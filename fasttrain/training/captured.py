"""Epochs of a pack as replays of CUDA graphs: one launch by the host for a whole training step.

A graph holds gathering and augmentation, forward and backward pass, loss, optimiser and sums of a
step, for one size of a batch. All that changes from step to step it reads from the device: the
place in the epoch (`fasttrain_data.cursor`), rates, weights, and for noise and dropout the seed of
torch's generator and how much was drawn of it, which a replay moves on as a step does. The first
steps of a size are taken as they are, which also warms up what compiles or measures; then one is
captured, without being taken, and repeated. Where a step cannot be captured it is said why, once,
and the epochs go on without.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch

from fasttrain_data import Loader
from fasttrain_data.cursor import Cursor
from fasttrain_data.resident import ResidentLoader

from ..settings.losses import Loss
from ..settings.networks.kinds import CustomNetwork
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.adam import AdamPack
from ..settings.optimizers.fused import FusedPack
from ..settings.optimizers.groups import Built, Capturable
from .loop import EpochTotals, sums_of, train_step
from .step_epochs import StepEpochs
from .working_copies import copies_for

if TYPE_CHECKING:
    from .workbench import Workbench

WARM_UP = 3
"""steps of every size of a batch that are taken before one is captured"""

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None], "torch.cuda.Stream | None"], Replay]
"""makes a graph of what a function does on a stream, without its being done"""
MakeRoom = Callable[[], bool]
"""frees memory that could be had again another time; whether there was any"""

_said: set[str] = set()
"""why steps are not captured, as far as this process has said it"""


def cuda_graph(step: Callable[[], None], stream: "torch.cuda.Stream | None") -> Replay:
    """A CUDA graph of the step."""
    graph = torch.cuda.CUDAGraph()
    # Checkpoints are copied by another thread meanwhile: its calls are none of this capture.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


class CapturedEpochs:
    """In the place of `loop.train_epoch`, for one pack and the epochs of one loader.

    Args:
        capture: what makes a graph of a step.
        make_room: what is tried once, if memory does not suffice for a graph.
    """

    def __init__(
        self,
        model: ImageClassifier,
        loss: Loss,
        optimizer: Built,
        loader: Loader | StepEpochs,
        precision: str,
        device: torch.device,
        capture: Capture = cuda_graph,
        make_room: MakeRoom = lambda: False,
    ) -> None:
        passes = loader.passes if isinstance(loader, StepEpochs) else loader
        assert isinstance(passes, ResidentLoader)
        self.num_steps, self.num_images = len(loader), 0
        self.cursor = Cursor(passes)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.arithmetic = precision, device
        self.sums = sums_of(model, loss, device)
        self.capture, self.make_room = capture, make_room
        self.graphs: dict[int, Replay] = {}
        self.taken: dict[int, int] = {}
        """steps of every size that were no replays"""
        self.failed = False
        self.copies = copies_for(model, cast(Capturable, optimizer), precision)
        # Backward passes belong to the stream that they first ran on: warm-up and capture share it.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def train_epoch(self, epoch: int) -> EpochTotals:
        """As `loop.train_epoch` on the batches of the loader's epoch."""
        [totals] = side_by_side([self], epoch)
        return totals

    def steps(self, epoch: int) -> Iterator[None]:
        """Take the steps of an epoch on the stream, from one to the next as asked."""
        self.model.train()
        sizes = self._sizes(epoch)
        self.num_images = 0
        with self._on_stream():
            self.sums.clear_()
            if self.copies is not None:
                self.copies.refresh_()
        for _ in range(self.num_steps):
            with self._on_stream():
                size = next(sizes)
                self._step(size)
            self.num_images += size
            yield

    def totals(self) -> EpochTotals:
        """Of the steps of the epoch."""
        with self._on_stream():
            return self.sums.totals(self.num_images, self.num_steps)

    def _sizes(self, epoch: int) -> Iterator[int]:
        """Sizes of the epoch's batches; the cursor stands at each when it is yielded."""
        sizes = self.cursor.sizes()
        first, done = divmod(epoch * self.num_steps, len(sizes))
        left = self.num_steps
        for number in itertools.count(first):
            self.cursor.begin_(number, done)
            here = sizes[done : done + left]
            yield from here
            left -= len(here)
            done = 0
            if not left:
                return

    def _step(self, size: int) -> None:
        if size in self.graphs:
            self.graphs[size]()
            return
        if not self.failed and self.taken.get(size, 0) >= WARM_UP:
            graph = self._captured(size)
            if graph is not None:
                self.graphs[size] = graph
                graph()
                return
            self.failed = True
        self._take(size)
        self.taken[size] = self.taken.get(size, 0) + 1

    def _captured(self, size: int) -> Replay | None:
        """The graph of a step; None if it cannot be made, and why is said."""
        reason = ""
        for again in (False, True):
            try:
                return self.capture(lambda: self._take(size), self.stream)
            except RuntimeError as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                short = out_of_memory(error)
            # Out here, where nothing holds what the failed capture had any more.
            if again or not short or not self.make_room():
                break
        say(reason)
        return None

    def _take(self, size: int) -> None:
        """A step of a batch of this size: what a graph repeats."""
        train_step(
            self.model,
            self.loss,
            self.optimizer,
            self.cursor.next(size),
            self.sums,
            *self.arithmetic,
            self.copies,
        )

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        """Let the stream begin where the current one stands, and that one wait for its end.

        What lies in memory of one and is used on the other is freed and taken again in this order,
        too. A graph has memory of its own.
        """
        if self.stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outer)
        try:
            yield
        finally:
            outer.wait_stream(self.stream)


def side_by_side(models: Sequence[CapturedEpochs], epoch: int) -> list[EpochTotals]:
    """The same epoch of several models, each on its stream, a step of one after a step of another.

    So the device has work of all of them, however far the host is ahead.
    """
    with contextlib.ExitStack() as streams:
        for model in models:
            streams.enter_context(model.behind())
        for _ in zip(*(model.steps(epoch) for model in models), strict=True):
            pass
        return [model.totals() for model in models]


def captured(
    workbench: "Workbench",
    model: ImageClassifier,
    optimizer: Built,
    loader: Loader | StepEpochs,
) -> CapturedEpochs | None:
    """Captured epochs of a pack on a GPU; None where steps are taken one by one, and why is said.

    Networks that torch.compile makes come with graphs of their own.
    """
    if workbench.device.type != "cuda" or workbench.compiled:
        return None
    reason = why_not(workbench, optimizer, loader)
    if reason is not None:
        say(reason)
        return None
    return CapturedEpochs(
        model,
        workbench.loss,
        optimizer,
        loader,
        workbench.precision,
        workbench.device,
        make_room=lambda: workbench.graphs.clear(workbench.device),
    )


def why_not(workbench: "Workbench", optimizer: Built, loader: Loader | StepEpochs) -> str | None:
    """Why the steps of a pack cannot be captured, as far as is known beforehand."""
    if isinstance(workbench.config.network, CustomNetwork):
        return "network.kind = 'custom' may depend on what the host does"
    if not isinstance(optimizer, FusedPack | AdamPack):
        return "optimizer.kind = 'custom' may depend on what the host does"
    passes = loader.passes if isinstance(loader, StepEpochs) else loader
    if not isinstance(passes, ResidentLoader):
        return "the training set does not lie on the device"
    return None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short: to end a capture that failed for that may fail for itself."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def say(reason: str) -> None:
    """Say once why steps are launched one by one."""
    if reason not in _said:
        _said.add(reason)
        print(f"training steps are not captured as CUDA graphs: {reason}", file=sys.stderr)
