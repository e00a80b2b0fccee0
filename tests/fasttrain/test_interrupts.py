"""An interrupt that strikes where no exception can pass is raised again."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, signal, threading
from fasttrain.machine import interrupts

{keep}

class Finaliser:
    def __del__(self):
        signal.raise_signal(signal.{name})

@ctypes.CFUNCTYPE(None)
def callback():
    signal.raise_signal(signal.{name})

try:
    {drop}()
    threading.Event().wait({patience})
    print("lost")
except KeyboardInterrupt as stop:
    print("kept", interrupts.exit_code(stop))

class Broken:
    def __del__(self):
        raise RuntimeError("as ever")

Broken()
"""
KEEP = "interrupts.keep(interrupts.heeded())"
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}

AT_THE_END = """
from fasttrain.machine import interrupts

interrupts.keep(interrupts.heeded())

class Finaliser:
    def __del__(self):
        raise KeyboardInterrupt

Finaliser()
"""


def ran(program: str, *before: str) -> tuple[str, str]:
    """What a program prints, with its errors."""
    command = [*before, sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip(), ended.stderr


@pytest.mark.parametrize("drop", ["Finaliser", "callback"])
def test_python_by_itself_loses_an_interrupt_and_says_so(drop):
    keep = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    out, errors = ran(PROGRAM.format(keep=keep, name="SIGINT", drop=drop, patience=0.1))
    assert out == "lost" and errors.count("KeyboardInterrupt") == 1


@pytest.mark.parametrize("drop", ["Finaliser", "callback"])
@pytest.mark.parametrize("name", CODES)
def test_a_signal_dropped_by_a_finaliser_or_a_callback_is_raised_again(name, drop):
    out, errors = ran(PROGRAM.format(keep=KEEP, name=name, drop=drop, patience=600))
    assert out == f"kept {CODES[name]}"
    assert "KeyboardInterrupt" not in errors and "Stopped" not in errors
    assert "RuntimeError: as ever" in errors


SEVERAL = """
import signal
from fasttrain.machine import interrupts

interrupts.keep(interrupts.heeded())
try:
    signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    for number in interrupts.STOPS:
        signal.raise_signal(number)
    print("written")
"""


def test_signals_that_come_with_the_first_do_not_cut_off_what_it_began():
    assert ran(SEVERAL) == ("written", "")


HANGUP = """
import signal
from fasttrain.machine import interrupts

interrupts.keep(interrupts.heeded())
signal.raise_signal(signal.SIGHUP)
print("on")
"""


def test_nohup_keeps_a_program_running():
    assert ran(HANGUP, "nohup")[0] == "on"


def test_one_dropped_at_the_very_end_does_not_kill_the_program():
    ended = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True)
    # Raised again if there was time for it; not ended by the timer's signal.
    assert ended.returncode in (0, -signal.SIGINT)


REPLACED = """
import signal
from fasttrain.machine import interrupts

interrupts.keep(interrupts.heeded())
try:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None
except KeyboardInterrupt as stop:
    print(interrupts.exit_code(stop))
"""


def test_a_stop_keeps_its_code_where_a_library_raises_another_exception_for_it():
    assert ran(REPLACED) == ("143", "")


PUT_OFF = """
import signal
from fasttrain.machine import interrupts

interrupts.keep(interrupts.heeded())
try:
    with interrupts.put_off():
        signal.raise_signal(signal.SIGTERM)
        print("whole")
    print("too far")
except KeyboardInterrupt as stop:
    print(interrupts.exit_code(stop))
"""


def test_a_stop_that_is_put_off_comes_when_the_work_is_whole():
    assert ran(PUT_OFF) == ("whole\n143", "")


LATE = """
import contextlib
import signal
from multiprocessing import Pipe
from fasttrain.execution.engines import local
from fasttrain.machine import interrupts


class Late(contextlib.suppress):
    def __exit__(self, *error):
        for number in (*interrupts.STOPS, signal.SIGALRM):
            signal.raise_signal(number)
        return super().__exit__(*error)


def no_workbench():
    raise RuntimeError("no room")


local.die_with_driver = lambda: None
local.contextlib.suppress = Late
here, there = Pipe()
local._work(there, no_workbench, 1, interrupts.STOPS, None)
print(here.recv())
"""


def test_a_stop_that_comes_while_a_worker_ends_leaves_no_traceback():
    told, errors = ran(LATE)
    assert told.endswith("a worker process could not start: RuntimeError: no room")
    assert "Traceback" not in errors
