"""Compiling what training needs, where no process has done so yet: a loop in each process.

It takes long, and happens once in an environment: so it is told, and timed as a phase of its own.
"""

import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from ..machine.processes import context, die_with_driver, hidden_program, start_server, usable_cpus
from ..machine.timings import phase
from ..plan.config import RunOptions
from ..training.loops import loops
from ..training.workbench import Workbench
from .console import Console

if TYPE_CHECKING:
    from fasttrain_kernels.numba_runtime.ahead import Loop


def compile_ahead(workbench: Workbench, options: RunOptions, console: Console) -> None:
    """Compile the loops of a workbench that are not kept yet, on this machine.

    One that fails is named, and compiled again by what needs it, which says why.
    """
    if options.engine != "local":
        # Its nodes compile for themselves.
        return
    missing = [loop for loop in loops(workbench) if not loop.is_kept()]
    if not missing:
        return
    names = ", ".join(loop.name for loop in missing)
    processes = min(options.processes or usable_cpus(), len(missing))
    where = f" in {processes} processes" if processes > 1 else ""
    how: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False}
    console.print(f"compiling for this machine, once{where}: {names} ...", end="", **how)
    started = time.monotonic()
    try:
        with phase("compiling"):
            failed = _compile(missing, processes)
    except BaseException:
        console.print()
        raise
    console.print("" if failed else f" {time.monotonic() - started:.1f} s", **how)
    for name, why in failed.items():
        console.print(f"{name} not compiled ahead ({why})", **how)


def _compile(missing: "Sequence[Loop]", processes: int) -> dict[str, str]:
    """Compile each in a process of its own, so many at once; or all here.

    Returns:
        what became of those that failed, by their names.
    """
    if processes == 1:
        return _compile_here(missing)
    start_server()
    waiting = list(missing)
    running: dict[Any, BaseProcess] = {}
    failed = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                loop = waiting.pop(0)
                process = context().Process(target=_work, args=(loop,), name=loop.name, daemon=True)
                with hidden_program():
                    process.start()
                running[process.sentinel] = process
            for end in wait(list(running)):
                process = running.pop(end)
                process.join()
                if code := process.exitcode:
                    failed[process.name] = f"signal {-code}" if code < 0 else f"exit {code}"
        return failed
    finally:
        # A program that is stopped does not wait for what nobody will use.
        for process in running.values():
            process.kill()
            process.join()


def _compile_here(missing: "Sequence[Loop]") -> dict[str, str]:
    failed = {}
    for loop in missing:
        try:
            loop.compile()
        except Exception as error:
            failed[loop.name] = type(error).__name__
    return failed


def _work(loop: "Loop") -> None:
    die_with_driver()
    try:
        loop.compile()
    except (Exception, KeyboardInterrupt):
        # Its traceback would be in the middle of the driver's line.
        sys.exit(1)
