"""What stops the program: Ctrl-C, `kill`, the end of a session. None of them can get lost.

SIGINT, SIGTERM and SIGHUP all raise `Stopped`, a KeyboardInterrupt, wherever the main thread
happens to be. Where no exception can pass, in a finaliser or in a function called back from C
(compilers of kernels are full of both), Python prints and drops it, and the program goes on as if
nobody had asked it to stop.
"""

import atexit
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn

STOPS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))
"""the signals that ask a program to stop"""
BURST_S = 1.0
"""seconds in which further signals belong to the first: `timeout` sends two, a group one each"""
AGAIN_S = 0.01
"""seconds until a dropped interrupt is raised again, by then somewhere else"""


_last: int = signal.SIGINT
"""the last signal that stopped this program: Ray raises another exception in the place of ours"""


class Stopped(KeyboardInterrupt):
    """The program was asked to stop, by the signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a program exits with that was stopped: 128 and the number of the signal."""
    return 128 + _number(stop)


def heeded() -> list[int]:
    """The stops that nobody told this program to ignore, as `nohup` does."""
    return [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]


def keep(stops: Iterable[int], burst_s: float = BURST_S) -> None:
    """From now on raise `Stopped` at these signals. Once, in the main thread.

    One that is dropped is raised again until it is not. Where there are no timers (Windows) it is
    not.

    Args:
        burst_s: seconds after one in which others are passed over.
    """
    last_s = -float("inf")

    def stop(number: int, _: object) -> None:
        global _last
        nonlocal last_s
        _last = number
        before, last_s = last_s, time.monotonic()
        if last_s - before >= burst_s:
            raise Stopped(number)
        last_s = before

    for number in stops:
        signal.signal(number, stop)
    if hasattr(signal, "setitimer"):
        _raise_dropped_ones_again()


def ignore(stops: Iterable[int]) -> None:
    """From now on these signals do nothing, nor does one of them that was dropped."""
    for number in stops:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


@contextlib.contextmanager
def passed_over() -> Iterator[None]:
    """Let no stop cut off what one has begun. None reaches another thread than the main one."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, signal.SIG_IGN) for n in STOPS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """Let a stop that comes meanwhile come afterwards. It reaches the main thread alone."""
    is_main = threading.current_thread() is threading.main_thread()
    came: list[int] = []
    before = {
        n: signal.signal(n, lambda number, _: came.append(number))
        for n in (STOPS if is_main else ())
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _raise_dropped_ones_again() -> None:
    report = sys.unraisablehook
    dropped = signal.SIGINT

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal dropped
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            dropped = signal.Signals(_number(unraisable.exc_value))
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            report(unraisable)

    def again(*_: object) -> NoReturn:
        raise Stopped(dropped)

    signal.signal(signal.SIGALRM, again)
    # At its end Python gives signals back their own meanings, and this one's is to kill.
    atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)
    sys.unraisablehook = hook


def _number(stop: KeyboardInterrupt) -> int:
    return stop.number if isinstance(stop, Stopped) else _last
