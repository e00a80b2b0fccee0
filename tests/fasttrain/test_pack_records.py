"""A stage ends in the bits of its pack, whatever was lost meanwhile and however packs form now."""

import json
import shutil
from pathlib import Path

import pytest

import fasttrain as package
from fasttrain.cli.main import run
from fasttrain.store.store import Store
from fasttrain.training.run_pack import run_pack

from .conftest import TINY, Killed, contents

# Five of a kind in packs of up to 3: of 3 and of 2, which round differently.
GRID = ("--plr", "1e-3,3e-3,1e-2,3e-2,1e-1", "--flr", "1e-2", "--k", "2,3", "--pack", "3")


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A store with the whole grid."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "tiny.toml").write_text(TINY)
    arguments = ("sweep", str(folder / "tiny.toml"), *GRID, "--quiet")
    assert run([*arguments, "--store", str(folder / "whole")]) == 0
    return folder / "whole"


@pytest.fixture
def whole(grid, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(grid, tmp_path / "whole"))


def about(store: Path) -> dict[Path, dict]:
    """The directories of the stages of a store, and what they are."""
    return {path.parent: json.loads(path.read_text()) for path in store.glob("*/stage.json")}


def lose(store: Path, **wanted) -> None:
    """Delete the stages of these kinds and rates."""
    for folder, stage in about(store).items():
        if all(stage[name] in values for name, values in wanted.items()):
            shutil.rmtree(folder)


LOSSES = {
    "one pre-training": {"kind": ["pretrain"], "plr": [0.01]},
    "one fine-tuning": {"kind": ["finetune"], "plr": [0.1]},
    "the longest average": {"k": [3], "plr": [0.003]},
    "a shorter average": {"k": [2], "plr": [0.003]},
    "all of one rate": {"plr": [0.1]},
    "whole packs": {"kind": ["finetune", "swa"]},
    "everything": {"seed": [0]},
}
NOW = {
    "the same grid": GRID,
    "smaller packs": (*GRID[:-1], "1"),
    "more rates": ("--plr", "1e-3,2e-3,3e-3,5e-3,1e-2,3e-2,1e-1", *GRID[2:]),
}


@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
def test_what_was_deleted_comes_out_in_the_same_bits(fasttrain, tiny, tmp_path, whole, lost):
    before = contents(whole)
    for now, grid in NOW.items():
        store = tmp_path / now
        shutil.copytree(whole, store)
        lose(store, **lost)
        assert contents(store) != before
        outcome = fasttrain("sweep", tiny, *grid, "--store", store)
        assert outcome.code == 0, outcome.err
        after = contents(store)
        assert {name: after.get(name) for name in before} == before


def test_a_part_of_the_grid_brings_back_what_its_packs_need(fasttrain, tiny, whole):
    """Of the fine-tuning's pack another start is gone that this plan does not have."""
    before = contents(whole)
    lose(whole, plr=[0.001, 0.1])
    part = ("sweep", tiny, "--plr", "1e-3", "--flr", "1e-2", "--k", "3", "--store", whole)
    assert fasttrain(*part).code == 0
    after = contents(whole)
    assert after.items() <= before.items()
    wanted = [f for f, s in about(whole).items() if s["plr"] == 0.001]
    assert len(wanted) >= 3


@pytest.mark.parametrize("nth", [1, 4, 7, 13, 16])
def test_a_kill_between_two_results_of_a_pack_changes_no_bit(
    fasttrain, tiny, tmp_path, whole, monkeypatch, nth
):
    """With no checkpoint before: the interval is longer than the sweep."""
    finish_all, count = Store.finish_all, 0

    def killed(store, results):
        nonlocal count
        for result in results:
            count += 1
            if count == nth + 1:
                raise Killed
            finish_all(store, [result])

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish_all", killed)
        with pytest.raises(Killed):
            fasttrain("sweep", tiny, *GRID, "--store", "parts")
    assert len(package.load(tmp_path / "parts")) == nth
    assert fasttrain("sweep", tiny, *GRID, "--store", "parts").code == 0
    assert contents(tmp_path / "parts") == contents(whole)


def test_a_pack_that_fails_once_runs_again_as_a_whole(
    fasttrain, tiny, tmp_path, whole, monkeypatch
):
    failures = []

    def fails_once(stages, workbench, on_epoch):
        if [stage.id for stage in stages] not in failures:
            failures.append([stage.id for stage in stages])
            raise RuntimeError("the worker process was ended by signal SIGKILL")
        run_pack(stages, workbench, on_epoch)

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", fails_once)
    outcome = fasttrain("sweep", tiny, *GRID, "--store", "parts")
    assert outcome.code == 0
    assert outcome.out.count("runs again") == len(failures) == 8
    assert contents(tmp_path / "parts") == contents(whole)


def test_halves_are_packs_of_their_own_from_then_on(fasttrain, tiny, tmp_path, monkeypatch):
    def too_large(stages, workbench, on_epoch):
        if len(stages) > 2:
            raise RuntimeError("out of memory")
        run_pack(stages, workbench, on_epoch)

    monkeypatch.setattr("fasttrain.execution.engines.tasks.run_pack", too_large)
    outcome = fasttrain("sweep", tiny, *GRID, "--store", "halves")
    assert outcome.code == 0 and "left of a failed pack" in outcome.out
    before = contents(tmp_path / "halves")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    lose(tmp_path / "halves", plr=[0.01])
    assert fasttrain("sweep", tiny, *GRID, "--store", "halves").code == 0
    assert contents(tmp_path / "halves") == before


def test_a_parent_that_comes_out_in_other_bits_takes_its_children_along(fasttrain, tiny, whole):
    """In the same sweep, or in one after it."""
    later = Path(shutil.copytree(whole, whole.parent / "later"))
    lose(whole, kind=["pretrain"], plr=[0.01])
    shutil.rmtree(whole / "packs")
    before = contents(whole)
    outcome = fasttrain("sweep", tiny, *GRID, "--store", whole)
    assert outcome.code == 0, outcome.err
    for name in ("finetune plr 0.01 flr 0.01 seed 0", "swa plr 0.01 k 2", "swa plr 0.01 k 3"):
        assert name in outcome.out
    after = contents(whole)
    folders = about(whole)
    for name, content in before.items():
        if not name.endswith("stage.json"):
            rates = folders[whole / name.split("/")[0]]
            assert (after[name] != content) == (rates["plr"] == 0.01), rates
    lose(later, kind=["pretrain"], plr=[0.01])
    shutil.rmtree(later / "packs")
    assert fasttrain("train", tiny, "--plr", "1e-2", "--store", later).code == 0
    assert "swa plr 0.01 k 3" in fasttrain("sweep", tiny, *GRID, "--store", later).out
    assert contents(later) == after


def test_a_damaged_record_is_named(fasttrain, tiny, whole):
    lose(whole, kind=["finetune"])
    path = next((whole / "packs").iterdir())
    for content in (b"", b"[]", b"{}", path.read_bytes().replace(b'"number": ', b'"number": 1')):
        path.write_bytes(content)
        outcome = fasttrain("sweep", tiny, *GRID, "--store", whole)
        assert outcome.code == 1
        assert f"fasttrain: {path}: " in outcome.err and f"delete {path} and run" in outcome.err
