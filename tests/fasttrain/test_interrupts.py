"""An interrupt that strikes where no exception can pass is raised again."""

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
