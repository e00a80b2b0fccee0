"""Callbacks, which the driver calls while stages train.

    class Print:
        def on_stage_start(self, run): ...
        def on_epoch(self, run, epoch, values): ...
        def on_stage_end(self, run, epoch, state, values): ...

    ft.sweep(study, callbacks=[Print(), ft.log_to("tensorboard", "logs")])

A stage that trains is reported once, and each of its epochs at most once, even if a failed pack is
tried again. Stages that were finished, and epochs before a resumption, are not reported. An average
reports its start and its end only: its epochs are those of the run that it averages.
A callback that raises stops the study with an error that names the callback. Finished stages, and
the last epoch of running ones, are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import EnvironmentProblem, UsageError
from ..export.runs import FINAL, Run, Tracker, run_of, tagged
from ..plan.stages import Stage
from ..store.tables import Finished
from ..training.workbench import Workbench
from .progress import ProgressView

HOOKS = ("on_stage_start", "on_epoch", "on_stage_end")


class Callback(Protocol):
    """An object with these methods; values have the names of `fasttrain export`, "loss/train"."""

    def on_stage_start(self, run: Run) -> None:
        """A stage starts or resumes training."""
        ...

    def on_epoch(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch has ended; epochs count from the start of pre-training."""
        ...

    def on_stage_end(self, run: Run, epoch: int, state: str, values: Mapping[str, float]) -> None:
        """A stage has ended: its state (done, at-chance, non-finite, failed) and last values."""
        ...


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise for what is no list of callbacks.

    Raises:
        UsageError: the message names what one lacks.
    """
    if not isinstance(callbacks, Sequence):
        raise UsageError(f"callbacks={callbacks!r}: must be a list of callbacks")
    for callback in callbacks:
        for hook in HOOKS:
            if isinstance(callback, type) or not callable(getattr(callback, hook, None)):
                raise UsageError(
                    f"callbacks: {callback!r} lacks {hook}; an object with {', '.join(HOOKS)} is"
                    " needed"
                )


class Logging:
    """A callback that writes to a `Tracker`, as `fasttrain export` does."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_stage_start(self, run: Run) -> None:
        """Begin a run."""
        self.tracker.start(run)

    def on_epoch(self, run: Run, epoch: int, values: Mapping[str, float]) -> None:
        """Write an epoch's values."""
        self.tracker.log(run, epoch, values)

    def on_stage_end(self, run: Run, epoch: int, state: str, values: Mapping[str, float]) -> None:
        """Write a run's last values."""
        self.tracker.end(run, epoch, state, values)

    def close(self) -> None:
        """The study has ended, or stopped."""
        self.tracker.close()


class CallbackView(ProgressView):
    """A `ProgressView` that tells callbacks what it is told.

    Args:
        workbench: knows the setting, and its store the last values of what ends.
        callbacks: called in their order.
    """

    def __init__(
        self, *args: Any, workbench: Workbench, callbacks: Sequence[Callback], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.workbench = workbench
        self.callbacks = callbacks
        self.runs: dict[str, Run] = {}
        self.told: dict[str, int] = {}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for callback in self.callbacks:
            if isinstance(callback, Logging):
                callback.close()

    def begin(self, pack: list[Stage]) -> None:
        """Stages start as one pack."""
        super().begin(pack)
        if self.callbacks:
            for stage in pack:
                self._run(stage)

    def epoch(self, stage: Stage, epoch: int, scores: dict[str, float]) -> None:
        """An epoch has ended."""
        super().epoch(stage, epoch, scores)
        if not self.callbacks:
            return
        run = self._run(stage)
        if not run.is_average and epoch > self.told.get(stage.id, stage.start_epoch):
            self.told[stage.id] = epoch
            values = tagged(scores) | run.rate
            self._tell("on_epoch", run, lambda called: called.on_epoch(run, epoch, values))

    def end(self, node: Stage, state: str) -> None:
        """A stage has ended."""
        super().end(node, state)
        if not self.callbacks:
            return
        run, entry = self._run(node), self.workbench.store.entry(node.id)
        epoch = self.told.get(node.id, node.start_epoch)
        values: dict[str, float] = {}
        if entry is not None:
            epoch, values = entry.done["epoch"], tagged(entry.done["result"], FINAL)
        self._tell(
            "on_stage_end", run, lambda called: called.on_stage_end(run, epoch, state, values)
        )
        # One that is built on what another has replaced runs again.
        self.runs.pop(node.id)
        self.told.pop(node.id, None)

    def _run(self, stage: Stage) -> Run:
        """The stage's run; begun if it has not been."""
        if stage.id not in self.runs:
            about = {**stage.description(), **self.workbench.about()}
            run = run_of(Finished(stage.id, about, {}))
            self.runs[stage.id] = run
            self._tell("on_stage_start", run, lambda called: called.on_stage_start(run))
        return self.runs[stage.id]

    def _tell(self, hook: str, run: Run, call: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            try:
                call(callback)
            except Exception as error:
                raise EnvironmentProblem(
                    f"{type(callback).__name__}.{hook} of {run.name}:"
                    f" {type(error).__name__}: {error}; the study stopped there, and the same"
                    " call resumes it"
                ) from error
