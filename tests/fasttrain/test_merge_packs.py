"""Packs of merged stores: whatever is lost later comes out in the bits of its pack."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import torch

import fasttrain as package
from fasttrain.execution.packing import owners_of
from fasttrain.settings.knobs import Knobs
from fasttrain.store import merging
from fasttrain.store.pack_records import GROUPED, STREAMS, PackRecords, read_record
from fasttrain.store.store import Store

from .conftest import TINY, contents
from .stored import finetuning, finish, pretraining

ONE = pretraining()
OTHER = dataclasses.replace(ONE, knobs=Knobs(lr=0.2))
THIRD = dataclasses.replace(ONE, knobs=Knobs(lr=0.3))


def packed(folder: Path, way: str, *finished) -> Path:
    """A store in which a pack has begun in a way, and these of its stages have finished."""
    store = Store.open(folder, create=True)
    PackRecords(store).write([ONE, OTHER, THIRD], 0, way)
    for stage in finished:
        finish(store, stage, stage.id.encode())
    return folder


def ways(store: Path) -> list[str]:
    return [read_record(p).get("way", GROUPED) for p in PackRecords(Store(store)).paths()]


@pytest.mark.parametrize("target", ["all", "one"])
def test_results_of_one_pack_that_trained_in_two_ways_are_named(fasttrain, tmp_path, target):
    """Either record would bring one of them back in other bits."""
    one = packed(tmp_path / "one", STREAMS, ONE)
    other = packed(tmp_path / "other", GROUPED, OTHER)
    given = [one, other] if target == "all" else [other]
    outcome = fasttrain("merge", target, *given)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    for words in ("nothing was merged", f"one/{ONE.id}", f"other/{OTHER.id}"):
        assert words in outcome.err
    assert "trained grouped in one store and on streams in the other" in outcome.err
    assert not (tmp_path / target / OTHER.id).exists()
    # One of the two deleted, the merge has the way of what is left.
    shutil.rmtree(one / ONE.id)
    package.merge(tmp_path / target, *given)
    assert ways(tmp_path / target) == [GROUPED]


@pytest.mark.parametrize("first", [GROUPED, STREAMS])
def test_the_way_of_a_pack_is_that_of_all_its_results(tmp_path, first):
    """Whichever store comes first; what both have is the same in both."""
    second = STREAMS if first == GROUPED else GROUPED
    some = packed(tmp_path / "some", first, ONE)
    every = packed(tmp_path / "every", second, ONE, OTHER)
    for name, stores in (("all", [some, every]), ("again", [every, some])):
        package.merge(tmp_path / name, *stores)
        assert ways(tmp_path / name) == [second]
    package.merge(some, every)
    assert ways(some) == [second]


def test_what_was_begun_the_other_way_begins_again(tmp_path):
    begun = packed(tmp_path / "begun", GROUPED)
    checkpoints = Store(begun).checkpoints
    for pack, stage in (("pack", OTHER), ("another", finetuning(ONE))):
        checkpoints.save(pack, {stage.id: {"series": torch.zeros(1, 2)}})
    package.merge(begun, packed(tmp_path / "other", STREAMS, ONE))
    assert ways(begun) == [STREAMS]
    assert [path.name.split("-")[0] for path in checkpoints.files()] == ["another"]


@pytest.mark.parametrize("way", [GROUPED, STREAMS])
def test_a_pack_that_one_store_has_only_begun_comes_from_the_one_with_results(tmp_path, way):
    begun = packed(tmp_path / "begun", way)
    part = packed(tmp_path / "part", way, OTHER)
    for number, sources in enumerate(itertools.permutations([begun, part])):
        package.merge(tmp_path / f"all{number}", *sources)
        assert ways(tmp_path / f"all{number}") == [way]


@pytest.mark.parametrize(
    "packs",
    [
        [(GROUPED, []), (GROUPED, [OTHER]), (STREAMS, [THIRD])],
        [(GROUPED, [ONE]), (GROUPED, [OTHER]), (STREAMS, [ONE, THIRD])],
    ],
)
def test_two_ways_contradict_each_other_in_any_order_of_stores(tmp_path, packs):
    stores = [packed(tmp_path / f"s{n}", way, *own) for n, (way, own) in enumerate(packs)]
    for order in itertools.permutations(map(Store, stores)):
        assert len(merging._chosen_packs(order)[1]) == 1
        with pytest.raises(package.EnvironmentProblem, match="are of one pack, which trained"):
            package.merge(tmp_path / "all", *(store.path for store in order))


def test_results_of_several_stores_together_decide_on_the_way(tmp_path):
    """In any order: each of two has what the third, of another way, has both of."""
    some = [packed(tmp_path / f"s{n}", STREAMS, stage) for n, stage in enumerate((ONE, OTHER))]
    every = [packed(tmp_path / "every", GROUPED, OTHER), *some]
    for number, order in enumerate(itertools.permutations(every)):
        package.merge(tmp_path / f"all{number}", *order)
        assert ways(tmp_path / f"all{number}") == [STREAMS]


def overlapping(folder: Path, *packs, finished=()) -> Path:
    """A store in which these packs have begun, and these stages have finished."""
    store = Store.open(folder, create=True)
    for pack in packs:
        PackRecords(store).write(pack, 0)
    for stage in finished:
        finish(store, stage, stage.id.encode())
    return folder


def pack_of(store: Path, stage) -> list:
    return PackRecords(Store(store)).of([stage])[0][stage.id]


def written(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.glob("packs/*")}


def test_a_stage_of_two_packs_trains_again_in_the_one_of_its_result(tmp_path):
    """In any order: the other pack has begun with it, and has a result of another stage."""
    one = overlapping(tmp_path / "one", [ONE, OTHER], finished=[ONE, OTHER])
    two = overlapping(tmp_path / "two", [OTHER, THIRD], finished=[THIRD])
    for name, order in (("all", [one, two]), ("again", [two, one])):
        package.merge(tmp_path / name, *order)
        assert pack_of(tmp_path / name, OTHER) == [ONE, OTHER]
        assert pack_of(tmp_path / name, THIRD) == [OTHER, THIRD]
    package.merge(one, two)
    assert pack_of(one, OTHER) == [ONE, OTHER]
    # Lost it is another store's pack no more, and a store merged from this one has the same.
    shutil.rmtree(tmp_path / "all" / OTHER.id)
    package.merge(tmp_path / "next", tmp_path / "all", two)
    assert pack_of(tmp_path / "next", OTHER) == [ONE, OTHER]


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_what_is_lost_of_merged_stores_has_the_bits_that_it_had(tmp_path, order):
    (tmp_path / "grid.toml").write_text(TINY)

    def sweep(name, *rates):
        study = package.study(tmp_path / "grid.toml", plr=rates, flr=(), k=())
        package.sweep(study, store=tmp_path / name, pack=8, processes=1)

    def stages(name) -> set[str]:
        return {path.parent.name for path in (tmp_path / name).glob("*/done.json")}

    sweep("one", 0.001, 0.005, 0.01, 0.02, 0.05)
    sweep("two", 0.02, 0.06)
    [shared] = stages("one") & stages("two")
    shutil.rmtree(tmp_path / "two" / shared)
    package.merge(tmp_path / "all", *(tmp_path / name for name in order))
    whole = contents(tmp_path / "all")
    shutil.rmtree(tmp_path / "all" / shared)
    sweep("all", 0.001, 0.005, 0.01, 0.02, 0.05, 0.06)
    assert contents(tmp_path / "all") == whole and len(whole) > 6


def test_two_packs_that_each_have_a_result_of_the_same_stages(tmp_path):
    """No order of records is right for both."""
    first, second = [ONE, OTHER, THIRD], [OTHER, ONE]
    one = overlapping(tmp_path / "one", first, finished=[ONE])
    two = overlapping(tmp_path / "two", second, finished=[OTHER])
    for name, order in (("all", [one, two]), ("again", [two, one])):
        store = tmp_path / name
        package.merge(store, *order)
        assert pack_of(store, ONE) == first and pack_of(store, OTHER) == second
        owners = owners_of([first, second], Store(store))
        assert owners[ONE.id] is first and owners[OTHER.id] is second
        before = written(store)
        package.merge(store, *order)
        assert written(store) == before
        # Without the record that it was left to, the other one has it.
        next(p for p in before if len(read_record(p)["members"]) == 2).unlink()
        assert pack_of(store, OTHER) == first


def test_a_stage_without_a_result_stays_in_the_pack_of_the_target(tmp_path):
    begun = overlapping(tmp_path / "begun", [ONE, OTHER])
    package.merge(begun, overlapping(tmp_path / "two", [OTHER, THIRD], finished=[THIRD]))
    assert pack_of(begun, OTHER) == [ONE, OTHER]
    assert pack_of(begun, THIRD) == [OTHER, THIRD]


def test_packs_that_have_lost_each_other_s_stages_do_not_wait_for_each_other(tmp_path):
    packs = [[ONE, OTHER, THIRD], [OTHER, ONE]]
    for pack, name in zip(packs, "ab", strict=True):
        overlapping(tmp_path / name, pack, finished=pack[:1])
    package.merge(tmp_path / "all", tmp_path / "a", tmp_path / "b")
    for stage in (ONE, OTHER):
        shutil.rmtree(tmp_path / "all" / stage.id)
    owners = owners_of(packs, Store(tmp_path / "all"))
    assert owners[ONE.id] is owners[OTHER.id] is packs[1]
