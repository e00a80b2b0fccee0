"""A report while the store grows: it follows every change, and lists what is not finished."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fasttrain.analysis.records import Analysis, save
from fasttrain.report import build as rebuilding
from fasttrain.store import setups
from fasttrain.store.checkpoints import Checkpoints
from fasttrain.store.store import FAILURE, Store

from .pages import decreed  # noqa: F401

pytestmark = pytest.mark.usefixtures("decreed")


@pytest.fixture
def store(fasttrain, tiny) -> Store:
    assert fasttrain("sweep", tiny, "--store", "grid", "--quiet", "--plr", "1e-2").code == 0
    return Store.open(tiny.parent / "grid", create=False)


def _rename_done(store: Store, stage: str) -> None:
    """As if the stage were still running."""
    (store.path / stage / "done.json").rename(store.path / f"{stage}.done")


def _finish_again(store: Store, stage: str) -> None:
    (store.path / f"{stage}.done").rename(store.path / stage / "done.json")


def _page(store: Store) -> str:
    return (store.path / "report" / "report.html").read_text(encoding="utf-8")


def test_every_cell_has_a_command_that_finds_its_stages_finished(store, fasttrain, tiny):
    (text,) = re.findall(r'type="application/json">(.*?)</script>', _page(store), re.DOTALL)
    data = json.loads(text)
    before = store.stages()
    for row in data["rows"]:
        before_rates, after = data["commands"][0]
        program, *arguments = f"{before_rates}{data['plrs'][0]}{row['given']}{after}".split()
        assert program == "fasttrain" and fasttrain(*arguments, "--quiet").code == 0
    assert store.stages() == before


def test_what_is_not_finished_is_listed(store):
    first, second, third = store.stages()[:3]
    about = json.loads((store.path / first / "stage.json").read_bytes())
    for stage in (first, second):
        _rename_done(store, stage)
    store.fail(second, "no memory <b>")
    store.fail("0" * 16, "no disk")
    rows = {label: (epochs, state) for label, epochs, state in rebuilding.unfinished(store)}
    assert len(rows) == 3 and rows[f"stage {'0' * 16}"] == ("–", "failed: no disk")
    rates = [f"{name} {about[name]:g}" for name in ("plr", "flr", "k") if about[name] is not None]
    label = " ".join([about["kind"], *rates, "seed 0"])
    assert label in rows
    rebuilding.rebuild(store)
    page = _page(store)
    assert label in page and "failed: no memory &lt;b&gt;" in page
    assert "3 stages begun and not finished" in page


def test_a_stage_that_moves_on_while_it_is_listed(store, monkeypatch):
    """Its checkpoint is replaced, its failure is withdrawn, by a sweep that goes on meanwhile."""
    stage = store.stages()[0]
    _rename_done(store, stage)
    store.checkpoints.save("pack", {stage: {"series": torch.zeros(1, 2)}})
    store.fail(stage, "no memory")
    look = Checkpoints.epochs

    def meanwhile(self, stage):
        found = look(self, stage)
        store.checkpoints.save("pack", {stage: {"series": torch.zeros(2, 2)}})
        store.tidy(stage)
        return found

    monkeypatch.setattr(Checkpoints, "epochs", meanwhile)
    exists, failure = Path.exists, store.path / stage / FAILURE
    monkeypatch.setattr(Path, "exists", lambda path: path == failure or exists(path))
    [(_, epochs, state)] = rebuilding.unfinished(store)
    assert epochs.startswith("1 of ") and state == "begun"


def test_a_set_up_whose_first_stage_finishes_meanwhile_waits_for_the_next_rebuild(
    store, monkeypatch
):
    for stage in store.stages():
        _rename_done(store, stage)
    look, looks = rebuilding.finished, []

    def meanwhile(path):
        looks.append(path)
        found = look(path)
        if len(looks) == 1:
            for renamed in store.path.glob("*.done"):
                _finish_again(store, renamed.stem)
        return found

    monkeypatch.setattr(rebuilding, "finished", meanwhile)
    monkeypatch.setattr(setups, "finished", meanwhile)
    assert setups.load_setups(store.path).stages.empty
    rebuilding.rebuild(store)
    assert len(looks) == 2 and f"All {len(store.stages())} stages" in _page(store)


def test_an_empty_store_that_is_watched_has_a_page(tmp_path, monkeypatch, capsys):
    store = Store.open(tmp_path / "empty", create=True)

    def sleep(seconds: float) -> None:
        assert "No stage has finished yet" in _page(store)
        raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    assert rebuilding.watch(store.path, 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_to_reproduce_a_page_the_analyses_are_made_again_too(store):
    assert "fasttrain analyse grid" not in _page(store)
    for kind, day in (("norms", 2), ("angles", 3), ("bands", 4)):
        command = f"fasttrain analyse grid{' --only norms' * (kind == 'norms')}"
        provenance = {"command": command, "date": f"2026-01-0{day}"}
        save(Analysis(kind, (), {}, 0, kind), {}, provenance, store)
    rebuilding.rebuild(store)
    commands = _page(store).split("To reproduce</h3>")[1].split("</pre>")[0].splitlines()
    assert "fasttrain sweep" in commands[-3]
    assert commands[-2:] == ["fasttrain analyse grid --only norms", "fasttrain analyse grid"]


def test_watching_rebuilds_on_changes_until_interrupted(store, monkeypatch, capsys):
    stage = store.stages()[-1]
    _rename_done(store, stage)
    looks = []

    def sleep(seconds: float) -> None:
        """Time passes: nothing, a stage finishes, nothing, a stage is damaged, Ctrl-C."""
        looks.append(seconds)
        if len(looks) == 2:
            assert 'http-equiv="refresh" content="3"' in _page(store)
            _finish_again(store, stage)
        elif len(looks) == 4:
            (store.path / stage / "done.json").write_text("{}")
        elif len(looks) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    with store.lock():
        # As while a sweep runs.
        assert rebuilding.watch(store.path, 2.5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert looks == [2.5] * 6 and len(lines) == 4
    count = len(store.stages())
    assert f"{count - 1} stages, rebuilt in" in lines[0] and f"{count} stages" in lines[1]
    # The damage is told, once on the change and once at the end, and stops nothing.
    assert all("does not match its sha256" in line for line in lines[2:])


def test_the_last_page_does_not_reload_itself(store, monkeypatch, capsys):
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    assert rebuilding.watch(store.path, 1) == 0
    assert 'http-equiv="refresh"' not in _page(store)


def test_watch_from_the_command_line(store, fasttrain, monkeypatch):
    monkeypatch.setattr(
        rebuilding.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    outcome = fasttrain("report", store.path, "--watch", "--interval", "0.5")
    assert outcome.code == 0 and len(outcome.out.splitlines()) == 2 and not outcome.err
    outcome = fasttrain("report", store.path, "--watch", "--interval", "0")
    assert outcome.code == 2 and "--interval 0: must be 0.1 to 86400 seconds" in outcome.err
    outcome = fasttrain("report", "nowhere", "--watch")
    assert outcome.code == 1 and "nowhere: no such store" in outcome.err


@pytest.mark.parametrize("linked", ["report", "report/figures"])
def test_a_report_is_not_written_through_a_link_out_of_the_store(store, fasttrain, linked):
    elsewhere = store.path.parent / "elsewhere"
    shutil.copytree(store.path / "report" / "figures", elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.iterdir()}
    shutil.rmtree(store.path / linked)
    (store.path / linked).symlink_to(elsewhere)
    outcome = fasttrain("report", store.path)
    assert outcome.code == 1
    assert outcome.err == (
        f"fasttrain: {store.path / linked}: is a symbolic link, which is not followed;"
        " delete the link and run again\n"
    )
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_a_file_that_is_a_link_is_replaced_and_not_written_through(store, fasttrain):
    mine = store.path.parent / "mine"
    mine.write_text("mine")
    for name in ("report.html", "results.csv", "figures/.written.json"):
        path = store.path / "report" / name
        path.unlink()
        if name != "figures/.written.json":
            path.symlink_to(mine)
    assert fasttrain("report", store.path).code == 0
    assert mine.read_text() == "mine" and not (store.path / "report" / "report.html").is_symlink()


def test_a_damaged_description_of_what_is_not_finished_is_named(store, fasttrain):
    stage = store.stages()[0]
    _rename_done(store, stage)
    (store.path / stage / "stage.json").write_text("{")
    outcome = fasttrain("report", store.path)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert f"{stage}/stage.json: is not valid JSON; delete {store.path / stage}" in outcome.err


def test_a_failure_that_is_not_utf8_is_shown(store):
    stage = store.stages()[0]
    _rename_done(store, stage)
    (store.path / stage / FAILURE).write_bytes(b"no memory \xff")
    assert [state for _, _, state in rebuilding.unfinished(store)] == ["failed: no memory \ufffd"]
    store.fail(stage, "no file a\udcff")
    assert [state for _, _, state in rebuilding.unfinished(store)] == ["failed: no file a\ufffd"]


def test_a_report_of_what_is_finished_waits_for_no_torch(fasttrain, tiny):
    assert fasttrain("sweep", tiny, "--store", "s", "--quiet").code == 0
    code = (
        "import sys; from fasttrain.cli.main import run; assert run(['report', 's']) == 0; "
        "assert not {'torch', 'numba', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
