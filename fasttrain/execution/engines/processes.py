"""Worker processes: what they start from, and that they end with their driver."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any


@contextlib.contextmanager
def hidden_program() -> Iterator[None]:
    """Keep multiprocessing from running the program's own file again in the processes it starts.

    Workers need nothing of it, and a script that sweeps at its top level would sweep in each.
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
