"""Merging stores: the whole from its parts, nothing from what contradicts itself, at any moment."""

import json
import shutil
from pathlib import Path

import pytest

import fasttrain as package
from fasttrain.doctor.stores import examine
from fasttrain.store import merging
from fasttrain.store.marker import FORMAT
from fasttrain.store.pack_records import PackRecords, read_record
from fasttrain.store.status import read_plan
from fasttrain.store.store import Store

from .conftest import TINY, contents
from .stored import finetuning, finish, pretraining

GRID = {"plr": [1e-3, 3e-3, 1e-2, 3e-2], "k": [2]}
HOW = {"pack": 2, "processes": 1, "compile": "off"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a grid's store, and those of its two shards, analysed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(TINY)
    study = package.study(folder / "tiny.toml", **GRID)
    package.sweep(study, store=folder / "whole", **HOW)
    for index in (1, 2):
        package.sweep(study, shard=f"{index}/2", store=folder / f"part{index}", **HOW)
        package.analyse(folder / f"part{index}", only=["norms"], processes=1)
    return folder


@pytest.fixture
def parts(trained, tmp_path) -> list[Path]:
    """Copies of the shards' stores."""
    return [Path(shutil.copytree(trained / n, tmp_path / n)) for n in ("part1", "part2")]


def flags(trained):
    return (trained / "tiny.toml", "--plr", "1e-3,3e-3,1e-2,3e-2", "--k", "2", "--pack", "2")


def test_merged_shards_are_the_unsharded_store_bit_for_bit(fasttrain, trained, parts, tmp_path):
    assert fasttrain("merge", "all", *parts).code == 0
    whole = trained / "whole"
    assert contents(tmp_path / "all") == contents(whole) != {}
    rates = [sorted({f.parts[0] for f in map(Path, contents(part))}) for part in parts]
    assert not {*rates[0]} & {*rates[1]}
    ours = package.Results(tmp_path / "all").stages.drop(columns="time_s")
    assert ours.equals(package.Results(whole).stages.drop(columns="time_s"))
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/*/done.json")}
    again = fasttrain("sweep", *flags(trained), "--store", "all", "--processes", "1")
    assert again.code == 0 and "packs of" not in again.out
    assert done == {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/*/done.json")}
    assert fasttrain("status", "all").out == "all: finished: 12 of 12 stages.\n"
    assert not examine(tmp_path / "all").findings


def test_analyses_their_choice_and_the_plan_come_along(trained, parts, tmp_path):
    results = package.merge(tmp_path / "all", *parts)
    norms = [package.Results(part).measurements["norms"] for part in parts]
    assert len(results.measurements["norms"]) == sum(map(len, norms)) > 0
    assert [planned.shard for planned in read_plan(tmp_path / "all")] == ["1/2", "2/2"]
    for part in parts:
        for name, content in contents(part / "analyses").items():
            assert (tmp_path / "all" / "analyses" / name).read_bytes() == content


def test_what_is_lost_of_a_merged_store_comes_out_in_the_bits_of_its_pack(
    fasttrain, trained, parts, tmp_path
):
    package.merge(tmp_path / "all", *parts)
    numbers = [read_record(path)["number"] for path in PackRecords(Store(tmp_path / "all")).paths()]
    assert sorted(numbers) == list(range(1, len(numbers) + 1)) and len(numbers) == 6
    shutil.rmtree(tmp_path / "all" / package.load(parts[1])["stage"][0])
    how = ("--store", "all", "--processes", "1")
    assert fasttrain("sweep", *flags(trained)[:-1], "1", *how).code == 0
    assert contents(tmp_path / "all") == contents(trained / "whole")


def test_merging_again_changes_nothing(parts, tmp_path):
    package.merge(tmp_path / "all", *parts)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/**/*.*")}
    package.merge(tmp_path / "all", *reversed(parts))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/**/*.*")} == before


class Killed(BaseException):
    """Ends a merge without any of its handlers, as SIGKILL does."""


def test_a_kill_at_any_write_leaves_a_store_that_the_same_merge_completes(
    trained, parts, tmp_path, monkeypatch
):
    whole, write = contents(trained / "whole"), merging.write_atomically
    # Between packs, within and between stages, within analyses.
    for last in (0, 3, 6, 7, 9, 10, 31, 53, 58, 66):
        target, written = tmp_path / f"all{last}", 0

        def killed(path, content, last=last):
            nonlocal written
            written += 1
            if written > last:
                raise Killed
            write(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(merging, "write_atomically", killed)
            with pytest.raises(Killed):
                package.merge(target, *parts)
        left = examine(target)
        assert not left.findings and contents(target).items() <= whole.items()
        package.merge(target, *parts)
        assert contents(target) == whole
        assert package.load_analyses(target)["norms"].shape[0] > 0


def stores(tmp_path, *contents_of: dict) -> list[Path]:
    """Stores with a pre-training and a fine-tuning each, of these states."""
    paths = []
    for number, states in enumerate(contents_of):
        store = Store.open(tmp_path / f"store{number}", create=True)
        root = pretraining()
        if "root" in states:
            finish(store, root, states["root"])
        if "child" in states:
            finish(store, finetuning(root), states["child"], built_on=states["built_on"])
        paths.append(store.path)
    return paths


def test_other_bytes_of_one_stage_are_named_and_nothing_is_written(fasttrain, tmp_path):
    one, other = stores(tmp_path, {"root": b"one"}, {"root": b"other"})
    stage = pretraining().id
    outcome = fasttrain("merge", "all", one, other)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    for words in ("nothing was merged", str(one / stage), str(other / stage), "state.safetensors"):
        assert words in outcome.err
    assert not (tmp_path / "all").exists()
    # The same where the target has the other bytes.
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert str(other / stage) in fasttrain("merge", one, other).err
    left = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert left == before | {one / ".lock": b""}


def test_a_stage_that_started_from_other_bytes_than_those_of_its_parent_is_named(tmp_path):
    child = {"child": b"c", "built_on": {pretraining().id: "0" * 64}}
    one, other = stores(tmp_path, {"root": b"one"}, child)
    with pytest.raises(package.EnvironmentProblem, match="started from another state than that"):
        package.merge(tmp_path / "all", one, other)


def test_a_description_may_differ_in_what_is_no_identity(tmp_path):
    one, other = stores(tmp_path, {"root": b"one"}, {"root": b"one"})
    store = Store(other)
    about = store.description(pretraining().id)
    store.begin(pretraining().id, {**about, "source": {**about["source"], "dataset": "/elsewhere"}})
    store.finish(
        pretraining().id, {"state.safetensors": b"one"}, Store(one).summary(pretraining().id) or {}
    )
    package.merge(one, other)
    assert Store(one).description(pretraining().id) == about


def test_a_stage_that_was_begun_in_the_target_is_finished_by_the_merge(tmp_path):
    one, other = stores(tmp_path, {}, {"root": b"one"})
    Store(one).fail(pretraining().id, "RuntimeError: out of memory")
    package.merge(one, other)
    assert Store(one).read(pretraining().id, "state.safetensors") == b"one"
    assert Store(one).failure(pretraining().id) is None


def damage_state(store: Path) -> None:
    next(store.glob("*/state.safetensors")).write_bytes(b"One")


def damage_done(store: Path) -> None:
    next(store.glob("*/done.json")).write_text("{}")


def raise_format(store: Path) -> None:
    (store / "store.json").write_text(json.dumps({"format": FORMAT + 1, "program": "fasttrain"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage_state, "state.safetensors: does not match its sha256"),
        (damage_done, "done.json: does not match its sha256"),
        (raise_format, f"store of format {FORMAT + 1}"),
        (shutil.rmtree, "no such store"),
    ],
    ids=lambda change: getattr(change, "__name__", ""),
)
def test_a_store_that_cannot_be_read_is_refused_by_name(fasttrain, tmp_path, change, words):
    (store,) = stores(tmp_path, {"root": b"one"})
    change(store)
    outcome = fasttrain("merge", "all", store)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert words in outcome.err and str(store) in outcome.err
    assert not list(tmp_path.glob("all/*/done.json"))


def test_what_cannot_be_merged_is_one_line(fasttrain, tmp_path):
    (store,) = stores(tmp_path, {"root": b"one"})
    assert fasttrain("merge", store, store).code == 2
    assert fasttrain("merge", store).code == 2
    with Store(store).lock():
        assert (
            "in use by another fasttrain process"
            in fasttrain("merge", store, *stores_of(store)).err
        )


def stores_of(store: Path) -> list[Path]:
    return [Path(shutil.copytree(store, store.with_name("copy")))]
