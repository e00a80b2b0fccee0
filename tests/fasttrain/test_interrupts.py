"""An interrupt that strikes where no exception can pass is raised again."""

import signal
import subprocess
import sys

PROGRAM = """
import ctypes, signal, threading
from fasttrain import interrupts

{keep}
signal.signal(signal.SIGINT, signal.default_int_handler)

class Finaliser:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

@ctypes.CFUNCTYPE(None)
def callback():
    signal.raise_signal(signal.SIGINT)

for drop in (Finaliser, callback):
    try:
        drop()
        threading.Event().wait({patience})
        print("lost")
    except KeyboardInterrupt:
        print("kept")

class Broken:
    def __del__(self):
        raise RuntimeError("as ever")

Broken()
"""

AT_THE_END = """
from fasttrain import interrupts

interrupts.keep()

class Finaliser:
    def __del__(self):
        raise KeyboardInterrupt

Finaliser()
"""


def lines(keep: str, patience: float) -> tuple[list[str], str]:
    program = PROGRAM.format(keep=keep, patience=patience)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split(), ended.stderr


def test_an_interrupt_dropped_by_a_finaliser_or_a_callback_is_raised_again():
    # Python by itself loses it, and says so.
    found, errors = lines("", 0.1)
    assert found == ["lost", "lost"] and errors.count("KeyboardInterrupt") == 2
    found, errors = lines("interrupts.keep()", 60)
    assert found == ["kept", "kept"] and "KeyboardInterrupt" not in errors
    assert "RuntimeError: as ever" in errors


def test_one_dropped_at_the_very_end_does_not_kill_the_program():
    ended = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True)
    # Raised again if there was time for it; not ended by the timer's signal.
    assert ended.returncode in (0, -signal.SIGINT)
