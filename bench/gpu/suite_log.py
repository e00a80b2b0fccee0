"""A plugin of pytest: the tests of the kit's suite one by one in a file, each begun and each ended.

What the file has is not run again, so that a suite that was stopped goes on where it was. A test
that was cut off twice, though it had the time of a test, or that took its process along, is not
tried again. After an error of the device, which no later test of the process would survive, the
process ends; so it does when time is over, and where a test hangs.
"""

import contextlib
import faulthandler
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

LOG, UNTIL = "FASTTRAIN_SUITE_LOG", "FASTTRAIN_SUITE_UNTIL"
"""where the file is; by `time.monotonic` when no further test begins"""
TEST_S = 120.0
"""seconds after which a test is taken to hang"""
CUT_OFF = 2
"""times that a test is begun, with as many seconds, and not ended, by what stopped all of it"""
BROKEN = ("CUDA error", "HIP error", "device-side assert", "unspecified launch failure")
"""words of errors that a process does not recover from"""


_noted: set[str] = set()
_nowhere = Path(os.devnull).open("w")  # Open as long as the process: a watchdog writes to it.


def entries(log: Path) -> list[tuple[str, str | None, float]]:
    """Tests that have begun or ended, in order: which, how or None, the seconds that were left."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            # What was cut off may have left half a line.
            entry = json.loads(line)
            if isinstance(entry, list):
                found.append(tuple(entry))
    return found


def begin(log: Path, origin: dict[str, Any]) -> None:
    """Begin the file with what its tests are of, unless it is the file of the same."""
    first = json.dumps(origin)
    if not log.exists() or log.read_text().partition("\n")[0] != first:
        log.write_text(first)


def outcomes(log: Path) -> dict[str, str]:
    """Of every test that has ended how: "passed", "skipped", or why not."""
    found: dict[str, str] = {}
    begun: dict[str, int] = {}
    for test, outcome, left_s in entries(log):
        if outcome is not None:
            found[test] = outcome
        elif left_s >= TEST_S:
            begun[test] = begun.get(test, 0) + 1
    cut = {test for test, times in begun.items() if times >= CUT_OFF and test not in found}
    return found | dict.fromkeys(cut, f"cut off {CUT_OFF} times")


def open_test(log: Path) -> str | None:
    """The test that was begun last, if it has not ended."""
    last = entries(log)[-1:]
    return last[0][0] if last and last[0][1] is None else None


def note(log: Path, test: str, outcome: str | None, left_s: float = math.inf) -> None:
    """Append that a test has begun (None) or ended; a line of its own, whatever was cut off."""
    with log.open("a") as file:
        file.write("\n" + json.dumps([test, outcome, left_s]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what runs on a GPU and has not ended."""
    ended = outcomes(_log())
    wanted = [item for item in items if _needs_gpu(item) and item.nodeid not in ended]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Begin a test while any time is left; should it take `TEST_S`, the process ends.

    Should the time that is left be less and not suffice, it is tried again, as if it had not begun.
    """
    left_s = float(os.environ[UNTIL]) - time.monotonic()
    if left_s < 0:
        item.session.shouldstop = "no time is left"
        return True
    note(_log(), item.nodeid, None, left_s)
    faulthandler.dump_traceback_later(TEST_S, exit=True, file=_nowhere)
    return None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the end of a test: at its first phase that is not passed, or its last."""
    if report.nodeid in _noted or report.when != "teardown" and report.passed:
        return
    _noted.add(report.nodeid)
    text = report.longreprtext.strip() if report.failed else ""
    note(_log(), report.nodeid, text.splitlines()[-1] if text else report.outcome)


def pytest_runtest_logfinish() -> None:
    """It did not hang."""
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Let no further test begin on a device that answers no more."""
    if call.excinfo is not None and any(word in str(call.excinfo.value) for word in BROKEN):
        node.session.shouldstop = "the device answers no more"


def _needs_gpu(item: pytest.Item) -> bool:
    return item.path.name.endswith("_cases.py") or item.get_closest_marker("gpu") is not None


def _log() -> Path:
    return Path(os.environ[LOG])
