"""A store says what it was asked for and where it stands: running, killed, stopped, finished."""

import dataclasses
import html
import json
import os
import shlex
import subprocess
import sys

import pytest

from fasttrain.analysis.setups import all_setups
from fasttrain.execution import journal as journals
from fasttrain.report import build as rebuilding
from fasttrain.store.status import PLAN, PROGRESS, Planned, is_locked, merged, read, read_plan
from fasttrain.store.store import Store
from fasttrain.store.tables import load
from fasttrain.training import run_pack as stages

from .pages import decreed  # noqa: F401

SWEEP = ("--store", "grid", "--quiet", "--processes", "1", "--pack", "8")


@pytest.fixture
def grid(tmp_path):
    return tmp_path / "grid"


def _stop(monkeypatch, after: int) -> None:
    """Interrupt a sweep at the start of its pack of this number, from 0."""
    run, packs = stages.run_pack, []

    def stopped(pack, *rest):
        packs.append(pack)
        if len(packs) > after:
            raise KeyboardInterrupt
        run(pack, *rest)

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", stopped)


def _planned(command: str, ids: str, **changes) -> Planned:
    values = {"folder": "/", "stages": dict.fromkeys(ids, {}), "accept_stopped": False}
    return Planned(command=command, **(values | {"more": False} | changes))


def _names(plan) -> list[str]:
    return ["".join(sorted(planned.stages)) for planned in plan]


def test_a_plan_forgets_nothing_and_repeats_nothing():
    plan = merged([], _planned("a", "pq"))
    # Seeds are added: what it was before is inside.
    plan = merged(plan, _planned("b", "pqr"))
    assert _names(plan) == ["pqr"]
    # One cell of it is run by itself.
    assert _names(merged(plan, _planned("cell", "q"))) == ["pqr"]
    # Another grid, which shares some of it.
    plan = merged(plan, _planned("c", "rst"))
    assert _names(plan) == ["pqr", "rst"]
    # The same command means other stages: by another version, or from a file that has changed.
    assert _names(merged(plan, _planned("b", "xy"))) == ["rst", "xy"]
    assert _names(merged(plan, _planned("b", "xy", folder="/home"))) == ["pqr", "rst", "xy"]
    # A search that may go on is a plan even while all of it is in another one.
    assert _names(merged(plan, _planned("d", "p", more=True))) == ["pqr", "rst", "p"]


def test_a_finished_sweep_and_what_is_added_to_it(fasttrain, tiny, grid, tmp_path):
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    assert not (grid / PROGRESS).exists()
    outcome = fasttrain("status", "grid")
    assert (outcome.code, outcome.out) == (0, "grid: finished: 8 of 8 stages.\n")
    assert fasttrain("sweep", tiny, *SWEEP, "--seeds", "2").code == 0
    assert fasttrain("train", tiny, *SWEEP, "--plr", "1e-2").code == 0
    (planned,) = read_plan(grid)
    assert "--seeds 2" in planned.command and planned.folder == str(tmp_path)
    table = load(grid)
    assert planned.stages.keys() == set(table["stage"]) and len(table) == 16
    for row in table.to_dict("records"):
        about = planned.stages[row["stage"]]
        assert all(about[name] == row[name] for name in ("kind", "plr", "seed", "setup", "epochs"))


def test_an_interrupted_sweep_says_how_to_resume_it(fasttrain, tiny, grid, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        _stop(patch, after=1)
        assert fasttrain("sweep", tiny, *SWEEP).code == 130
    done = len(Store.open(grid, create=False).stages())
    assert 0 < done < 8 and not (grid / PROGRESS).exists()
    first, resume = fasttrain("status", "grid").out.splitlines()
    assert first == f"grid: not running. {done} of 8 stages finished."
    command = resume.removeprefix("  resume with: ")
    assert shlex.split(command) == ["fasttrain", "sweep", str(tiny), *SWEEP]
    # From elsewhere the command needs its folder.
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert f"resume with: cd {tmp_path} && fasttrain sweep" in fasttrain("status", grid).out
    monkeypatch.chdir(tmp_path)
    assert fasttrain(*shlex.split(command)[1:]).code == 0
    assert "finished: 8 of 8" in fasttrain("status", "grid").out


def test_failures_are_counted(fasttrain, tiny, grid, monkeypatch):
    def fail(pack, *rest):
        raise RuntimeError("no memory")

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", fail)
    assert fasttrain("sweep", tiny, *SWEEP).code == 1
    assert "0 of 8 stages finished, 2 failed." in fasttrain("status", "grid").out


def test_while_it_runs_the_plan_the_pack_and_the_time_left_are_told(
    fasttrain, tiny, grid, monkeypatch
):
    report, seen, shown = journals.Journal.report, [], []

    def look(self, view, at_once=False):
        report(self, view, True)
        assert is_locked(grid)
        seen.append(read(grid))
        shown.append(fasttrain("status", "grid").out)

    monkeypatch.setattr(journals.Journal, "report", look)
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    assert all(status.running and status.progress.pid == os.getpid() for status in seen)
    counts = [int(text.split("): ")[1].split(" of 8 stages finished")[0]) for text in shown]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 8
    assert any("about" in text and " left.\n" in text for text in shown)
    begun = "  1 of 1 processes at work: pretrain plr 0.01 seed 0 and 1 more, epoch "
    assert f"{begun}0 of 3.\n" in shown[0] and any(f"{begun}2 of 3.\n" in text for text in shown)
    assert shown[0].endswith(f"  command: fasttrain sweep {tiny} {' '.join(SWEEP)}\n")
    assert not is_locked(grid) and not read(grid).running


def test_a_driver_that_was_killed_is_told_from_one_that_was_stopped(
    fasttrain, tiny, grid, monkeypatch
):
    """Its report stays behind, and nobody holds the lock."""
    left = []
    exit_ = journals.Journal.__exit__

    def keep(self, *error):
        left.append((grid / PROGRESS).read_bytes())
        exit_(self, *error)

    with monkeypatch.context() as patch:
        patch.setattr(journals.Journal, "__exit__", keep)
        _stop(patch, after=1)
        assert fasttrain("sweep", tiny, *SWEEP).code == 130
    (grid / PROGRESS).write_bytes(left[0])
    text = fasttrain("status", "grid").out
    assert f"not running; process {os.getpid()} on " in text and " was killed. " in text
    assert "resume with: fasttrain sweep" in text
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    assert not (grid / PROGRESS).exists() and "finished: 8 of 8" in fasttrain("status", "grid").out


def test_given_up_stages_count_for_those_who_accept_them(fasttrain, tiny, grid):
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    content = json.loads((grid / PLAN).read_bytes())
    stage = Store.open(grid, create=False).stages()[0]
    done = json.loads((grid / stage / "done.json").read_bytes())
    (grid / stage / "done.json").write_text(json.dumps(done | {"stopped": True}))
    assert "7 of 8 stages finished" in fasttrain("status", "grid").out
    content["sweeps"][0]["accept_stopped"] = True
    (grid / PLAN).write_text(json.dumps(content))
    assert "finished: 8 of 8" in fasttrain("status", "grid").out


def test_what_is_no_store_is_one_line(fasttrain):
    outcome = fasttrain("status", "nowhere")
    assert (outcome.code, outcome.err) == (1, "fasttrain: nowhere: no such store\n")


def test_it_waits_for_no_heavy_import(grid):
    Store.open(grid, create=True)
    code = (
        "import sys; from fasttrain.cli.main import run; assert run(sys.argv[1:]) == 0; "
        "assert not {'torch', 'pandas', 'numba', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, "status", str(grid)], check=True)


@pytest.mark.usefixtures("decreed")
def test_the_page_says_where_the_store_stands_and_what_a_verdict_waits_for(
    fasttrain, tiny, grid, monkeypatch
):
    with monkeypatch.context() as patch:
        _stop(patch, after=1)
        assert fasttrain("sweep", tiny, *SWEEP).code == 130
    assert fasttrain("report", "grid").code == 0
    path = grid / "report" / "report.html"
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert "Not running. " in page and "Resume with: fasttrain sweep" in page
    assert "is not known yet: it waits for " in page and "averaging at PLR" in page
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert ". Finished: 8 of 8 stages.</p>" in page and "waits for" not in page


@pytest.mark.usefixtures("decreed")
def test_a_page_that_is_watched_tells_of_a_sweep_without_being_drawn_again(
    fasttrain, tiny, grid, monkeypatch, capsys
):
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    store, looks = Store.open(grid, create=False), []
    page = grid / "report" / "report.html"
    statuses = iter(["runs", "still runs", "ends", "ended"])
    idle = read(grid)
    about = {"format": 1, "command": "c", "pid": 1, "host": "h", "written": 0.0, "counts": False}
    about |= {"processes": 1, "more": False, "left_s": None, "packs": []}

    def now(path, *, running=None):
        phase = looks[-1] if looks else "runs"
        if phase in ("ends", "ended"):
            return idle
        progress = journals.Progress(**about, phase=phase)
        return dataclasses.replace(idle, running=True, progress=progress)

    def sleep(seconds):
        text = page.read_text(encoding="utf-8")
        looks.append(next(statuses))
        if looks[-1] == "still runs":
            assert "Running (process 1 on h): runs." in text
        if looks[-1] == "ends":
            assert "Running (process 1 on h): still runs." in text and "</html>" in text
        if looks[-1] == "ended":
            assert "Running" not in text and "Finished: 8 of 8" in text
            raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding, "read", now)
    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    assert rebuilding.watch(store.path, 1) == 0
    # At first, when it had ended, and when the watching did.
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_every_length_of_fine_tuning_has_its_part_of_the_plan(fasttrain, tiny, grid):
    assert fasttrain("sweep", tiny, *SWEEP).code == 0
    assert fasttrain("sweep", tiny, *SWEEP, "--finetune-epochs", "1", "--k", "2").code == 0
    grids = all_setups(grid)
    assert len(grids) == 2
    for part in grids:
        assert part.planned is not None
        assert set(part.planned["stage"]) == set(part.stages["stage"])
        assert part.configuration["num_test"] == 50
    (grid / PLAN).unlink()
    assert all(part.planned is None for part in all_setups(grid))
    assert "plan unknown: 10 stages finished" in fasttrain("status", "grid").out
