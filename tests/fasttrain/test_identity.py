"""A stage's directory is the stage that its name says; results of another format are refused."""

import json
import shutil
from pathlib import Path

import pytest

import fasttrain as package
from fasttrain.errors import EnvironmentProblem
from fasttrain.store.json_files import seal
from fasttrain.store.store import Store

from .stored import ABOUT, SUMMARY, begin, finetuning, finish, pretraining


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def reseal(folder: Path, **changes: object) -> None:
    """Change done.json as if it had been written so."""
    done = json.loads((folder / "done.json").read_text())
    done = {name: value for name, value in (done | changes).items() if value is not None}
    done.pop("sha256")
    (folder / "done.json").write_bytes(seal(done))


def swap(one: Path, two: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    two.rename(one)
    between.rename(two)


def test_swapped_directories_stop_every_command_and_nothing_is_trained(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--quiet", "--flr", "1e-2", "--k", "none").code == 0
    store = tmp_path / "runs" / "tiny"
    one, two = (
        path.parent
        for path in sorted(store.glob("*/stage.json"))
        if json.loads(path.read_text())["kind"] == "pretrain"
    )
    swap(one, two)
    before = {path.name for path in store.iterdir()}
    wider = ("sweep", tiny, "--quiet", "--flr", "1e-2,1e-1", "--k", "none")
    for command in (wider, ("report", store), ("analyse", store)):
        outcome = fasttrain(*command)
        assert outcome.code == 1 and outcome.err.count("\n") == 1
        assert "holds what belongs into" in outcome.err and "exchange the two" in outcome.err
        assert one.name in outcome.err and two.name in outcome.err
    assert {path.name for path in store.iterdir()} == before
    swap(one, two)
    assert fasttrain(*wider).code == 0


def test_a_renamed_directory_names_the_one_it_was(store):
    stage = pretraining()
    finish(store, stage)
    other = "0" * 16
    (store.path / stage.id).rename(store.path / other)
    rename = f"{other}: holds what belongs into {store.path / stage.id}; rename it to"
    with pytest.raises(EnvironmentProblem, match=rename):
        store.summary(other)


def test_a_description_of_another_stage_is_found_though_every_digest_is_right(store):
    one, two = pretraining(0), pretraining(1)
    finish(store, one)
    store.begin(one.id, {**two.description(), **ABOUT})
    store.finish(one.id, {"state.safetensors": b"weights"}, SUMMARY)
    for look in (store.summary, store.description):
        with pytest.raises(EnvironmentProblem, match=f"{one.id}: holds .*{two.id}"):
            look(one.id)
    with pytest.raises(EnvironmentProblem, match=f"{one.id}: holds .*{two.id}"):
        store.read(one.id, "state.safetensors")


def test_a_done_json_of_another_stage_is_told_from_damage(store):
    one, two = pretraining(0), pretraining(1)
    finish(store, one)
    finish(store, two)
    shutil.copy(store.path / one.id / "done.json", store.path / two.id)
    with pytest.raises(EnvironmentProblem, match=f"{two.id}: holds what belongs into .*{one.id}"):
        store.summary(two.id)


def test_what_is_under_way_is_checked_too(store):
    stage = pretraining()
    store.begin(stage.id, {**finetuning(stage).description(), **ABOUT})
    with pytest.raises(EnvironmentProblem, match="holds what belongs into"):
        store.unfinished_description(stage.id)


def test_an_analysis_is_the_one_that_its_name_says(store):
    analyses = store.analyses
    about = {"kind": "norms", "stages": [], "settings": {}}
    identity = analyses.shapes.identity(about)
    for name in (identity, "0" * 16):
        analyses.begin(name, about)
        analyses.finish(name, {}, {"state": "done", "provenance": {}})
    assert analyses.summary(identity) is not None
    with pytest.raises(EnvironmentProblem, match=f"belongs into .*{identity}.*fasttrain analyse"):
        analyses.summary("0" * 16)


def test_a_copy_of_a_stage_beside_it_is_in_nobodys_way(fasttrain, tiny, tmp_path):
    command = ("sweep", tiny, "--quiet", "--plr", "0.1", "--k", "none")
    assert fasttrain(*command).code == 0
    store = Store.open(tmp_path / "runs" / "tiny", create=False)
    stages = store.stages()
    shutil.copytree(store.path / stages[0], store.path / f"{stages[0]}.bak")
    assert store.stages() == stages
    assert fasttrain("report", store.path).code == 0 and fasttrain(*command).code == 0
    assert len(package.load(store.path)) == len(stages)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "/etc/passwd", "a\0b"])
def test_names_of_files_elsewhere_are_refused(store, name):
    stage = finish(store, pretraining())
    listed = json.loads((store.path / stage / "done.json").read_text())["files"]
    reseal(store.path / stage, files={name: listed["stage.json"], **listed})
    with pytest.raises(EnvironmentProblem, match="done.json: is not what fasttrain writes .files"):
        store.summary(stage)


@pytest.mark.parametrize("missing", ["result", "id", "files", "provenance", "state", "time_s"])
def test_a_done_json_without_what_is_read_of_it_is_named(store, missing):
    stage = finish(store, pretraining())
    reseal(store.path / stage, **{missing: None})
    with pytest.raises(EnvironmentProblem, match=rf"done.json: is not .*\({missing}: .*; delete"):
        store.summary(stage)


@pytest.mark.parametrize("version", [1, 2, 3, 5])
def test_a_store_of_another_format_is_refused_by_everything(fasttrain, tiny, tmp_path, version):
    path = tmp_path / "old"
    store = Store.open(path, create=True)
    provenance = {"fasttrain": "9.8.7", "commit": "abcdef"}
    finish(store, pretraining(), provenance=provenance)
    begin(store, pretraining(1))
    (path / "store.json").write_text(json.dumps({"program": "fasttrain", "format": version}))
    before = sorted(path.rglob("*"))
    words = f"store of format {version}, and this version reads format 4; use the version that made"
    commands = (["sweep", tiny, "--store", path], ["train", tiny, "--store", path, "--plr", "0.1"])
    commands += (["report", path], ["analyse", path], ["doctor", path], ["report", path, "--watch"])
    for command in commands:
        outcome = fasttrain(*command)
        assert outcome.code == 1 and outcome.err.count("\n") == 1
        assert words in outcome.err and "(fasttrain 9.8.7, commit abcdef)" in outcome.err
    for load in (package.load, package.load_epochs, package.load_analyses):
        with pytest.raises(EnvironmentProblem, match=words):
            load(path)
    assert sorted(path.rglob("*")) == before
