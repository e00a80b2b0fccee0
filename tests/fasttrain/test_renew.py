"""A report is made again when something of it has changed, and not otherwise."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from fasttrain.analysis.records import Analysis, choose, save
from fasttrain.report import build as rebuilding
from fasttrain.report.renew import renew
from fasttrain.store import reported
from fasttrain.store.json_files import seal
from fasttrain.store.notes import write_note
from fasttrain.store.store import Store

from .pages import use_decreed
from .simulated import simulate, write_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished store with its report."""
    folder = tmp_path_factory.mktemp("made")
    study = write_study(folder / "grid.toml", 2, 2, 1)
    simulate(study, folder / "store")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_decreed(monkeypatch)
        assert renew(Store.open(folder / "store", create=False)).is_new
    return folder


@pytest.fixture
def store(made, tmp_path, monkeypatch) -> Store:
    """A copy of it with the same times."""
    use_decreed(monkeypatch)
    shutil.copytree(made, tmp_path / "made")
    return Store.open(tmp_path / "made" / "store", create=False)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_with_nothing_new_nothing_is_written(store, fasttrain):
    before = _times(store.path)
    outcome = fasttrain("report", store.path)
    assert outcome.out == f"{store.path}/report/report.html (nothing new)\n"
    assert _times(store.path) == before


def test_a_sweep_of_what_is_finished_makes_no_report(store, fasttrain):
    study = store.path.parent / "grid.toml"
    # The first one plans what was planned by another command.
    for words in ("report.html\n", "report.html (nothing new)\n"):
        outcome = fasttrain("sweep", study, "--store", store.path)
        assert outcome.code == 0 and outcome.out.endswith(words)


def test_another_study_file_of_its_commands_makes_a_report(store, fasttrain):
    """A cell's command on the page is made from it."""
    study = store.path.parent / "grid.toml"
    assert fasttrain("sweep", study, "--store", store.path).code == 0
    assert not renew(store).is_new
    study.write_text(study.read_text() + "# later\n")
    assert renew(store).is_new and not renew(store).is_new
    study.unlink()
    assert renew(store).is_new and not renew(store).is_new


def _first(store: Store) -> Path:
    return store.path / store.stages()[0]


def _analyse(store: Store) -> Analysis:
    made = Analysis("norms", (), {}, 0, "norms")
    save(made, {}, {"command": "fasttrain analyse x", "date": "2026-01-01"}, store)
    return made


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _spoil(path: Path) -> None:
    """Another byte, the size and time of before."""
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


CHANGES = {
    "page deleted": lambda store: (store.path / "report" / "report.html").unlink(),
    "page damaged": lambda store: _spoil(store.path / "report" / "report.html"),
    "page a link": lambda store: _linked(store.path / "report" / "report.html"),
    "table damaged": lambda store: _cut(store.path / "report" / "results.csv"),
    "figure deleted": lambda store: next((store.path / "report").glob("figures/*.svg")).unlink(),
    "figure damaged": lambda store: _spoil(next((store.path / "report").glob("figures/*.svg"))),
    "record deleted": lambda store: (store.path / "report" / ".made.json").unlink(),
    "record damaged": lambda store: _spoil(store.path / "report" / ".made.json"),
    "stage gone": lambda store: shutil.rmtree(_first(store)),
    "stage begun again": lambda store: store.reopen(store.stages()[-1]),
    "curves written again": lambda store: _touch(_first(store) / "metrics.parquet"),
    "failure": lambda store: store.fail("0" * 16, "no luck"),
    "checkpoint": lambda store: (
        store.checkpoints.folder.mkdir(),
        (store.checkpoints.folder / "x").touch(),
    ),
    "file of another kind": lambda store: (
        (store.path / "kind").mkdir(),
        (store.path / "kind" / "x").touch(),
    ),
    "analysis": _analyse,
    "note": lambda store: write_note(store.path, store.stages()[0], "odd"),
    "analysis chosen": lambda store: choose({"x": {"norms": []}}, store),
    "plan gone": lambda store: (store.path / "plan.json").unlink(),
    "driver killed": lambda store: (store.path / "progress.json").write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_makes_a_report(store, change):
    CHANGES[change](store)
    assert renew(store).is_new
    assert not renew(store).is_new


def test_a_stage_sealed_anew_makes_a_report(store):
    """Another done.json, of the same size and time."""
    done = _first(store) / "done.json"
    content = json.loads(done.read_bytes())
    before = done.stat()
    content.pop("sha256")
    done.write_bytes(seal({**content, "time_s": 2.0}))
    assert done.stat().st_size == before.st_size
    os.utime(done, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert renew(store).is_new


def test_a_store_that_is_in_use_is_told_of(store):
    other = Store.open(store.path, create=False)
    with other.lock():
        assert renew(store).is_new
        # Who holds it has done all else.
        assert renew(other).is_new
    assert not renew(store).is_new


def test_other_options_another_library_or_another_program_make_a_report(
    store, monkeypatch, tmp_path
):
    digest = reported.made_of(store, refresh_s=None)
    assert reported.is_current(store, digest)
    assert reported.made_of(store, refresh_s=5) != digest
    with monkeypatch.context() as patch:
        patch.setattr(reported, "version", lambda name: "0.0")
        assert renew(store).is_new
    package = tmp_path / "package"
    (package / "page").mkdir(parents=True)
    seen = set()
    for name in ("rules.py", "page/page.js", "page/page.css", "page/report.html.j2"):
        for text in ("0.01", "0.02"):
            (package / name).write_text(text)
            seen.add(reported.program(package))
    assert len(seen) == 8
    # The program is a part of the digest.
    monkeypatch.setattr(reported, "program", lambda: "another")
    assert reported.made_of(store, refresh_s=None) != digest


def test_what_finishes_while_a_report_is_made_is_in_the_next(store, monkeypatch):
    late, look = store.stages()[-1], rebuilding.finished
    done = store.path / late / "done.json"
    content = done.read_bytes()
    done.unlink()

    def meanwhile(path):
        found = look(path)
        done.write_bytes(content)
        return found

    monkeypatch.setattr(rebuilding, "finished", meanwhile)
    assert renew(store).is_new
    monkeypatch.setattr(rebuilding, "finished", look)
    assert renew(store).is_new and not renew(store).is_new


def test_two_reports_at_once_are_made_in_turn(store, monkeypatch):
    """A record is of the page that its own process has written."""
    write, others = rebuilding.write_pages, []
    made = []

    def meanwhile(*given, **options):
        [page] = pages = write(*given, **options)
        made.append(page.read_bytes())
        if not others:
            # Grown since the first one has read it.
            write_note(store.path, store.stages()[0], "later")
            others.append(threading.Thread(target=renew, args=(store,)))
            others[0].start()
            others[0].join(2)
            assert others[0].is_alive() and page.read_bytes() == made[0]
        return pages

    monkeypatch.setattr(rebuilding, "write_pages", meanwhile)
    (store.path / "report" / "report.html").unlink()
    assert renew(store).is_new
    others[0].join()
    assert len(made) == 2 and b"later" in made[1] and b"later" not in made[0]
    assert not renew(store).is_new


def test_what_another_has_made_meanwhile_is_not_made_again(store, monkeypatch, capfd):
    write, others, made = rebuilding.write_pages, [], []

    def meanwhile(*given, **options):
        made.append(given)
        others.append(threading.Thread(target=lambda: others.append(renew(store))))
        others[0].start()
        others[0].join(2)
        assert others[0].is_alive()
        return write(*given, **options)

    monkeypatch.setattr(rebuilding, "write_pages", meanwhile)
    (store.path / "report" / "report.html").unlink()
    assert renew(store).is_new
    others[0].join()
    assert len(made) == 1 and not others[1].is_new
    # Who waits says so.
    assert capfd.readouterr().err == (
        f"fasttrain: waiting for another process that makes the report of {store.path}\n"
    )


def test_where_a_store_stands_is_not_put_into_a_page_that_another_makes(store, monkeypatch):
    page = store.path / "report" / "report.html"
    before = page.read_bytes()
    monkeypatch.setattr(rebuilding, "page_status", lambda store: ["Runs."])
    with reported.being_made(store):
        rebuilding._tell_status(store)
        assert page.read_bytes() == before
    rebuilding._tell_status(store)
    assert b"<p>Runs.</p>" in page.read_bytes()


def test_a_lock_that_is_no_file_is_one_line(store, fasttrain):
    lock = store.path / "report" / ".lock"
    lock.unlink()
    lock.symlink_to(store.path / "elsewhere")
    (store.path / "report" / "report.html").unlink()
    outcome = fasttrain("report", store.path)
    assert outcome.code != 0 and str(lock) in outcome.err and "Traceback" not in outcome.err
    assert not (store.path / "elsewhere").exists()


def test_watching_leaves_a_report_that_is_current(store, monkeypatch):
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rebuilding.time, "sleep", sleep)
    assert rebuilding.watch(store.path, 1) == 0
    assert not renew(store).is_new
