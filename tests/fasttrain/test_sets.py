"""Probe sets: every test pass scores them; the long table; averages; longer legs."""

import numpy as np
import pandas as pd
import pytest

import fasttrain as ft
from fasttrain.store.entries import METRICS
from fasttrain.store.sets import last_sets, load_sets
from fasttrain.store.store import Store
from fasttrain.store.tables import finished
from fasttrain_data import load


@pytest.fixture
def probed(tmp_path):
    """The path of digits with two probe sets: the test set itself, and its labels moved by one."""
    digits = load("digits").subset(n_train=150, n_test=50)
    path = tmp_path / "probed.npz"
    np.savez(
        path,
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
        probe_same_images=digits.test_images,
        probe_same_labels=digits.test_labels,
        probe_moved_images=digits.test_images[:30],
        probe_moved_labels=(digits.test_labels[:30] + 1) % 10,
    )
    return path


def study(path, **keys):
    grid = {"plr": [1e-3, 3e-3], "flr": [1e-3], "k": [2], "epochs": 4, "finetune_epochs": 2}
    return ft.study("digits", dataset=str(path), width=2, batch_size=50, **{**grid, **keys})


def test_every_test_pass_scores_every_set(probed, tmp_path):
    results = ft.sweep(study(probed, evaluate_every=3), store=tmp_path / "s", pack=2)
    stages, sets = results.stages, results.sets
    assert sets.columns.tolist() == ["stage", "epoch", "set", "loss", "accuracy"]
    assert set(sets["set"]) == {"test", "same", "moved"}
    wide = sets.pivot(index=["stage", "epoch"], columns="set", values=["loss", "accuracy"])
    for quantity in ("loss", "accuracy"):
        assert (wide[quantity]["same"] == wide[quantity]["test"]).all()
    assert (wide["loss"]["moved"] > wide["loss"]["test"]).mean() > 0.9
    epochs = sets.groupby("stage")["epoch"].unique().map(list)
    kinds = stages.set_index("stage")["kind"]
    for stage, tested in epochs.items():
        # Every third epoch and the last; of an average its own scores alone.
        assert tested == {"pretrain": [3, 4], "finetune": [6], "swa": [5]}[kinds[stage]]
    last = sets[sets["set"] == "test"].groupby("stage").tail(1).set_index("stage")["accuracy"]
    assert last.equals(
        stages.set_index("stage")["test_accuracy"].loc[last.index].rename("accuracy")
    )
    figure = results.figure("sets")
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["test", "moved", "same"]


def test_a_longer_leg_keeps_the_cadence_of_its_probes(probed, tmp_path):
    keys = {"flr": [], "k": [], "evaluate_every": 3}
    whole = ft.sweep(study(probed, epochs=7, **keys), store=tmp_path / "whole", pack=2)
    ft.sweep(study(probed, epochs=4, **keys), store=tmp_path / "grown", pack=2)
    grown = ft.sweep(study(probed, epochs=7, **keys), store=tmp_path / "grown", pack=2)
    pd.testing.assert_frame_equal(whole.sets, grown.sets)


def test_figures_of_grids_have_the_last_pass_of_every_stage(probed, tmp_path):
    ft.sweep(study(probed, evaluate_every=2), store=tmp_path / "s", pack=2)
    store = Store.open(tmp_path / "s", create=False)
    # As if its loss had become infinite after its last test pass.
    lost = next(f for f in finished(store.path) if f.about["kind"] == "pretrain")
    files = {METRICS: store.read(lost.stage, METRICS)}
    ended = {"state": "non-finite", "result": dict.fromkeys(lost.done["result"])}
    store.finish(lost.stage, files, {**lost.done, **ended})
    found = finished(store.path)
    whole = load_sets(store.path, found)
    last = whole[whole["epoch"] == whole.groupby("stage")["epoch"].transform("max")]
    assert len(whole) > len(last) and lost.stage in set(last["stage"])
    pd.testing.assert_frame_equal(last_sets(store.path, found), last.reset_index(drop=True))


def test_a_set_without_probes_says_so(tmp_path):
    results = ft.sweep(study("digits", n_train=100, epochs=1), store=tmp_path / "s", pack=2)
    assert set(results.sets["set"]) == {"test"}
    with pytest.raises(ft.UsageError, match="no probe sets"):
        results.figure("sets")
