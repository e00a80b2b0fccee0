"""The main job: a grid runs once, resumes, grows, and its results mean what they say."""

import json
import re

import pandas as pd
import safetensors.torch
import torch

import fasttrain as package
from fasttrain.store.setups import load_setups
from fasttrain.training.progress import COLUMNS

from .conftest import contents


def finish_times(store):
    return {p.parent.name: p.stat().st_mtime_ns for p in store.glob("*/done.json")}


def test_a_grid_end_to_end(fasttrain, tiny, tmp_path):
    outcome = fasttrain("sweep", tiny)
    assert outcome.code == 0, outcome.err
    store = tmp_path / "runs" / "tiny"
    assert outcome.out.splitlines()[-1] == "report: runs/tiny/report/report.html"
    table = package.load(store)
    assert table["kind"].tolist() == ["pretrain"] * 2 + ["finetune"] * 2 + ["swa"] * 4
    assert table["plr"].tolist() == [0.01, 0.1, 0.01, 0.1, 0.01, 0.01, 0.1, 0.1]
    assert table["flr"].dropna().tolist() == [0.01, 0.01]
    assert table["k"].dropna().tolist() == [2, 3, 2, 3]
    assert table["epoch"].tolist() == [3, 3, 5, 5, 4, 5, 4, 5]
    assert set(table["dataset"]) == {"digits"} and set(table["width"]) == {2}
    assert table[["train_loss", "test_accuracy"]].notna().all(axis=None)
    for name in ("grad_norm", "distance"):
        assert table[name].isna().tolist() == [False] * 4 + [True] * 4
    csv = pd.read_csv(store / "report" / "results.csv")
    assert csv["test_accuracy"].tolist() == table["test_accuracy"].tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(store / "report" / "results.parquet"), table)
    epochs = package.load_epochs(store)
    assert len(epochs) == 2 * 3 + 2 * 2 + 2 * (1 + 2)
    last = epochs[(epochs["kind"] == "pretrain") & (epochs["epoch"] == 3)]
    pretrained = table[table["kind"] == "pretrain"]
    assert last["train_loss"].tolist() == pretrained["train_loss"].tolist()


def test_nothing_finished_runs_again_and_a_grown_grid_runs_only_what_is_new(
    fasttrain, tiny, tmp_path
):
    store = tmp_path / "runs" / "tiny"
    assert fasttrain("sweep", tiny).code == 0
    first = finish_times(store)
    assert fasttrain("sweep", tiny).code == 0
    assert finish_times(store) == first
    grown = ("--plr", "1e-2,1e-1,0.3", "--flr", "1e-2,1e-3", "--k", "2,3,4", "--seeds", "2")
    assert fasttrain("sweep", tiny, *grown).code == 0
    second = finish_times(store)
    assert len(second) == 2 * 3 * (1 + 2 + 3)
    assert {stage: second[stage] for stage in first} == first


def test_the_order_of_averages_does_not_change_their_bits(fasttrain, tiny, tmp_path):
    for store, counts in (("grown", ["2", "2,3"]), ("direct", ["3"])):
        for k in counts:
            assert fasttrain("sweep", tiny, "--store", store, "--k", k).code == 0
    grown, direct = contents(tmp_path / "grown"), contents(tmp_path / "direct")
    assert len(direct) == 3 * 6
    assert {name: grown[name] for name in direct} == direct


def test_what_was_given_up_with_its_parent_runs_once_that_has_run_to_its_end(
    fasttrain, tiny, tmp_path
):
    options = ("--epochs", "16", "--n-train", "500")
    sweep = ("sweep", tiny, "--plr", "1e-3,1", "--k", "2", *options, "--stop-at-chance")
    train = ("train", tiny, "--plr", "1", *options)
    wanted = [(sweep, [True] * 3), (train, [False, True, True]), (sweep, [False] * 3)]
    for arguments, stopped in wanted:
        assert fasttrain(*arguments).code == 0
        table = package.load(tmp_path / "runs" / "tiny")
        assert table[table["plr"] == 1]["stopped"].tolist() == stopped


def test_results_do_not_depend_on_the_way_a_grid_is_written(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--k", "none").code == 0
    plr = ["--plr", "0.01:0.1:2", "--flr", "0.0100000001", "--k", "none"]
    assert fasttrain("sweep", tiny, *plr).code == 0
    assert len(package.load(tmp_path / "runs" / "tiny")) == 4


def test_a_non_finite_loss_is_a_result_that_is_kept(fasttrain, tiny, tmp_path):
    arguments = ("sweep", tiny, "--plr", "1e-2,1e180")
    assert fasttrain(*arguments).code == 0
    table = package.load(tmp_path / "runs" / "tiny")
    lost = table[table["plr"] == 1e180]
    assert lost["state"].tolist() == ["non-finite"] * 4
    assert lost["epoch"].tolist()[0] == 1
    assert lost["train_loss"].isna().all()
    assert (table[table["plr"] == 1e-2]["state"] == "done").all()
    times = finish_times(tmp_path / "runs" / "tiny")
    assert fasttrain(*arguments).code == 0
    assert finish_times(tmp_path / "runs" / "tiny") == times


def test_a_hopeless_run_is_given_up_if_the_user_allows_it_and_runs_in_full_otherwise(
    fasttrain, tiny, tmp_path
):
    grid = ("sweep", tiny, "--plr", "1e-3,1", "--epochs", "16", "--k", "2", "--n-train", "500")
    assert fasttrain(*grid, "--stop-at-chance").code == 0
    table = package.load(tmp_path / "runs" / "tiny")
    given_up = table[table["stopped"]]
    assert given_up["plr"].tolist() == [1.0] * 3
    assert given_up["state"].tolist() == ["at-chance"] * 3
    assert given_up["epoch"].tolist() == [10, 16, 16]
    assert table[~table["stopped"]]["epoch"].tolist() == [16, 18, 17]
    times = finish_times(tmp_path / "runs" / "tiny")
    assert fasttrain(*grid, "--stop-at-chance").code == 0
    assert finish_times(tmp_path / "runs" / "tiny") == times
    # Without the permission only what was given up runs, and to its end.
    assert "left: 3 stages" in fasttrain(*grid, "--dry-run").out
    assert fasttrain(*grid).code == 0
    full = package.load(tmp_path / "runs" / "tiny")
    assert not full["stopped"].any()
    assert full["epoch"].tolist() == [16, 16, 18, 18, 17, 17]
    again = finish_times(tmp_path / "runs" / "tiny")
    kept = set(table[~table["stopped"]]["stage"])
    assert {s: again[s] for s in kept} == {s: times[s] for s in kept}


def test_dry_run_counts_and_writes_nothing(fasttrain, tiny, tmp_path):
    outcome = fasttrain("sweep", tiny, "--dry-run")
    assert outcome.code == 0
    assert not (tmp_path / "runs").exists()
    words = " ".join(outcome.out.split())
    assert "pretrain 2 stages: 2 todo" in words
    assert "finetune 2 stages: 2 todo" in words
    assert "swa 4 stages: 4 todo" in words
    assert "2 pre-training runs serve 6 later stages" in words
    # 2 x (3 pre-training + 2 fine-tuning + 2 continuing), against every chain by itself.
    assert "left: 8 stages, 14 epochs (28 without sharing)" in words
    assert "estimate:" in words
    assert fasttrain("sweep", tiny, "--k", "2").code == 0
    words = " ".join(fasttrain("sweep", tiny, "--dry-run").out.split())
    assert "pretrain 2 stages: 1 done, 1 at-chance" in words
    assert "swa 4 stages: 1 done, 1 at-chance, 2 todo" in words


def test_train_runs_one_cell_that_the_sweep_shares(fasttrain, tiny, tmp_path):
    outcome = fasttrain("train", tiny, "--plr", "0.01", "--flr", "0.01", "--k", "2")
    assert outcome.code == 0, outcome.err
    assert "epoch 1/3" in outcome.out
    assert len(package.load(tmp_path / "runs" / "tiny")) == 3
    before = finish_times(tmp_path / "runs" / "tiny")
    assert fasttrain("sweep", tiny).code == 0
    after = finish_times(tmp_path / "runs" / "tiny")
    assert {stage: after[stage] for stage in before} == before
    assert len(after) == 8


def test_two_fine_tuning_lengths_are_two_grids_of_one_store(fasttrain, tiny, tmp_path):
    store = tmp_path / "runs" / "tiny"
    assert fasttrain("sweep", tiny, "--k", "none").code == 0
    outcome = fasttrain("sweep", tiny, "--k", "none", "--finetune-epochs", "1")
    assert outcome.code == 0
    assert outcome.out.count("pre-trained") == 1
    table = package.load(store)
    assert len(table) == table["stage"].nunique() == 6
    grids = load_setups(store)
    assert grids.stages.groupby("setup").size().tolist() == [4, 4]
    assert set(grids.stages["setup"]) == set(grids.configurations)
    lengths = [c["training"]["finetune_epochs"] for c in grids.configurations.values()]
    assert sorted(lengths) == [1, 2]


def test_what_is_left_counts_checkpoints_and_shorter_averages(
    fasttrain, tiny, tmp_path, monkeypatch
):
    def stop_in_the_second(_, stage, epoch, __):
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fasttrain.execution.progress.ProgressView.epoch", stop_in_the_second)
        assert fasttrain("sweep", tiny, "--plr", "0.1", "--k", "none").code == 130
    # 1 of 3 epochs of pre-training is left, and 2 of fine-tuning.
    words = fasttrain("sweep", tiny, "--plr", "0.1", "--k", "none", "--dry-run").out
    assert "left: 2 stages, 3 epochs" in words
    assert fasttrain("sweep", tiny, "--plr", "0.1", "--k", "3").code == 0
    words = fasttrain("sweep", tiny, "--plr", "0.1", "--k", "3,5", "--dry-run").out
    assert "left: 1 stages, 2 epochs" in words


def test_the_table_fits_eighty_columns(fasttrain, tiny):
    seeds = ("--seeds", "3", "--plr", "1.25e-2,1e-1", "--flr", "1.25e-3")
    outcome = fasttrain("sweep", tiny, *seeds)
    table = [line for line in outcome.out.splitlines() if " ± " in line]
    assert len(table) == 3
    assert "…" not in outcome.out
    assert max(len(line) for line in table) <= 80


def test_quiet_says_nothing_and_report_rebuilds(fasttrain, tiny, tmp_path):
    outcome = fasttrain("sweep", tiny, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    page = tmp_path / "runs" / "tiny" / "report" / "report.html"
    content = page.read_text()
    page.unlink()
    outcome = fasttrain("report", "runs/tiny")
    assert (outcome.code, outcome.out) == (0, "runs/tiny/report/report.html\n")
    # The same but for the moment at which the store was looked at.
    moment = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.")
    assert moment.sub("", page.read_text()) == moment.sub("", content)


def test_evaluation_cadence(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--evaluate-every", "2", "--k", "none").code == 0
    epochs = package.load_epochs(tmp_path / "runs" / "tiny")
    tested = epochs[epochs["test_accuracy"].notna()]
    assert sorted(set(tested["epoch"])) == [2, 3, 4, 5]
    assert package.load(tmp_path / "runs" / "tiny")["test_accuracy"].notna().all()


def test_the_cadence_of_tests_keeps_a_finished_grid_and_every_bit_of_the_weights(
    fasttrain, tiny, tmp_path
):
    longer = ("sweep", tiny, "--epochs", "5", "--finetune-epochs", "4", "--k", "2,4", "--store")
    for store, cadence in (("each", "1"), ("third", "3")):
        assert fasttrain(*longer, store, "--evaluate-every", cadence).code == 0
    each, third = contents(tmp_path / "each"), contents(tmp_path / "third")
    states = [name for name in each if name.endswith("state.safetensors")]
    assert len(states) == 8 and each.keys() == third.keys()
    # Series in a state hold the scores of tests: what is not tested is NaN.
    tests = [COLUMNS.index(column) for column in ("test_loss", "test_accuracy")]
    for name in states:
        one, other = (safetensors.torch.load(content[name]) for content in (each, third))
        for tensors in (one, other):
            tensors["series"][:, tests] = 0
            tensors["series"].nan_to_num_()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    ends = [package.load(tmp_path / store) for store in ("each", "third")]
    pd.testing.assert_frame_equal(*(table.drop(columns="time_s") for table in ends))
    times = finish_times(tmp_path / "each")
    grown = fasttrain(*longer, "each", "--evaluate-every", "3", "--plr", "1e-2,1e-1,0.3")
    assert grown.code == 0
    after = finish_times(tmp_path / "each")
    assert {stage: after[stage] for stage in times} == times and len(after) == 12
    # One grid, whose configuration names no cadence; the other store's does.
    [mixed], [same] = (
        list(load_setups(tmp_path / store).configurations.values()) for store in ("each", "third")
    )
    assert "evaluate_every" not in mixed["training"] and same["training"]["evaluate_every"] == 3
    assert fasttrain("analyse", "each", "--only", "geometry").code == 0


def test_a_stage_goes_on_with_another_cadence_in_the_same_bits(
    fasttrain, tiny, tmp_path, monkeypatch
):
    def stop_in_the_fourth(_, stage, epoch, __):
        if epoch == 4:
            raise KeyboardInterrupt

    cell = ("train", tiny, "--plr", "0.1", "--epochs", "6")
    assert fasttrain(*cell, "--store", "whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("fasttrain.execution.progress.ProgressView.epoch", stop_in_the_fourth)
        assert fasttrain(*cell, "--store", "mixed").code == 130
    assert fasttrain(*cell, "--store", "mixed", "--evaluate-every", "3").code == 0
    whole, mixed = (
        safetensors.torch.load(content)
        for store in ("whole", "mixed")
        for name, content in contents(tmp_path / store).items()
        if name.endswith("state.safetensors")
    )
    weights = [name for name in whole if name.startswith("model.")]
    assert weights and all(torch.equal(whole[name], mixed[name]) for name in weights)
    tested = package.load_epochs(tmp_path / "mixed")["test_accuracy"].notna()
    assert tested.tolist() == [True] * 4 + [False, True]


def test_done_files_say_what_they_vouch_for(fasttrain, tiny, tmp_path):
    assert fasttrain("sweep", tiny, "--k", "2").code == 0
    for done in (tmp_path / "runs" / "tiny").glob("*/done.json"):
        record = json.loads(done.read_text())
        assert set(record["files"]) == {
            "metrics.parquet",
            "stage.json",
            "state.safetensors",
        }
        assert record["provenance"]["command"].startswith("fasttrain sweep")
    assert not list((tmp_path / "runs" / "tiny").glob("checkpoints/*"))
