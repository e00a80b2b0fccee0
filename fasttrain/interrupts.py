"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where no exception can pass,
in a finaliser or in a function called back from C (compilers of kernels are full of both), it is
printed and dropped, and the program goes on as if nobody had asked it to stop.
"""

import atexit
import signal
import sys

AGAIN_S = 0.01
"""seconds until a dropped interrupt is raised again, by then somewhere else"""


def keep() -> None:
    """From now on raise an interrupt again until it is not dropped. Once, in the main thread.

    Where there are no timers (Windows) it stays as it was.
    """
    if not hasattr(signal, "setitimer"):
        return
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            report(unraisable)

    signal.signal(signal.SIGALRM, _interrupt)
    # At its end Python gives signals back their own meanings, and this one's is to kill.
    atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)
    sys.unraisablehook = hook


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
