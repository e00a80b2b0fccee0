"""The doctor: finds damage that no command meets, broken references, and what a machine lacks."""

import shutil
import sys

import pandas as pd
import pytest

from fasttrain.analysis.records import Analysis, choose, save
from fasttrain.doctor import machine, stores
from fasttrain.machine.files import sha256_hex
from fasttrain.store.pack_records import PackRecords
from fasttrain.store.store import Store

from .stored import finetuning, finish, pretraining

PARENT = pretraining()
CHILD = finetuning(PARENT)


@pytest.fixture
def store(tmp_path) -> Store:
    """A run, what was trained from it, and an analysis of that."""
    made = Store.open(tmp_path / "store", create=True)
    finish(made, PARENT)
    finish(made, CHILD, built_on={PARENT.id: sha256_hex(b"weights")})
    save(ANALYSIS, {"norms": pd.DataFrame({"a": [1]})}, {}, made)
    choose({"x": {"norms": [ANALYSIS]}}, made)
    return made


ANALYSIS = Analysis("norms", (CHILD.id,), {}, 0, "norms")


def findings(store: Store) -> list[str]:
    return stores.examine(store.path).findings


def test_a_sound_store_is_sound(store, fasttrain):
    outcome = fasttrain("doctor", store.path)
    assert outcome.code == 0 and not outcome.err
    assert "sound; 2 stages, 0 checkpoints, 0 packs, 1 analyses, 0 figures' files" in outcome.out


def test_damage_of_the_same_size_is_found_though_nothing_reads_the_file(store, fasttrain):
    for stage in (PARENT, CHILD):
        (store.path / stage.id / "state.safetensors").write_bytes(b"weightz")
    parquet = store.analyses.path / ANALYSIS.id / "norms.parquet"
    content = bytearray(parquet.read_bytes())
    content[len(content) // 2] ^= 1
    parquet.write_bytes(content)
    outcome = fasttrain("doctor", store.path)
    lines = [line for line in outcome.out.splitlines() if line.startswith("finding: ")]
    assert outcome.code == 1 and len(lines) == 3
    assert all("does not match its sha256; delete" in line for line in lines)
    assert "run fasttrain analyse" in lines[2] and "run the sweep again" in lines[0]


def test_a_parent_that_is_gone_is_a_finding(store):
    shutil.rmtree(store.path / PARENT.id)
    [finding] = findings(store)
    assert f"{CHILD.id}: started from {store.path / PARENT.id}, which is not there" in finding


def test_a_parent_that_was_trained_again_to_another_state_is_a_finding(store):
    finish(store, PARENT, b"others!")
    [finding] = findings(store)
    assert f"{CHILD.id}: started from another state of {store.path / PARENT.id}" in finding
    assert "run the sweep again, which trains it again" in finding


def test_a_stage_that_says_another_thing_of_its_set_up_than_its_parent_is_a_finding(store):
    about = store.description(CHILD.id)
    about["setup"]["network"]["width"] = 3
    store.begin(CHILD.id, about)
    done = {"state": "done", "stopped": False, "epoch": 5, "result": {}, "time_s": 1.0}
    done["built_on"] = {}
    store.finish(CHILD.id, {}, done | {"provenance": {}})
    [finding] = findings(store)
    assert "differs from its parent" in finding and "in setup" in finding


def test_analyses_of_what_is_gone_and_lists_of_them_are_findings(store):
    shutil.rmtree(store.path / CHILD.id)
    assert [ANALYSIS.id in finding for finding in findings(store)] == [True]
    shutil.rmtree(store.analyses.path / ANALYSIS.id)
    [finding] = findings(store)
    assert "1 of the analyses that reports draw from are missing" in finding


def test_damaged_checkpoints_packs_and_figures_are_findings(store):
    PackRecords(store).write([PARENT], 0)
    (store.path / "packs" / "x.json").write_text("{}")
    (store.path / "checkpoints").mkdir()
    (store.path / "checkpoints" / "a-b.safetensors").write_bytes(b"half")
    (store.path / "report" / "figures").mkdir(parents=True)
    listing = store.path / "report" / "figures" / ".written.json"
    listing.write_text('{"files": {"x.png": "' + "0" * 64 + '"}}')
    assert [f.split(": ")[1].split(";")[0] for f in findings(store)] == [
        "does not match the digest in its name",
        "does not match its sha256",
        "is missing",
    ]


def test_what_is_no_stage_is_noted_and_no_finding(store, fasttrain):
    shutil.copytree(store.path / CHILD.id, store.path / f"{CHILD.id}.bak")
    (store.path / CHILD.id / "notes.txt").touch()
    outcome = fasttrain("doctor", store.path)
    assert outcome.code == 0
    assert f"note: {store.path / CHILD.id}.bak: its name is no stage id" in outcome.out
    assert "notes.txt: is not part of the stage" in outcome.out


def test_the_machine_is_told_on_one_screen(fasttrain):
    outcome = fasttrain("doctor")
    lines = outcome.out.splitlines()
    assert len(lines) <= 24 and not outcome.err
    for name in (*machine.NEEDED, "Python", "CPU", "threads", "GPUs", "FFCV", "disk"):
        assert any(line.startswith(name) for line in lines), name


def test_what_is_broken_is_told_in_its_place_and_the_rest_too(fasttrain, monkeypatch, tmp_path):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name in ("torchvision", "ffcv"):
                raise OSError("libsomething.so: cannot open\nshared object")

    for name in list(sys.modules):
        if name.split(".")[0] in ("torchvision", "ffcv"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(machine, "_threads", lambda: 1 / 0)
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTTRAIN_DATA", raising=False)
    outcome = fasttrain("doctor")
    faults = [line.split("FAULT: ") for line in outcome.out.splitlines() if "FAULT: " in line]
    assert outcome.code == 1 and not outcome.err and outcome.out.endswith("4 faults\n")
    assert [name.strip() for name, _ in faults] == [
        "torchvision", "threads", "data sets", "measurements",
    ]  # fmt: skip
    assert "libsomething.so: cannot open shared object" in faults[0][1]
    assert "not needed" in outcome.out and "set XDG_CACHE_HOME" in faults[2][1]
