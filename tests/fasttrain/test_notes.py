"""Notes on stages: for people, beside the results, also while a sweep holds the store."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

import fasttrain as package
from fasttrain.api.session import merge
from fasttrain.doctor.stores import examine
from fasttrain.report.build import rebuild
from fasttrain.store import notes
from fasttrain.store.store import Store

from .pages import decreed  # noqa: F401
from .stored import begin, finetuning, finish, pretraining

PARENT, OTHER = pretraining(), pretraining(seed=1)
CHILD = finetuning(PARENT)


@pytest.fixture
def store(tmp_path) -> Store:
    """Two finished stages, and one that was begun."""
    made = Store.open(tmp_path / "store", create=True)
    finish(made, PARENT)
    finish(made, CHILD)
    begin(made, OTHER)
    return made


def _texts(store: Store) -> dict[str, str]:
    return notes.texts(notes.read_notes(store.path))


def test_a_note_is_written_listed_replaced_and_removed(fasttrain, store):
    outcome = fasttrain("note", store.path, CHILD.id, "  seems <b>good</b>\nby far ")
    name = "finetune plr 0.1 flr 0.01 seed 0"
    assert (outcome.code, outcome.out) == (0, f"{CHILD.id} {name}: noted\n")
    listed = f"{CHILD.id} {name}: seems <b>good</b>\\nby far\n"
    assert fasttrain("note", store.path).out == listed
    assert fasttrain("note", store.path, CHILD.id[:9]).out == listed
    assert fasttrain("note", store.path, PARENT.id).out == ""
    # By its name too, however that is written.
    outcome = fasttrain("note", store.path, "finetune  PLR 1e-1 flr 0.010 seed 0", "or not")
    assert outcome.out.endswith(": noted\n  replaces: seems <b>good</b>\\nby far\n")
    fasttrain("note", store.path, "pretrain plr 0.1 seed 1", "runs")
    assert _texts(store) == {CHILD.id: "or not", OTHER.id: "runs"}
    assert fasttrain("note", store.path, CHILD.id, " ").out.endswith("  removed: or not\n")
    assert fasttrain("note", store.path, OTHER.id, "--delete").out.endswith("  removed: runs\n")
    assert _texts(store) == {} and not list((store.path / "notes").iterdir())


@pytest.mark.parametrize(
    "words, message",
    [
        (("finetune plr 0.1 flr 0.1 seed 0", "x"), "did you mean 'finetune plr 0.1 flr 0.01 seed"),
        (("", "x"), "'' is no stage of "),
        (("pretrain plr 0.1", "x"), " or 'pretrain plr 0.1 seed "),
        ((PARENT.id, "x" * 10_001), "the note has 10001 signs; allowed are 10000"),
        (("--delete",), "--delete takes a stage and no text"),
        ((PARENT.id, "x", "--delete"), "--delete takes a stage and no text"),
        ((PARENT.id, "x", "y"), "note: Unrecognized options: y"),
    ],
)
def test_mistakes_are_one_line(fasttrain, store, words, message):
    outcome = fasttrain("note", store.path, *words)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
    assert not (store.path / "notes").exists()


def test_a_beginning_of_several_ids_names_them(fasttrain, tmp_path):
    store = Store.open(tmp_path / "many", create=True)
    ids = sorted(finish(store, pretraining(seed)) for seed in range(17))
    # Seventeen ids cannot all begin differently.
    first = next(a[0] for a, b in zip(ids, ids[1:], strict=False) if a[0] == b[0])
    outcome = fasttrain("note", store.path, first, "x")
    same = [stage for stage in ids if stage[0] == first]
    assert outcome.code == 2 and f"'{first}' is {len(same)} stages" in outcome.err
    assert all(stage in outcome.err for stage in same[:5])


def test_it_stands_in_tables_and_changes_no_result(fasttrain, store):
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    fasttrain("note", store.path, CHILD.id, 'good, "or" bad\nwho knows')
    fasttrain("note", store.path, OTHER.id, "of a stage that is no row yet")
    table = package.load(store.path)
    assert table.set_index("stage")["note"].to_dict() == {
        PARENT.id: "",
        CHILD.id: 'good, "or" bad\nwho knows',
    }
    table.to_csv(store.path.parent / "t.csv", index=False)
    read = pd.read_csv(store.path.parent / "t.csv", keep_default_na=False)
    assert read["note"].to_list() == table["note"].to_list()
    assert package.Results(store.path).stages["note"].to_list() == table["note"].to_list()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_sweep_may_hold_the_store(fasttrain, store):
    with store.lock():
        assert fasttrain("note", store.path, CHILD.id, "meanwhile").code == 0
        # What a sweep tidies when it begins is no note that is being written.
        writing = store.path / "notes" / ".a.json.1.1.tmp"
        writing.write_bytes(b"")
        store.clean()
        assert writing.exists()
    assert _texts(store) == {CHILD.id: "meanwhile"}


def test_notes_of_several_writers_are_all_kept(store, monkeypatch):
    """Each has read what was there before any other has written."""
    with ThreadPoolExecutor(8) as threads:
        read = notes.read_notes
        monkeypatch.setattr(notes, "read_notes", lambda store: [])
        list(threads.map(lambda i: notes.write_note(store.path, CHILD.id, f"n{i}"), range(8)))
        monkeypatch.setattr(notes, "read_notes", read)
    assert sorted(_texts(store)[CHILD.id].split("\n")) == [f"n{i}" for i in range(8)]


def test_one_that_another_removes_meanwhile_is_no_fault(store, monkeypatch):
    notes.write_note(store.path, CHILD.id, "here")
    files = notes.note_files(store.path)
    monkeypatch.setattr(notes, "note_files", lambda _: [*files, files[0].with_name("gone.json")])
    assert _texts(store) == {CHILD.id: "here"}


def test_merging_loses_none(store, tmp_path):
    others = []
    for name in ("a", "b"):
        other = Store.open(tmp_path / name, create=True)
        finish(other, PARENT)
        notes.write_note(other.path, PARENT.id, f"says {name}")
        notes.write_note(other.path, CHILD.id, "all agree")
        others.append(other.path)
    notes.write_note(store.path, PARENT.id, "was there")
    merged = merge(store.path, others, "fasttrain merge")
    words = "0 stages, 0 analyses and 3 notes copied from 2 stores"
    assert words in merged.sentence(store.path)
    found = _texts(store)
    assert sorted(found[PARENT.id].split("\n")) == ["says a", "says b", "was there"]
    assert found[CHILD.id] == "all agree"
    again = merge(store.path, others, "fasttrain merge")
    assert again.num_notes == 0 and _texts(store) == found


def test_the_doctor_reads_every_note(fasttrain, store):
    notes.write_note(store.path, CHILD.id, "good")
    notes.write_note(store.path, "0" * 16, "of nothing")
    assert ", 2 notes; " in fasttrain("doctor", store.path).out
    found = examine(store.path)
    assert not found.findings and "belongs to a stage that is missing" in found.notes[0]
    path = next((store.path / "notes").glob(f"{CHILD.id}-*"))
    content = json.loads(path.read_bytes())
    for damage, words in (
        (path.read_bytes().replace(b"good", b"evil"), "does not match its sha256"),
        (json.dumps(content).encode()[:-3], "is not valid JSON"),
        (b"{}", "does not match its sha256"),
    ):
        path.write_bytes(damage)
        (finding,) = examine(store.path).findings
        assert words in finding and "delete it, and write the note again" in finding
        # Results are read whatever lies beside them.
        outcome = fasttrain("note", store.path)
        assert outcome.code == 0 and "good" not in outcome.out and "of nothing" in outcome.out
        assert not package.load(store.path)["note"].any()
    path.unlink()
    notes.write_note(store.path, PARENT.id, "moved")
    moved = next((store.path / "notes").glob(f"{PARENT.id}-*"))
    moved.rename(path)
    (finding,) = examine(store.path).findings
    assert f"holds the note of {moved.name}" in finding


def test_bytes_of_no_encoding_become_readable(store):
    text = os.fsencode("gr\u00fcn ").decode() + b"\xff".decode("utf-8", "surrogateescape")
    notes.write_note(store.path, CHILD.id, text)
    assert _texts(store) == {CHILD.id: "gr\u00fcn \ufffd"}


def test_it_waits_for_nothing_heavy(store):
    script = (
        "import sys; from fasttrain.cli.main import run; run(sys.argv[1:])\n"
        "print(*(name for name in ('torch', 'pandas') if name in sys.modules), 'end')"
    )
    command = [sys.executable, "-c", script, "note", str(store.path), CHILD.id, "quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert run.stdout.splitlines()[-1] == "end"


@pytest.mark.usefixtures("decreed")
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_shows_it_as_text(fasttrain, tiny, visit, width):
    assert fasttrain("sweep", tiny, "--store", "grid", "--quiet", "--plr", "1e-2").code == 0
    path = tiny.parent / "grid"
    page = visit((path / "report" / "report.html").as_uri(), width=width)
    assert "note" not in page.locator(".stages th").all_inner_texts()
    evil = "<img src=x onerror=alert(1)>\nsecond line </script>"
    outcome = fasttrain("note", path, "finetune plr 0.01 flr 0.01 seed 0", evil)
    assert outcome.code == 0
    rebuild(Store.open(Path(path), create=False))
    page.reload()
    assert page.locator(".stages th").last.text_content() == "note"
    page.locator(".heatmap td").first.click()
    panel = page.locator(".panel")
    assert panel.locator(".note").inner_text() == f"Note, seed 0: {evil}"
    assert panel.locator("tbody td:last-child").text_content().strip() == evil
    page.locator(".all-stages > summary").click()
    texts = page.locator(".stages td:last-child").all_inner_texts()
    noted = [text.strip() for text in texts if text.strip()]
    assert noted == [evil]
    assert page.evaluate("document.documentElement.scrollWidth") == width
