"""Engines: where packs run. In this process, or in several on this machine.

A worker process has its own copy of everything but the store, through whose files results pass; it
takes one pack at a time, and reports every epoch. What it cannot run is reported, not raised: a
worker that dies takes only its pack with it, and another takes its place.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from . import interrupts
from .errors import EnvironmentProblem
from .lab import Lab
from .plan import Stage
from .stages import OnEpoch, run_pack
from .threads import check_threads

STOP_S = 30.0
"""seconds that interrupted workers have to write their last finished epoch"""


@dataclass(frozen=True)
class Outcome:
    """What became of a pack."""

    pack: Sequence[Stage]
    error: str | None = None
    """a traceback, if not all of it could be run; what finished is in the store"""


class Engine(Protocol):
    """Runs packs; `start` at most `capacity` of them at once, then `wait` for one to end."""

    @property
    def capacity(self) -> int: ...
    def start(self, pack: Sequence[Stage]) -> None: ...
    def wait(self, on_epoch: OnEpoch) -> Outcome: ...


class InProcess:
    """Runs one pack at a time in this process."""

    capacity = 1

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pack: Sequence[Stage] = ()

    def start(self, pack: Sequence[Stage]) -> None:
        """Take the pack that `wait` is to run."""
        self.pack = pack

    def wait(self, on_epoch: OnEpoch) -> Outcome:
        """Run it."""
        return _attempt(self.pack, self.lab, on_epoch)


def _attempt(pack: Sequence[Stage], lab: Lab, on_epoch: OnEpoch) -> Outcome:
    """Run a pack; an error in it is part of the outcome.

    Raises:
        EnvironmentProblem, OSError: the store cannot be read or written.
    """
    if any(stage.parent is None for stage in pack):
        lab.final_states.clear()
    try:
        run_pack(pack, lab, on_epoch)
        return Outcome(pack)
    except (EnvironmentProblem, OSError):
        raise
    except Exception:
        return Outcome(pack, traceback.format_exc())


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    pack: Sequence[Stage] | None = None


@dataclass
class Workers:
    """Runs packs in processes of this machine. A context manager.

    Args:
        make_labs: one per process, called there: opens data and device.
        num_threads: threads of each process.
    """

    make_labs: Sequence[Callable[[], Lab]]
    num_threads: int
    workers: list[_Worker] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        return len(self.make_labs)

    def __enter__(self) -> "Workers":
        self.workers = [self._new_worker(index) for index in range(self.capacity)]
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not cut off what the workers write at the first.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        busy = [worker for worker in self.workers if worker.pack is not None]
        for worker in busy:
            if worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGINT)
        for worker in self.workers:
            worker.pipe.close()
            worker.process.join(STOP_S)
            worker.process.kill()
        signal.signal(signal.SIGINT, before)

    def _new_worker(self, index: int) -> _Worker:
        # Its processes inherit nothing from this one: no thread, no lock, no device.
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self.make_labs[index], self.num_threads), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def start(self, pack: Sequence[Stage]) -> None:
        """Hand the pack to an idle worker."""
        worker = next(worker for worker in self.workers if worker.pack is None)
        worker.pack = pack
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(pack)

    def wait(self, on_epoch: OnEpoch) -> Outcome:
        """Pass on what the workers report until one has ended its pack."""
        while True:
            busy = {worker.pipe: worker for worker in self.workers if worker.pack is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    return self._replace(worker)
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, Outcome):
                    worker.pack = None
                    return message
                on_epoch(*message)

    def _replace(self, worker: _Worker) -> Outcome:
        """Put a new worker in the place of one that died."""
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        pack = worker.pack or ()
        index = self.workers.index(worker)
        self.workers[index] = self._new_worker(index)
        return Outcome(pack, f"RuntimeError: the worker process was ended {how}")


def _work(pipe: Connection, make_lab: Callable[[], Lab], num_threads: int) -> None:
    """A worker's whole life: packs from the pipe, reports into it, until it is closed."""

    def report(*epoch: Any) -> None:
        # Libraries are loaded and loops compiled in the first epoch: what sets threads has run.
        check_threads(num_threads)
        pipe.send(epoch)

    _die_with_parent()
    signal.signal(signal.SIGINT, _interrupt_once)
    interrupts.keep()
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        torch.set_num_threads(num_threads)
        try:
            try:
                lab = make_lab()
            except Exception as error:
                reason = f"a worker process could not start: {type(error).__name__}: {error}"
                raise EnvironmentProblem(reason) from None
            while True:
                pack = pipe.recv()
                outcome = _attempt(pack, lab, report)
                pipe.send(outcome)
        except (EnvironmentProblem, OSError) as error:
            pipe.send(error)


def _interrupt_once(*_: object) -> None:
    """Stop at the first Ctrl-C; a second one must not cut off what the first one began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """On Linux, end at once when the process that started this one has ended."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
