"""The store under faults: every one is a line that names the file, and nothing is half-written."""

import errno
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import filelock
import pytest
import torch

from fasttrain.errors import EnvironmentProblem
from fasttrain.machine.files import write_all_atomically, write_atomically
from fasttrain.store.store import Result, Store

from .stored import begin, finish, pretraining

ID = pretraining().id


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store.open(tmp_path / "store", create=True)
    assert finish(made, pretraining()) == ID
    return made


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_finished_stage_reads_back(store):
    assert store.stages() == [ID]
    assert store.read(ID, "state.safetensors") == b"weights"
    assert store.state(ID) == "done"
    assert store.state("b" * 16) == "todo"
    assert store.summary("b" * 16) is None


def test_cleaning_drops_what_a_killed_process_left(store):
    (store.path / ID / ".metrics.parquet.1234.tmp").write_bytes(b"half")
    store.checkpoints.save("pack", {ID: {"series": torch.zeros(1, 5)}})
    store.clean()
    assert not list(store.path.glob("**/.*.tmp"))
    assert not list((store.path / "checkpoints").iterdir())
    assert store.read(ID, "state.safetensors") == b"weights"


def damage(name: str):
    """A way to spoil the finished stage, and what must be said of it."""

    def missing(folder: Path) -> None:
        (folder / "state.safetensors").unlink()

    def truncated(folder: Path) -> None:
        (folder / "state.safetensors").write_bytes(b"weig")

    def flipped(folder: Path) -> None:
        (folder / "state.safetensors").write_bytes(b"weightz")

    def no_json(folder: Path) -> None:
        (folder / "done.json").write_text("{")

    def other_json(folder: Path) -> None:
        (folder / "done.json").write_text("[1]")

    def empty_json(folder: Path) -> None:
        (folder / "done.json").write_text("{}")

    def edited(folder: Path) -> None:
        done = folder / "done.json"
        done.write_text(done.read_text().replace('"done"', '"at-chance"'))

    return locals()[name]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("missing", "state.safetensors", "is missing"),
        ("truncated", "state.safetensors", "has 4 bytes instead of 7"),
        ("flipped", "state.safetensors", "does not match its sha256"),
        ("no_json", "done.json", "is not valid JSON"),
        ("other_json", "done.json", "is not a JSON object"),
        ("empty_json", "done.json", "does not match its sha256"),
        ("edited", "done.json", "does not match its sha256"),
    ],
)
def test_a_damaged_stage_is_named_with_its_remedy(store, name, file, message):
    folder = store.path / ID
    damage(name)(folder)
    with pytest.raises(EnvironmentProblem) as error:
        store.read(ID, "state.safetensors")
    text = one_line(error)
    assert f"{folder / file}: {message}" in text
    assert f"delete {folder}" in text


def test_what_is_not_a_store_is_refused(tmp_path, store):
    with pytest.raises(EnvironmentProblem, match="no such store"):
        Store.open(tmp_path / "none", create=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(EnvironmentProblem, match="is not a fasttrain store"):
        Store.open(tmp_path / "other", create=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="is not a fasttrain store"):
        Store.open(tmp_path / "file", create=True)
    with pytest.raises(EnvironmentProblem, match="cannot be made: .* is no directory"):
        Store.open(tmp_path / "file" / "store", create=True)
    (store.path / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(EnvironmentProblem, match="store of format 99, and this version reads"):
        Store.open(store.path, create=True)


def test_a_store_whose_making_was_killed_is_made(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".store.json.123.tmp").touch()
    (tmp_path / "store" / ".lock").touch()
    assert Store.open(tmp_path / "store", create=True).stages() == []


def test_processes_may_make_the_same_store_at_once(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        for number in range(20):
            assert list(pool.map(make_store, [tmp_path / f"store{number}"] * 3)) == [None] * 3


def make_store(path: Path) -> None:
    begin(Store.open(path, create=True), pretraining())


@pytest.mark.parametrize("name", ["stage.json", "done.json"])
def test_a_damaged_json_file_is_one_line_for_every_command(fasttrain, tiny, tmp_path, name):
    assert fasttrain("sweep", tiny, "--quiet", "--k", "none", "--plr", "0.1").code == 0
    store = tmp_path / "runs" / "tiny"
    (next(store.glob(f"*/{name}"))).write_text("{}")
    for command in (["report", store], ["sweep", tiny, "--k", "none", "--plr", "0.1"]):
        outcome = fasttrain(*command)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1 and f"{name}: " in outcome.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, code):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem) as error:
        write_atomically(path, b"new")
    assert one_line(error) == f"{path}: cannot be written: {os.strerror(code)}"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_of_files_written_together_a_fault_leaves_whole_ones_and_no_other(
    tmp_path, monkeypatch, nth
):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        write_atomically(path, b"old")
    fsync, replace, calls = os.fsync, Path.replace, 0

    def full(*arguments):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return (replace if isinstance(arguments[0], Path) else fsync)(*arguments)

    # Three flushes, in any order, then three names.
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EnvironmentProblem) as error:
        write_all_atomically((path, b"new") for path in paths)
    assert one_line(error) in [f"{p}: cannot be written: No space left on device" for p in paths]
    assert sorted(tmp_path.iterdir()) == paths
    num_new = max(0, nth - 4)
    assert [path.read_bytes() for path in paths] == [b"new"] * num_new + [b"old"] * (3 - num_new)


def test_a_done_json_is_named_when_all_results_of_its_pack_are_on_disk(tmp_path, monkeypatch):
    """As the operating system sees it: what a power cut leaves."""
    fsync, replace, events = os.fsync, Path.replace, []

    def flushed(descriptor: int) -> None:
        fsync(descriptor)
        events.append(os.fstat(descriptor).st_ino)

    def named(path: Path, target: Path) -> None:
        events.append((target.parent.name, target.name, path.stat().st_ino))
        replace(path, target)

    store = Store.open(tmp_path / "store", create=True)
    stages = [f"{i:016x}" for i in range(3)]
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", named)
    store.begin_all({stage: {} for stage in stages})
    store.finish_all(Result(stage, {"a": b"a", "b": b"b"}, {}) for stage in stages)
    places = {event[:2]: i for i, event in enumerate(events) if isinstance(event, tuple)}
    first = min(places[stage, "done.json"] for stage in stages)
    for stage in stages:
        assert all(places[stage, name] < first for name in ("stage.json", "a", "b"))
        # The names of the results are on disk too.
        named_at = max(places[stage, name] for name in ("a", "b"))
        assert (store.path / stage).stat().st_ino in events[named_at:first]
    for i, event in enumerate(events):
        if isinstance(event, tuple):
            assert event[2] in events[:i], f"{event} was named before it was on disk"
    assert store.stages() == stages


def test_a_full_disk_stops_the_sweep_and_it_resumes(fasttrain, tiny, tmp_path, monkeypatch):
    fsync, calls = os.fsync, 0

    def full_after_a_while(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_a_while)
        outcome = fasttrain("sweep", tiny, "--quiet")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "No space left on device" in outcome.err
    assert not list(tmp_path.rglob("*.tmp"))
    assert fasttrain("sweep", tiny, "--quiet").code == 0


def test_a_store_in_use_is_refused(fasttrain, tiny, tmp_path):
    store = Store.open(tmp_path / "runs" / "tiny", create=True)
    with filelock.FileLock(store.path / ".lock"):
        outcome = fasttrain("sweep", tiny)
    assert outcome.code == 1
    assert outcome.err == (
        "fasttrain: runs/tiny: in use by another fasttrain process; wait, or use another --store\n"
    )
    assert store.stages() == []


def test_a_sweep_refuses_a_damaged_parent_and_reports_need_their_files(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--quiet", "--k", "none").code == 0
    store = tmp_path / "runs" / "tiny"
    pretrained = {
        path.parent
        for path in store.glob("*/stage.json")
        if json.loads(path.read_text())["kind"] == "pretrain"
    }
    for folder in pretrained:
        state = folder / "state.safetensors"
        content = bytearray(state.read_bytes())
        content[-1] ^= 1
        state.write_bytes(bytes(content))
    before = {path.name for path in store.iterdir()}
    outcome = fasttrain("sweep", tiny, "--quiet", "--flr", "1e-3", "--k", "none")
    assert outcome.code == 1
    assert "state.safetensors: does not match its sha256" in outcome.err
    assert outcome.err.count("\n") == 1
    unfinished = {path.name for path in store.iterdir()} - before
    assert not any((store / name / "done.json").exists() for name in unfinished)
    for folder in pretrained:
        shutil.rmtree(folder)
    assert fasttrain("sweep", tiny, "--quiet", "--flr", "1e-3", "--k", "none").code == 0
    (next(store.glob("*/metrics.parquet"))).unlink()
    outcome = fasttrain("report", store)
    assert outcome.code == 1
    assert "metrics.parquet: is missing" in outcome.err
