"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where no exception can pass,
in a finaliser or in a function called back from C (compilers of kernels are full of both), it is
printed and dropped, and the program goes on as if nobody had asked it to stop.
"""

import signal
import sys

AGAIN_S = 0.01
"""seconds until a dropped interrupt is raised again, by then somewhere else"""


def keep() -> None:
    """From now on raise an interrupt again until it is not dropped. Once, in the main thread."""
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            report(unraisable)

    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = hook


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
