"""The GPU kit and time: what takes too long is stopped, what would be too late is not begun."""

import os
import select
import subprocess
import sys
import time

from bench.gpu import parts, run

from .conftest import moment
from .programs import ENVIRONMENT


def test_a_part_that_does_not_end_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    log, alive = tmp_path / "log", tmp_path / "alive"
    wait = subprocess.Popen.wait

    def wait_once_it_is_on(program, timeout=None):
        while timeout and log.read_text() != "on\n":
            moment()
        return wait(program, timeout)

    os.mkfifo(alive)
    # At its end once nobody has it open for writing any more.
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    endless = ["sh", "-c", f"(echo on >&3; sleep 97531; true) 3>&1 > {alive} & wait"]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", wait_once_it_is_on)
        assert run.ended(endless, dict(ENVIRONMENT), log, 0.1) is None
    assert log.read_text() == "on\n"
    assert select.select([reader], [], [], 600)[0] and os.read(reader, 1) == b""
    os.close(reader)
    assert run.ended([sys.executable, "-c", "exit(3)"], dict(ENVIRONMENT), log, 600.0) == 3


def test_a_part_has_to_be_done_when_it_is_stopped_however_long_it_took_to_start(
    tmp_path, monkeypatch
):
    stopped, done = [], []

    def ended(command, environment, log, limit_s):
        stopped.append(time.monotonic() + limit_s)
        return run.main(command[3:])

    def carry_out(name, size, device, folder, before):
        done.append(size.until)
        return {}

    monkeypatch.setattr(run, "ended", ended)
    monkeypatch.setattr(parts, "carry_out", carry_out)
    begun = time.monotonic()
    assert run.main(["--dry-run", "--out", str(tmp_path), "--parts", "environment"]) == 0
    assert begun < done[0] <= stopped[0]
