"""The tests that need a GPU, file by file, in processes of their own; what has run stays done."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from .machine import ROOT, Size, origin
from .suite_log import LOG, TEST_S, UNTIL, begin, note, open_test, outcomes

WRAPPER = "test_triton_kernels.py"
"""starts the cases beside it as one, which are begun here themselves"""
END_S = 10.0
"""before the part has to be done no test begins"""
RAN = (0, 1, 5)
"""exit codes of pytest at the end of a file: all passed, some failed, none was left"""
SILENT_S = 60.0
"""within which a process that imports, collects or ends has to begin or end a test, or be gone"""
DONE = "done"
"""outcome of a file all of whose tests have ended"""


def files() -> list[Path]:
    """The files of tests that run on a GPU."""
    kernels = ROOT / "tests/kernels"
    marked = (p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text())
    return [
        *sorted({kernels / "triton_cases.py", *kernels.glob("*_triton_cases.py")}),
        *(path for path in marked if path.name != WRAPPER),
    ]


def suite(size: Size, device: torch.device, folder: Path) -> dict[str, Any]:
    """How the tests have ended; the dry run only collects them.

    Raises:
        RuntimeError: time does not suffice for what is left; the next call goes on with it.
    """
    log = (folder / "suite.jsonl").resolve()
    if not size.tiny:
        begin(log, origin(device))
    for path in files():
        if outcomes(log).get(str(path)) != DONE:
            _collect(path, log) if size.tiny else _run(path, size.until - END_S, log)
    found = {test: how for test, how in outcomes(log).items() if how != DONE}
    failed = {test: how for test, how in found.items() if how not in ("passed", "skipped")}
    counts = Counter("failed" if test in failed else how for test, how in found.items())
    return {"files": len(files()), **counts, "failures": [f"{t}: {h}" for t, h in failed.items()]}


def _run(path: Path, until: float, log: Path) -> None:
    """Tests of a file until all have ended, in another process after one that has died."""
    while time.monotonic() < until:
        before, lines = outcomes(log), _lines(log)
        try:
            done = _pytest(path, until, log)
        except subprocess.TimeoutExpired:
            note(log, str(path), f"it hung for {SILENT_S:g} s, in no test")
            return
        dead = open_test(log)
        if dead is not None and _lines(log) != lines:
            how = f"its process ended with {done.returncode}, or it took more than {TEST_S:g} s"
            note(log, dead, how)
        elif done.returncode in RAN:
            note(log, str(path), DONE)
            return
        elif outcomes(log) == before and time.monotonic() < until:
            note(log, str(path), f"exit code {done.returncode}: {_last_line(done)}")
            return
    count = sum(how != DONE for how in outcomes(log).values())
    raise RuntimeError(f"{count} tests have run, the same command goes on with the others")


def _lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def _collect(path: Path, log: Path) -> None:
    done = _pytest(path, time.monotonic(), log, "--collect-only")
    if done.returncode not in RAN:
        raise RuntimeError(f"{path}: exit code {done.returncode}: {_last_line(done)}")


def _pytest(path: Path, until: float, log: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run what is left of a file; a warning of another version of a library is no failure.

    Raises:
        subprocess.TimeoutExpired: it hung outside of tests; in one the plugin ends it.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "bench.gpu.suite_log",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-o", "filterwarnings=default", *options, str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {LOG: str(log), UNTIL: str(until)}
    first, pipe = _lines(log), subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as program:
        while True:
            before = _lines(log)
            try:
                said = program.communicate(timeout=SILENT_S)
                return subprocess.CompletedProcess(command, program.returncode, *said)
            except subprocess.TimeoutExpired:
                # A test that was open at the beginning is one of an earlier process.
                if _lines(log) == before and (before == first or open_test(log) is None):
                    program.kill()
                    raise
            except BaseException:
                program.kill()
                raise


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stdout + done.stderr).strip().splitlines() or ["no word of why"])[-1]
