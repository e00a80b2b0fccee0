"""Processes that compute beside this one, forked from a server that has imported what they need.

The server is a program of its own, or a fork of this one from before it did anything but import: so
they inherit no thread of Python's, no lock, no device. Nothing that is imported asks for a device
either, since a process that is forked after that could use none.
"""

import contextlib
import fcntl
import functools
import gc
import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import wait
from typing import Any

from .interrupts import STOPS

PRELOADED = (
    # First of all: it ignores the signals that stop a program.
    "fasttrain.execution.engines.fork_server",
    # torch, and what trains.
    "fasttrain.execution.engines.local",
    "fasttrain_kernels.step.cpu.step",
    "fasttrain_kernels.augment.cpu",
    "fasttrain_kernels.norm_relu_pool.cpu",
    "fasttrain.report.figures",
)


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server() -> None:
    """Let the server import while this process does, on another core."""
    context().set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def fork_server() -> None:
    """Import what trains, and make the server a fork of this process: imported once for all.

    For a program that does nothing besides, and has just begun. Where another thread runs, or
    torch has been imported by what may have used it, the server is a program of its own, which
    imports once more; as it is outside of Linux, where systems' libraries do not outlive a fork,
    and where multiprocessing is not the one that can be told to fork.
    """
    alone = "torch" not in sys.modules and threading.active_count() == 1
    if sys.platform != "linux" or not alone or not _can_fork():
        start_server()
        return
    # What a command needs that finds nothing to do; the server goes on with the rest beside it. A
    # module that is missing is said where it is needed.
    with contextlib.suppress(ImportError):
        importlib.import_module(PRELOADED[1])
    # It is started the same way, and is to be a program of its own.
    resource_tracker.ensure_running()
    spawn = util.spawnv_passfds  # type: ignore[attr-defined]
    util.spawnv_passfds = functools.partial(_fork, spawn)  # type: ignore[attr-defined]
    try:
        start_server()
    finally:
        util.spawnv_passfds = spawn  # type: ignore[attr-defined]


ENTRY = "from multiprocessing.forkserver import main"
"""what starts the server, in the program that `python -c` is given"""


def _can_fork() -> bool:
    """Whether multiprocessing has the private parts that a fork in place of its server needs.

    They are those of Python 3.11 to 3.14: a function that starts a program, and a server's state
    that is made of nothing.
    """
    server, made = getattr(forkserver, "_forkserver", None), getattr(forkserver, "ForkServer", ())
    spawn = getattr(util, "spawnv_passfds", None)
    return (
        callable(spawn)
        and [*inspect.signature(spawn).parameters] == ["path", "args", "passfds"]
        and isinstance(server, made)
        and not inspect.signature(type(server)).parameters
    )


def _program(arguments: Sequence[str]) -> list[str]:
    """The server's program and what follows it, out of a command; nothing where it has none.

    Flags of the interpreter come before, the arguments of this program after it, from 3.13.13 and
    3.14.4 on.
    """
    pairs = zip(arguments, arguments[1:], strict=False)
    found = [at for at, (flag, text) in enumerate(pairs, 1) if flag == "-c" and ENTRY in text]
    return list(arguments[found[0] :]) if found else []


def _fork(
    spawn: Callable[..., int], path: object, arguments: Sequence[str], files: Sequence[int]
) -> int:
    """In place of `spawnv_passfds`: what `python -c` would run anew is run by a fork.

    It keeps no other file open than those given and the standard ones, as a new program.

    Args:
        spawn: what runs anew all that is not the server.
    """
    program = _program(arguments)
    if not program:
        return spawn(path, arguments, files)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    child = None
    try:
        child = os.fork()
    finally:
        if child != 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if child:
        return child
    code = 1
    try:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        _close_all_but(files)
        # Its lock is held, by this very call.
        forkserver._forkserver.__init__()  # type: ignore[attr-defined,misc]
        # The collector would write into every page of what has been imported.
        gc.freeze()
        sys.argv = ["-c", *program[1:]]
        exec(program[0], {})
    except SystemExit:
        # As the server ends.
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Never back into the program that this is a fork of.
        os._exit(code)


def _close_all_but(files: Sequence[int]) -> None:
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in files:
            # Of the list itself there is none any more.
            with contextlib.suppress(OSError):
                os.close(number)


def context() -> Any:
    """What makes processes, pipes and locks of this kind."""
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def hidden_program() -> Iterator[None]:
    """Keep multiprocessing from running the program's own file again in the processes it starts.

    They need nothing of it, and a script that sweeps at its top level would sweep in each.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def die_with_driver() -> None:
    """End at once when the driver has ended, however it did and whatever is computed here.

    What ends with it is its end of a pipe. On Linux the kernel itself watches that, since no thread
    of Python runs while a compiler or a kernel holds the interpreter.
    """
    driver = multiprocessing.parent_process()
    assert driver is not None
    end: Any = driver.sentinel
    if sys.platform == "linux":
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
        if wait([end], 0):
            os._exit(1)
    else:
        threading.Thread(target=lambda: wait([end]) and os._exit(1), daemon=True).start()


def run_all(calls: Sequence[Callable[[], object]], processes: int) -> None:
    """Make all the calls, in so many processes; one that fails raises here, and no more begin.

    Args:
        calls: such as can be pickled, for instance `functools.partial` of a module's function.
    """
    if processes == 1 or len(calls) <= 1:
        for call in calls:
            call()
        return
    start_server()
    count = min(processes, len(calls))
    pool = ProcessPoolExecutor(count, context(), initializer=die_with_driver)
    try:
        with hidden_program():
            futures = [pool.submit(call) for call in calls]
        for future in futures:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
