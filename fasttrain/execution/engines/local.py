"""Engines: where packs of stages or analyses run. In this process, or in several on this machine.

A worker process has its own copy of everything but the store, through whose files results pass; it
takes one pack at a time, and reports meanwhile. What it cannot run is reported, not raised: a
worker that dies takes only its pack with it, and another takes its place.
"""

import contextlib
import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, Self

import torch

from ...errors import EnvironmentProblem
from ...machine import interrupts
from ...machine.precision import answers
from ...machine.processes import context, die_with_driver, hidden_program, start_server
from ...machine.threads import check_threads
from ...training.workbench import Workbench
from .tasks import Report, Task

STOP_S = 30.0
"""seconds that interrupted workers have to write their last finished epoch"""
AGAIN_S = 0.1
"""seconds between the signals to a worker that is to stop: one that is starting hears none"""


@dataclass(frozen=True)
class Broken:
    """The last message of a worker whose device answers no more."""

    error: str
    """the traceback of what it was carrying out"""


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    task: Task
    error: str | None = None
    """a traceback, if not all of it could be run; what finished is in the store"""
    lost: bool = False
    """whether its worker was lost after it had kept something: it goes on from there, and that is
    no failure of the pack"""


class Engine(Protocol):
    """Runs tasks: `start` as many as there are `slots`, then `wait` for one to end.

    On nodes of several kinds a slot has a kind; everywhere else that is "".
    """

    def slots(self) -> list[str]:
        """The kind of every slot that is free, those to be filled first first."""
        ...

    def start(self, task: Task, kind: str) -> None:
        """Start a task in a free slot of a kind."""
        ...

    def wait(self, report: Report) -> Outcome | None:
        """Pass on what is reported until a task has ended; None where there are other slots."""
        ...


class InProcess:
    """Runs one task at a time in this process."""

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench
        self.task: Task | None = None

    def slots(self) -> list[str]:
        """One, unless a task is to run."""
        return [""] if self.task is None else []

    def start(self, task: Task, kind: str) -> None:
        """Take the task that `wait` is to run."""
        self.task = task

    def wait(self, report: Report) -> Outcome:
        """Run it.

        Raises:
            EnvironmentProblem: as `attempt`; or an error after which this process has no device.
        """
        assert self.task is not None
        error = attempt(self.task, self.workbench, report)
        if error is not None and not answers(self.workbench.device):
            raise EnvironmentProblem(
                f"{self.workbench.device} no longer answers after {_last_line(error)}; run the same"
                " command again: it goes on where this ended"
            )
        task, self.task = self.task, None
        return Outcome(task, error)


def attempt(task: Task, workbench: Workbench, report: Report) -> str | None:
    """Run a task; returns the traceback of an error in it.

    Raises:
        EnvironmentProblem, OSError: the store cannot be read or written.
    """
    try:
        task.run(workbench, report)
        return None
    except (EnvironmentProblem, OSError):
        raise
    except Exception:
        return traceback.format_exc()


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None


@dataclass
class Workers:
    """Runs tasks in processes of this machine. A context manager.

    Args:
        make_workbenches: one per process, called there: opens data and device.
        num_threads: threads of each process.
        lock: the file whose lock keeps others out of the store, if it is held. Each worker holds it
            too, so that the store stays locked until the last of them is gone.
    """

    make_workbenches: Sequence[Callable[[], Workbench]]
    num_threads: int
    lock: int | None = None
    workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            for index in range(len(self.make_workbenches)):
                self.workers.append(self._new_worker(index))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A second signal must not cut off what the workers write at the first.
        with interrupts.passed_over():
            self._stop()

    def _stop(self) -> None:
        """Let the workers write where they stand, and return when none is left."""
        until = time.monotonic() + STOP_S
        left = {worker.pipe: worker for worker in self.workers}
        while left and time.monotonic() < until:
            for worker in left.values():
                if worker.process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.process.pid, signal.SIGINT)
            for pipe in wait(list(left), AGAIN_S):
                try:
                    left[pipe].pipe.recv()  # type: ignore[index]
                except (EOFError, OSError):
                    del left[pipe]  # type: ignore[arg-type]
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def _new_worker(self, index: int) -> _Worker:
        start_server()
        ours, theirs = context().Pipe()
        # A connection, since those can be handed to a process; nothing is ever read from it.
        lock = None if self.lock is None else Connection(os.dup(self.lock), writable=False)
        process = context().Process(
            target=_work,
            args=(
                theirs,
                self.make_workbenches[index],
                self.num_threads,
                interrupts.heeded(),
                lock,
            ),
            daemon=True,
        )
        with hidden_program():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def slots(self) -> list[str]:
        """One of every idle worker."""
        return [""] * sum(worker.task is None for worker in self.workers)

    def start(self, task: Task, kind: str) -> None:
        """Hand the task to an idle worker."""
        worker = next(worker for worker in self.workers if worker.task is None)
        worker.task = task
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(task)

    def wait(self, report: Report) -> Outcome:
        """Pass on what the workers report until one has ended its task."""
        while True:
            busy = {worker.pipe: worker for worker in self.workers if worker.task is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.task is not None
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    return Outcome(worker.task, self._replace(worker))
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, tuple):
                    report(*message)
                    continue
                # At the end of the task: an error, or nothing.
                task, worker.task = worker.task, None
                if isinstance(message, Broken):
                    self._replace(worker)
                    return Outcome(task, message.error)
                return Outcome(task, message)

    def _replace(self, worker: _Worker) -> str:
        """Put a new worker in the place of one that died; returns how it did."""
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        index = self.workers.index(worker)
        self.workers[index] = self._new_worker(index)
        return f"RuntimeError: the worker process was ended {how}"


def _work(
    pipe: Connection,
    make_workbench: Callable[[], Workbench],
    num_threads: int,
    stops: Sequence[int],
    _lock: Connection | None,
) -> None:
    """A worker's whole life: tasks from the pipe, reports into it, until it is stopped.

    The lock is only held.
    """

    def report(*message: Any) -> None:
        # Libraries are loaded and loops compiled by the first report: what sets threads has run.
        check_threads(num_threads)
        pipe.send(message)

    die_with_driver()
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        try:
            # Signals after the first must not cut off what that one began.
            interrupts.keep({signal.SIGINT, *stops}, math.inf)
            torch.set_num_threads(num_threads)
            try:
                workbench = make_workbench()
            except Exception as error:
                reason = f"a worker process could not start: {type(error).__name__}: {error}"
                raise EnvironmentProblem(reason) from None
            while True:
                task = pipe.recv()
                error = attempt(task, workbench, report)
                if error is not None and not answers(workbench.device):
                    # Whatever came next would fail too: another process takes its place.
                    pipe.send(Broken(error))
                    return
                pipe.send(error)
        except (EnvironmentProblem, OSError) as error:
            pipe.send(error)
        finally:
            # The one that is raised is raised in here, where it leaves no traceback.
            interrupts.ignore({signal.SIGINT, *stops})
