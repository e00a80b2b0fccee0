"""Analyses of a store: each made once, found again, and none in the way of another."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import fasttrain
from fasttrain.analysis import analyse
from fasttrain.analysis import kinds as works
from fasttrain.analysis.records import Analysis, choose, save
from fasttrain.analysis.selection import Request, select
from fasttrain.analysis.setups import all_setups
from fasttrain.analysis.sharpness import HessianSettings
from fasttrain.analysis.tables import TABLES
from fasttrain.cli.main import run
from fasttrain.execution.measured import Timing
from fasttrain.store.store import Store

GRID = """
[data]
dataset = "{dataset}"
n_train = 150
n_test = 50
[network]
width = 2
[training]
epochs = 4
finetune_epochs = 2
batch_size = 64
[grid]
plr = [1e-2, 1e-1]
flr = {flr}
k = [2, 3]
"""


def sweep(folder, flr="[1e-2, 2e-2]", dataset="digits"):
    """Run a grid into folder/store; returns the store."""
    (folder / "grid.toml").write_text(GRID.format(flr=flr, dataset=dataset))
    store = folder / "store"
    arguments = ["--store", str(store), "--processes", "1", "--pack", "8", "--quiet"]
    assert run(["sweep", str(folder / "grid.toml"), *arguments]) == 0
    return store


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("swept"))


@pytest.fixture(scope="module")
def analysed(swept, tmp_path_factory):
    """A store with everything analysed."""
    store = tmp_path_factory.mktemp("analysed") / "store"
    shutil.copytree(swept, store)
    assert run(["analyse", str(store), "--target", "digits", "--target-train", "50"]) == 0
    return store


@pytest.fixture
def fresh(swept, tmp_path):
    """A store that nothing was analysed of."""
    return shutil.copytree(swept, tmp_path / "store")


def files(store):
    """Every file of the analyses and when it was written."""
    return {
        str(path.relative_to(store)): path.stat().st_mtime_ns
        for path in (store / "analyses").glob("*/*")
    }


def kinds(store):
    """How many analyses of each kind are finished."""
    found = [path.parent for path in (store / "analyses").glob("*/done.json")]
    names = pd.Series([pd.read_json(p / "stage.json", typ="series")["kind"] for p in found])
    return names.value_counts().to_dict()


def test_everything_is_made_and_has_the_columns_that_are_promised(analysed):
    tables = fasttrain.load_analyses(analysed)
    assert list(tables) == list(TABLES)
    for name, table in tables.items():
        assert len(table), name
        # What pandas 3 calls str is an object to pandas 2.
        types = {c: str(t).replace("object", "str") for c, t in table.dtypes.items()}
        assert types == TABLES[name]
    stages = fasttrain.load(analysed).set_index("stage")
    pairs = tables["pairs"]
    assert len(pairs) == 2 * 3
    kind_a, kind_b = (stages.loc[pairs[end], "kind"].tolist() for end in ("stage_a", "stage_b"))
    assert kind_a == ["finetune", "swa", "swa"] * 2
    assert kind_b == ["finetune"] * 6
    low_high = pairs[pairs["pair"] == "low-high"]
    assert stages.loc[low_high["stage_a"], "flr"].tolist() == [0.01, 0.01]
    assert stages.loc[low_high["stage_b"], "flr"].tolist() == [0.02, 0.02]
    assert pairs["k"].tolist() == [pd.NA, 3, 3] * 2
    assert (tables["paths"].groupby(["stage_a", "stage_b"]).size() == 21).all()
    # All 5 x 2 stages of the seed have a state.
    assert len(tables["angles"]) == 10 * 9 / 2
    both = pairs.merge(tables["angles"], on=["stage_a", "stage_b"], suffixes=("", "_matrix"))
    reversed_names = {"stage_a": "stage_b", "stage_b": "stage_a"}
    other = tables["angles"].rename(columns=reversed_names)
    both = pd.concat(
        [both, pairs.merge(other, on=["stage_a", "stage_b"], suffixes=("", "_matrix"))]
    )
    assert len(both) == 6
    np.testing.assert_allclose(both["angle"], both["angle_matrix"], atol=1e-7)


def test_norms_go_on_where_the_parent_ended(analysed):
    norms = fasttrain.load_analyses(analysed)["norms"]
    stages = fasttrain.load(analysed)
    norms = norms[norms["level"] == "filter"].merge(stages[["stage", "kind", "plr", "flr"]])
    for _, rows in norms.groupby("plr"):
        end = rows[(rows["kind"] == "pretrain") & (rows["epoch"] == 4)].iloc[0]
        starts = rows[(rows["kind"] == "finetune") & (rows["epoch"] == 4)]
        assert len(starts) == 2
        np.testing.assert_allclose(starts["spread"], end["spread"], rtol=1e-6)
        np.testing.assert_allclose(starts["min_elr"] / starts["flr"], end["min_elr"] / end["plr"])
        assert sorted(rows.loc[rows["kind"] == "pretrain", "epoch"]) == [0, 1, 2, 3, 4]


def test_unfiltered_accuracy_is_that_of_the_stage(analysed):
    bands = fasttrain.load_analyses(analysed)["bands"]
    whole = bands[bands["band"] == 0].merge(fasttrain.load(analysed), on="stage")
    assert set(whole["kind"]) == {"pretrain", "finetune", "swa"}
    # Packs of other sizes round otherwise: an image of the 50 may tip over.
    assert (whole["accuracy"] - whole["test_accuracy"]).abs().max() <= 0.021


def test_what_is_done_is_not_made_again_and_nothing_else_sees_it(analysed, swept, capsys):
    before = files(analysed)
    assert run(["analyse", str(analysed)]) == 0
    assert "0 analyses to make, 29 done before" in capsys.readouterr().out
    assert files(analysed) == before
    pd.testing.assert_frame_equal(fasttrain.load(analysed), fasttrain.load(swept))
    assert run(["report", str(analysed)]) == 0
    grid = str(swept.parent / "grid.toml")
    assert run(["sweep", grid, "--store", str(analysed), "--dry-run"]) == 0
    assert "nothing left to run" in capsys.readouterr().out


def test_a_killed_analysis_loses_itself_alone(analysed, tmp_path):
    store = shutil.copytree(analysed, tmp_path / "store")
    expected = fasttrain.load_analyses(store)
    [one] = [p.parent for p in (store / "analyses").glob("*/angles.parquet")]
    (one / "done.json").unlink()
    assert fasttrain.load_analyses(store)["angles"].empty
    before = files(store)
    assert run(["analyse", str(store)]) == 0
    changed = {
        name.split("/")[1] for name, time in files(store).items() if before.get(name) != time
    }
    assert changed == {one.name}
    for name, table in fasttrain.load_analyses(store).items():
        pd.testing.assert_frame_equal(table, expected[name])


def test_only_what_is_asked_for_and_at_the_rates_asked_for(analysed, fresh, capsys):
    assert run(["analyse", str(fresh), "--only", "norms", "--low", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "low and high FLR are both 0.02: no low-high pairs" in out
    assert kinds(fresh) == {"norms": 2 + 2}
    # Now both ends; what was made is kept, and what is current follows the last choice.
    assert run(["analyse", str(fresh), "--only", "norms", "--k", "2"]) == 0
    assert kinds(fresh) == {"norms": 2 + 4}
    assert run(["analyse", str(fresh), "--only", "norms", "--high", "0.02"]) == 0
    assert kinds(fresh) == {"norms": 2 + 4}
    assert run(["analyse", str(fresh), "--only", "norms", "--low", "0.02"]) == 0
    assert fasttrain.load_analyses(fresh)["norms"]["stage"].nunique() == 2 + 2
    [grid] = all_setups(fresh)
    assert grid.norms["stage"].nunique() == 4
    assert grid.bands.empty


def test_a_failure_is_told_at_the_end_and_the_others_go_on(fresh, capsys, monkeypatch):
    work, tried = works.ANALYSERS["norms"], []

    def fails_once(analyses, workbench, size):
        tried.append(len(analyses))
        if "high plr 0.1 " in analyses[0].title:
            raise RuntimeError("no good")
        return work(analyses, workbench, size)

    monkeypatch.setitem(works.ANALYSERS, "norms", fails_once)
    assert run(["analyse", str(fresh), "--only", "norms"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("fasttrain: 1 analyses failed (see failed.txt in their folders below ")
    assert err.endswith("): norms high plr 0.1 seed 0: RuntimeError: no good\n")
    assert kinds(fresh) == {"norms": 5}
    [failed] = (fresh / "analyses").glob("*/failed.txt")
    assert "no good" in failed.read_text()
    monkeypatch.undo()
    assert run(["analyse", str(fresh), "--only", "norms"]) == 0
    assert "1 analyses to make, 5 done before" in capsys.readouterr().out
    assert not failed.exists()


def test_rates_that_one_of_two_set_ups_has_are_missed_in_the_other(fresh, capsys):
    [stages] = [grid.stages for grid in all_setups(fresh)]
    found = select(stages, list(stages["stage"]), Request(low=0.3, high=0.5))
    assert [note for note in found.notes if "low FLR" in note or "high FLR" in note] == [
        "no stages at the low FLR asked for: there are 0.01, 0.02",
        "no stages at the high FLR asked for: there are 0.01, 0.02",
    ]
    assert not found.analyses["lines"] and found.analyses["norms"]


def test_analyses_stay_current_when_a_set_up_gets_a_second_length(fresh):
    store = Store.open(fresh, create=False)
    one, two = (Analysis(kind, ("a",), {}, 0, "") for kind in ("angles", "norms"))
    choose({"abc": {"angles": [one]}}, store)
    choose({"abc-15": {"norms": [two]}, "abc-30": {"norms": [two]}}, store)
    current = json.loads((store.analyses.path / "current.json").read_bytes())
    assert current["abc-15"] == current["abc-30"] == {"angles": [one.id], "norms": [two.id]}


@pytest.fixture
def large_packs(monkeypatch):
    """Packs of 21 are taken to be fastest."""
    timing = Timing(21, step_s=1.0, test_batch_s=0.1, memory_bytes=1)
    monkeypatch.setattr(analyse, "measure_packs", lambda *_: [timing])


def test_what_does_not_fit_into_memory_is_made_in_smaller_parts(
    fresh, capsys, monkeypatch, large_packs
):
    work, made = works.ANALYSERS["features"], []

    def hungry(analyses, workbench, size):
        if len(analyses) > 2:
            raise torch.OutOfMemoryError("out of memory")
        made.append([analysis.label() for analysis in analyses])
        return work(analyses, workbench, size)

    monkeypatch.setitem(works.ANALYSERS, "features", hungry)
    assert run(["analyse", str(fresh), "--only", "features"]) == 0
    out = capsys.readouterr().out
    assert "8 analyses left of a failed pack (torch.OutOfMemoryError: out of memory)" in out
    assert kinds(fresh) == {"features": 8}
    assert sum(map(len, made)) == 8
    bands = fasttrain.load_analyses(fresh)["bands"]
    whole = bands[bands["band"] == 0].merge(fasttrain.load(fresh), on="stage")
    assert (whole["accuracy"] - whole["test_accuracy"]).abs().max() <= 0.021


def test_a_path_that_does_not_fit_into_memory_is_evaluated_in_smaller_packs(
    fresh, monkeypatch, large_packs
):
    work, sizes = works.ANALYSERS["lines"], []

    def hungry(analyses, workbench, size):
        sizes.append((len(analyses), size))
        if size > 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return work(analyses, workbench, size)

    monkeypatch.setitem(works.ANALYSERS, "lines", hungry)
    assert run(["analyse", str(fresh), "--only", "geometry"]) == 0
    assert kinds(fresh) == {"angles": 1, "lines": 6}
    assert min(size for _, size in sizes) == 5


def test_other_images_and_missing_ones_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from fasttrain_data import load as load_images

    data = load_images("digits")

    def write(path, images):
        test = {"test_images": data.test_images[:50], "test_labels": data.test_labels[:50]}
        train = {"train_images": images[:150], "train_labels": data.train_labels[:150]}
        np.savez(path, **test, **train)

    write(tmp_path / "mine.npz", data.train_images)
    store = sweep(tmp_path, flr="[1e-2]", dataset="mine.npz")
    (tmp_path / "mine.npz").rename(tmp_path / "moved.npz")
    write(tmp_path / "other.npz", data.train_images[::-1])
    capsys.readouterr()
    assert run(["analyse", str(store), "--only", "norms"]) in (1, 2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "mine.npz" in err and "--dataset" in err
    assert run(["analyse", str(store), "--only", "norms", "--dataset", "other.npz"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "holds other images" in err
    assert (
        run(["analyse", str(store), "--only", "norms", "geometry", "--dataset", "moved.npz"]) == 0
    )
    out = capsys.readouterr().out
    assert "the only FLR is 0.01: no low-high pairs" in out
    assert "no averages of k = 5 checkpoints: those of 3 are taken" in out
    assert fasttrain.load_analyses(store)["pairs"]["pair"].tolist() == ["swa-low", "swa-low"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--low", "0.5"], ["--low 0.5", "0.01, 0.02"]),
        (["--low", "0.02", "--high", "0.01"], ["low = 0.02", "must be below", "high = 0.01"]),
        (["--k", "0"], ["k = 0"]),
        (["--only", "shape"], ["shape", "norms"]),
        (["--device", "tpu"], ["tpu", "cpu"]),
        (["--processes", "0"], ["processes = 0", "greater than 0"]),
        (["--only", "transfer"], ["transfer needs target"]),
        (["--target-train", "50"], ["target_train = 50", "needs target"]),
        (["--only", "norms", "--target", "digits"], ["target = 'digits'", "only = norms"]),
        (["--target", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["--target", "none.npz"], ["none.npz"]),
        (["--target", "nowhere:images"], ["nowhere"]),
        (["--target", "digits", "--target-train", "0"], ["target_train = 0"]),
        (["--target", "digits", "--target-test", "9000"], ["n_test is 9000", "360"]),
    ],
)
def test_wrong_usage_is_one_line(fresh, capsys, arguments, words):
    assert run(["analyse", str(fresh), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(word in err for word in words)
    assert not files(fresh)


def test_a_store_without_stages_and_a_damaged_record_are_one_line(analysed, tmp_path, capsys):
    assert run(["analyse", str(tmp_path / "nothing")]) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(analysed / "store.json", empty)
    assert run(["analyse", str(empty)]) == 1
    assert "nothing to analyse" in capsys.readouterr().err
    store = shutil.copytree(analysed, tmp_path / "store")
    damaged = next((store / "analyses").glob("*/bands.parquet"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(fasttrain.errors.EnvironmentProblem, match="run fasttrain analyse"):
        fasttrain.load_analyses(store)


def test_stages_that_ended_early_are_left_out_and_named(fresh, capsys):
    stages = fasttrain.load(fresh)
    lost = stages[(stages["kind"] == "finetune") & (stages["plr"] == 0.1) & (stages["flr"] == 0.02)]
    [stage] = lost["stage"]
    store = Store.open(fresh, create=False)
    summary = store.summary(stage) or {}
    metrics = store.read(stage, "metrics.parquet")
    (fresh / stage / "state.safetensors").unlink()
    nothing = dict.fromkeys(summary["result"])
    ended = {key: value for key, value in summary.items() if key != "files"}
    ended |= {"state": "non-finite", "result": nothing}
    store.finish(stage, {"metrics.parquet": metrics}, ended)
    assert len(pd.read_parquet(io.BytesIO(metrics)))
    assert run(["analyse", str(fresh), "--only", "geometry"]) == 0
    assert "left out: 1 stages that ended without a network (PLR 0.1)" in capsys.readouterr().out
    tables = fasttrain.load_analyses(fresh)
    assert len(tables["pairs"]) == 3 + 1
    assert len(tables["angles"]) == 9 * 8 / 2


def test_columns_that_a_table_has_no_more_are_left_out(fresh):
    store = Store.open(fresh, create=False)
    row = {column: [0] for column in TABLES["sharpness"]} | {"stage": ["a" * 16], "gone": [1.0]}
    older = Analysis("sharpness", ("a" * 16,), {}, 0, "older")
    save(older, {"sharpness": pd.DataFrame(row)}, {}, store)
    choose({"s": {"sharpness": [older]}}, store)
    tables = fasttrain.load_analyses(fresh)
    assert list(tables["sharpness"]) == list(TABLES["sharpness"])
    assert len(tables["sharpness"]) == 1
    assert tables["eigenvalues"].empty


def test_eigenvalues_are_ranked_for_every_stage(analysed):
    tables = fasttrain.load_analyses(analysed)
    ranks = tables["eigenvalues"].groupby("stage")
    assert set(ranks.groups) == set(tables["sharpness"]["stage"])
    for _, rows in ranks:
        assert rows["rank"].tolist() == list(range(1, 1 + HessianSettings().num_eigenvalues))
        assert rows["value"].is_monotonic_decreasing
        assert (rows["residual"] < 0.1).all()
