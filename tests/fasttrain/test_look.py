"""A second look at a store reads nothing that has not changed, and everything that has."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fasttrain.errors import EnvironmentProblem
from fasttrain.store import json_files, look
from fasttrain.store.look import RECORD, Look
from fasttrain.store.store import Store

from .conftest import moment
from .simulated import simulate, write_study


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    """A finished store of four stages that has been looked at."""
    # Files of this moment are relied on here, whatever clock their times are of.
    monkeypatch.setattr(look, "SETTLED_S", -3600.0)
    simulate(write_study(tmp_path / "grid.toml", 1, 3, 1), tmp_path / "store")
    opened = Store.open(tmp_path / "store", create=False)
    _look(opened)
    _until_times_differ(opened.path)
    return opened


def _until_times_differ(folder: Path) -> None:
    """What is written from now on has another time: some clocks of files go in milliseconds."""
    latest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    probe = folder.parent / "probe"
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > latest:
            return
        moment()


@pytest.fixture
def reads(store, monkeypatch):
    """How often each file of a stage is read as JSON, after the first look."""
    read, counts = json_files.parse_json, Counter[str]()

    def counted(path, *rest, **options):
        if path.parent.name in store.stages():
            counts[path.parent.name] += 1
        return read(path, *rest, **options)

    for module in ("json_files", "entries"):
        monkeypatch.setattr(f"fasttrain.store.{module}.parse_json", counted)
    return counts


def _look(store: Store) -> dict[str, object]:
    looked = Look(store)
    found: dict[str, object] = {stage: looked.summary(stage) for stage in store.stages()}
    looked.keep()
    return found


def _in_place(path: Path, content: bytes) -> None:
    """Other content of the same size in the same file, with its time of before."""
    stat = path.stat()
    assert len(content) == stat.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _damaged(path: Path) -> bytes:
    content = path.read_bytes()
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def test_what_has_not_changed_is_not_read_again_and_says_the_same(store, reads):
    found = _look(store)
    assert not reads and len(found) == 4
    for stage, summary in found.items():
        entry = store.entry(stage)
        assert entry is not None and isinstance(summary, dict)
        files = {"state.safetensors": entry.done["files"]["state.safetensors"]}
        assert summary == {
            **{name: entry.done[name] for name in ("state", "stopped", "built_on")},
            "files": files,
        }


@pytest.mark.parametrize("name", ["done.json", "stage.json"])
def test_damage_is_named_even_if_size_and_time_are_as_before(store, name):
    path = store.path / store.stages()[0] / name
    _in_place(path, _damaged(path))
    with pytest.raises(EnvironmentProblem, match=str(path)):
        _look(store)


@pytest.mark.parametrize("change", ["gone", "longer", "exchanged", "another stage's"])
def test_files_beside_are_looked_after(store, change):
    first, second = (store.path / stage for stage in store.stages()[:2])
    state = first / "state.safetensors"
    if change == "gone":
        state.unlink()
    elif change == "longer":
        state.write_bytes(state.read_bytes() + b"x")
    elif change == "exchanged":
        first.rename(store.path / "x")
        second.rename(first)
        (store.path / "x").rename(second)
    else:
        os.link(second / "done.json", store.path / "x")
        (store.path / "x").replace(first / "done.json")
    with pytest.raises(EnvironmentProblem, match=str(first)):
        _look(store)


def test_only_what_was_written_again_is_read_again(store, reads):
    stage = store.stages()[2]
    metrics = store.path / stage / "metrics.parquet"
    _in_place(metrics, metrics.read_bytes())
    before = _look(store)
    assert reads == {stage: 2}
    assert _look(store) == before and reads == {stage: 2}


def test_what_was_reopened_is_not_finished(store):
    stage = store.stages()[1]
    store.reopen(stage)
    assert Look(store).summary(stage) is None
    looked = Look(store)
    other = store.stages()[0]
    assert looked.summary(other) is not None
    looked.reopen(other)
    assert looked.summary(other) is None


def test_young_files_are_not_relied_on(store, reads, monkeypatch):
    (store.path / RECORD).unlink()
    monkeypatch.setattr(look, "SETTLED_S", 3600.0)
    _look(store)
    assert not (store.path / RECORD).exists()
    _look(store)
    assert set(reads.values()) == {4}


def test_what_another_version_has_found_is_read_again(store, reads, monkeypatch):
    monkeypatch.setattr(look, "program", lambda: "0" * 64)
    _look(store)
    assert set(reads.values()) == {2} and len(reads) == 4
    _look(store)
    assert set(reads.values()) == {2}


def test_stages_that_are_gone_are_forgotten(store):
    gone, *left = store.stages()
    shutil.rmtree(store.path / gone)
    _look(store)
    record = json.loads((store.path / RECORD).read_bytes())
    assert sorted(record["stages"]) == left


@pytest.mark.parametrize("content", [b"", b"{}", b'{"stages": {}}', None])
def test_without_a_record_everything_is_read(store, reads, content):
    path = store.path / RECORD
    path.write_bytes(_damaged(path) if content is None else content)
    _look(store)
    assert set(reads.values()) == {2} and len(reads) == 4
    _look(store)
    assert set(reads.values()) == {2}


def test_given_up_stages_are_finished_for_who_accepts_them(store):
    stage = store.stages()[0]
    entry = store.entry(stage)
    assert entry is not None
    folder = store.path / stage
    files = {n: (folder / n).read_bytes() for n in entry.done["files"] if n != "stage.json"}
    store.finish(stage, files, {**entry.done, "stopped": True})
    for _ in range(2):
        assert Look(store).summary(stage) is not None
        assert Look(Store(store.path, accept_stopped=False)).summary(stage) is None
        _look(store)
