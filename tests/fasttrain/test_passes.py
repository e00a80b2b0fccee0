"""Passes over the training set at fixed weights: what they measure; they change nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

import fasttrain as ft
from fasttrain.analysis.sharpness import measure
from fasttrain.errors import UsageError
from fasttrain.plan.config import RunOptions, check, load_config
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.optimizers.kinds import Sphere
from fasttrain.store.columns import PASS_COLUMNS
from fasttrain.store.entries import STATE
from fasttrain.store.store import Store
from fasttrain.training.pack import Pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import Workbench, open_workbench

NAMES = list(PASS_COLUMNS)


def study(**keys):
    grid = {"plr": [1e-3, 1e-1], "flr": [1e-3], "k": [3], "epochs": 4, "finetune_epochs": 2}
    sizes = {"n_train": 150, "n_test": 50, "width": 2, "batch_size": 64}
    return ft.study("digits", **{**grid, **sizes, **keys})


def workbench_of(table, folder) -> Workbench:
    config = check(table, "here")
    return open_workbench(config, RunOptions(), folder, torch.device("cpu"), "fp32", {})


def tensors(path) -> dict[str, dict[str, torch.Tensor]]:
    store = Store.open(path, create=False)
    return {stage: store.read_tensors(stage, STATE) for stage in store.stages()}


@pytest.fixture(scope="module")
def passed(tmp_path_factory) -> ft.Results:
    """A grid with a pass after every third epoch."""
    store = tmp_path_factory.mktemp("passed") / "s"
    return ft.sweep(study(pass_every=3), store=store, pack=2)


def test_a_pass_measures_what_the_sharpness_of_the_end_is(tmp_path):
    table = {"data": {"n_train": 150, "flip": True}, "network": {"width": 2}}
    workbench = workbench_of(table, tmp_path / "s")
    pack = Pack(workbench, 0, [Knobs(lr=1e-3), Knobs(lr=1e-1)], None)
    found = pack.train(0, tested=False, passed=True).passes
    assert found is not None
    expected = measure(workbench, pack.states(), 0, hessian=None).sharpness
    columns = ["train_loss", "train_accuracy", "effective_grad_norm"]
    np.testing.assert_allclose(found.numpy(), expected[columns].to_numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"kind": "sgd", "momentum": 0.9}, "form": "practical"},
        {"dataset": "tick", "model": "mlp", "norm": "layer", "loss": "binary-cross-entropy"},
    ],
    ids=["sphere", "momentum", "kernel"],
)
def test_a_pass_changes_no_bit_of_training_and_no_identity(tmp_path, changes):
    ft.sweep(study(**changes), store=tmp_path / "without", pack=2)
    ft.sweep(study(**changes, pass_every=1), store=tmp_path / "with", pack=2)
    without, passed = tensors(tmp_path / "without"), tensors(tmp_path / "with")
    assert without.keys() == passed.keys()
    for stage, named in without.items():
        assert set(passed[stage]) == {*named, "passes"}
        for name, value in named.items():
            assert torch.equal(value.nan_to_num(), passed[stage][name].nan_to_num()), name
        assert passed[stage]["passes"].isfinite().all()


def test_passes_are_at_their_cadence_and_at_the_end_of_a_leg(passed):
    epochs = passed.epochs
    had = epochs[epochs["pass_loss"].notna()]
    found = {kind: sorted(set(rows["epoch"])) for kind, rows in had.groupby("kind")}
    # The run that goes on for an average has them by the cadence alone.
    assert found == {"pretrain": [3, 4], "finetune": [6], "swa": [6]}
    assert (had[NAMES].notna()).all(axis=None)
    assert "pass_loss" not in ft.sweep(study(), store=passed.store.parent / "other", pack=2).epochs


def test_a_longer_leg_keeps_the_cadence_of_its_passes(tmp_path):
    keys = {"flr": [], "k": [], "pass_every": 3}
    whole = ft.sweep(study(epochs=7, **keys), store=tmp_path / "whole", pack=2).epochs
    ft.sweep(study(epochs=4, **keys), store=tmp_path / "grown", pack=2)
    grown = ft.sweep(study(epochs=7, **keys), store=tmp_path / "grown", pack=2).epochs
    grown = grown[grown["stage"].isin(whole["stage"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        whole[["stage", "epoch", *NAMES]], grown[["stage", "epoch", *NAMES]]
    )
    assert set(whole.loc[whole["pass_loss"].notna(), "epoch"]) == {3, 6, 7}


def test_a_leg_that_goes_on_from_one_without_passes_has_none_before(tmp_path):
    keys = {"flr": [], "k": []}
    ft.sweep(study(epochs=2, **keys), store=tmp_path / "s", pack=2)
    epochs = ft.sweep(study(epochs=4, **keys, pass_every=1), store=tmp_path / "s", pack=2).epochs
    longer = epochs[epochs.groupby("stage")["epoch"].transform("max") == 4]
    assert set(longer.loc[longer["pass_loss"].notna(), "epoch"]) == {3, 4}


def test_turned_on_later_it_keeps_what_is_finished(tmp_path):
    keys = {"flr": [], "k": []}
    before = ft.sweep(study(**keys), store=tmp_path / "s", pack=2).epochs
    after = ft.sweep(study(**keys, pass_every=1), store=tmp_path / "s", pack=2).epochs
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize("value", [0, -1, 1.5, "x", True])
def test_a_cadence_that_is_none_is_refused_by_name(value):
    with pytest.raises(UsageError, match=r"here: training\.pass_every = "):
        check({"training": {"pass_every": value}}, "here")


def test_a_misspelt_cadence_has_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'pass_every'"):
        check({"training": {"passes_every": 2}}, "here")


def test_what_was_interrupted_goes_on_in_the_same_passes(tmp_path):
    table = {
        "data": {"n_train": 150},
        "network": {"width": 2},
        "training": {"epochs": 5, "pass_every": 2},
        "grid": {"plr": [1e-3, 1e-2], "flr": "none", "k": "none"},
    }
    tables = {}
    for name, at in (("whole", None), ("interrupted", 3)):
        Store.open(tmp_path / name, create=True)
        workbench = workbench_of(table, tmp_path / name)
        setup = setup_sections(workbench.config, workbench.data, "fp32")
        stages = list(build(workbench.config, setup))

        def on_epoch(stage, epoch, row, at=at):
            if epoch == at:
                raise KeyboardInterrupt

        if at is not None:
            with pytest.raises(KeyboardInterrupt):
                run_pack(stages, workbench, on_epoch)
            assert not tensors(tmp_path / name)
        run_pack(stages, workbench, lambda *_: None)
        tables[name] = {s: named["passes"] for s, named in tensors(tmp_path / name).items()}
    assert tables["whole"].keys() == tables["interrupted"].keys() and len(tables["whole"]) == 2
    for stage, passes in tables["whole"].items():
        assert passes.isfinite().all(dim=1).tolist() == [False, True, False, True, True]
        assert torch.equal(passes.nan_to_num(), tables["interrupted"][stage].nan_to_num())


@pytest.mark.parametrize("preset", ["digits-three-regimes", "cifar10-three-regimes"])
def test_presets_of_three_regimes_have_passes(preset):
    config = load_config(preset)
    assert config.training.pass_every is not None and not config.grid.flr and not config.grid.k
    assert config.optimizer == Sphere()
