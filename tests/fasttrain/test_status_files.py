"""Plan and report only inform: damaged, of odd names or unwritable, they stop nobody."""

import json
import os

import pytest

from fasttrain.store.status import PLAN, PROGRESS, read_plan
from fasttrain.store.store import Store

SWEEP = ("--store", "grid", "--quiet", "--processes", "1", "--pack", "8")


@pytest.fixture
def grid(tmp_path):
    return tmp_path / "grid"


ROW = {"kind": "pretrain", "plr": 0.1, "flr": None, "k": None, "seed": 0, "epochs": 3}
ROW |= {"setup": "0" * 16}
PLANNED = {"command": "c", "folder": "/", "stages": {"1" * 16: ROW}}
PLANNED |= {"accept_stopped": False, "more": False}
REPORT = {"format": 1, "command": "c", "pid": 1, "host": "h", "written": 0.0, "phase": "p"}
REPORT |= {"counts": True, "processes": 1, "more": False, "left_s": None, "packs": []}


def _damaged() -> list[tuple[str, bytes]]:
    """Files that are no report or plan, in every part of it."""
    contents = (b"", b"{", b"[]", b'{"format": 1}', b"[" * 10**5, b"\xff")
    rows = [(name, content) for name in (PLAN, PROGRESS) for content in contents]
    plans = [[PLANNED | {key: wrong}] for key in PLANNED for wrong in (None, 5, [1])]
    plans += [[PLANNED | {"stages": {"1" * 16: ROW | {key: "x"}}}] for key in ROW]
    plans += [[PLANNED | {"stages": {stage: ROW}}] for stage in ("../x", "a" * 5000, "\0")]
    plans += [[PLANNED | {"other": 1}], PLANNED, [5], None]
    rows += [(PLAN, json.dumps({"format": 1, "sweeps": sweeps}).encode()) for sweeps in plans]
    reports = [REPORT | {key: wrong} for key in REPORT for wrong in ({}, -1, 1e300, [1])]
    reports.append(REPORT | {"other": 1})
    return rows + [(PROGRESS, json.dumps(report).encode()) for report in reports]


def test_a_damaged_report_stops_nobody(grid, fasttrain):
    store = Store.open(grid, create=True)
    for name, content in _damaged():
        (grid / name).write_bytes(content)
        outcome = fasttrain("status", "grid")
        assert outcome.code == 0 and "plan unknown: 0 stages finished" in outcome.out, content
        with store.lock():
            outcome = fasttrain("status", "grid")
        says = "grid: running (a process holds the store and does not say more): 0 stages finished."
        assert outcome.out == f"{says}\n", content
        (grid / name).unlink()
    (grid / PLAN).write_text(json.dumps({"format": 1, "sweeps": [PLANNED]}))
    assert "0 of 1 stage finished" in fasttrain("status", "grid").out


def test_a_pipe_in_the_place_of_a_report_is_not_waited_for(grid, fasttrain):
    Store.open(grid, create=True)
    for name in (PLAN, PROGRESS):
        os.mkfifo(grid / name)
    assert "plan unknown: 0 stages finished" in fasttrain("status", "grid").out


def test_a_command_that_is_not_utf8_is_resumed_by_the_same_bytes(grid, fasttrain):
    Store.open(grid, create=True)
    command = os.fsdecode(b"fasttrain sweep \xff.toml")
    sweeps = [PLANNED | {"command": command}]
    (grid / PLAN).write_text(json.dumps({"format": 1, "sweeps": sweeps}))
    assert [planned.command for planned in read_plan(grid)] == [command]


def test_a_store_of_another_format_has_no_status(grid, fasttrain):
    Store.open(grid, create=True)
    (grid / "store.json").write_text('{"format": 2}')
    outcome = fasttrain("status", "grid")
    assert outcome.code == 1 and "grid: store of format 2, and this version reads" in outcome.err


def test_a_report_that_cannot_be_written_stops_no_sweep(fasttrain, tiny, grid):
    Store.open(grid, create=True)
    (grid / PROGRESS).mkdir()
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    assert "finished: 8 of 8" in fasttrain("status", "grid").out
    assert not list(grid.glob(".*.tmp"))
