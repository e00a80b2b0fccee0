"""Chains of legs: what trains, from where, in which bits; what they share."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import fasttrain as package
from fasttrain.errors import UsageError
from fasttrain.plan.config import check
from fasttrain.plan.identity import path_of, stage_identity
from fasttrain.plan.trees import build
from fasttrain.store.setups import load_setups
from fasttrain.store.store import Store

from .chains import THREE, study


def states(store: Path) -> dict[str, bytes]:
    """Every state and table of metrics of a store, by stage and name."""
    names = ("state.safetensors", "metrics.parquet")
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for name in names
        for path in store.glob(f"*/{name}")
    }


def test_a_chain_trains_every_combination_once_from_the_end_before_it(fasttrain, tmp_path):
    assert fasttrain("sweep", study(tmp_path, THREE), "--store", "s", "--pack", "3").code == 0
    table = package.load("s")
    assert (table["experiment"] == "chain").all()
    counts = table.groupby(["depth", "kind"]).size().to_dict()
    assert counts == {
        (1, "pretrain"): 2,
        (2, "finetune"): 2,
        (3, "leg"): 8,
        (3, "average"): 8,
    }
    last = table[(table["kind"] == "leg") & (table["plr"] == 2e-2)]
    assert set(last["path"]) == {
        f"0.02>0.001>{lr:g} weight_decay {decay:g}" for lr in (1e-3, 2e-3) for decay in (0, 1e-2)
    }
    assert set(last["parent"]) == set(table.loc[table["path"] == "0.02>0.001", "stage"])
    assert (last["epoch"] == 5).all() and set(last["weight_decay"]) == {0.0, 1e-2}
    # The knobs reach the step: nothing of what differs in one of them is the same.
    assert last["train_loss"].nunique() == 4


def test_a_chain_of_packs_equals_one_of_single_runs(fasttrain, tmp_path):
    chain = study(tmp_path, THREE)
    assert fasttrain("sweep", chain, "--store", "packed", "--pack", "4").code == 0
    assert fasttrain("sweep", chain, "--store", "single", "--pack", "1").code == 0
    packed, single = package.load("packed"), package.load("single")
    assert packed["stage"].equals(single["stage"])
    difference = (packed["train_loss"] - single["train_loss"]).abs().max()
    assert difference < 1e-3


def test_inheriting_the_optimizer_is_another_leg_than_inheriting_weights(fasttrain, tmp_path):
    legs = "[experiment]\nkind = 'chain'\nlegs = [{ lr = 1e-2, epochs = 2 }, %s]\n"
    for name, inherit in (("with", ", inherit = 'optimizer'"), ("without", "")):
        chain = study(tmp_path, legs % f"{{ lr = 1e-2, epochs = 1{inherit} }}")
        assert fasttrain("sweep", chain, "--store", name, "--pack", "1").code == 0
    first, second = package.load("with"), package.load("without")
    assert first["stage"][0] == second["stage"][0] and first["stage"][1] != second["stage"][1]
    # With the state it is the longer leg itself, bit for bit.
    longer = study(tmp_path, "[experiment]\nkind = 'chain'\nlegs = [{ lr = 1e-2, epochs = 3 }]\n")
    assert fasttrain("sweep", longer, "--store", "longer", "--pack", "1").code == 0
    whole = package.load("longer")["train_loss"][0]
    assert first["train_loss"][1] == whole != second["train_loss"][1]


@pytest.mark.parametrize("cadence", ["1", "2", "3"])
def test_a_longer_grid_trains_only_the_rest_in_the_bits_of_one_from_the_start(
    fasttrain, tiny, tmp_path, cadence
):
    grid = ("sweep", tiny, "--flr", "none", "--k", "none", "--pack", "2", "--processes", "1")
    grid += ("--evaluate-every", cadence)
    assert fasttrain(*grid, "--epochs", "7", "--store", "whole").code == 0
    assert fasttrain(*grid, "--epochs", "3", "--store", "grown").code == 0
    first = package.load("grown")
    plan = fasttrain(*grid, "--epochs", "7", "--store", "grown", "--dry-run").out
    assert "left: 2 stages, 8 epochs" in plan
    assert fasttrain(*grid, "--epochs", "7", "--store", "grown").code == 0
    grown, whole = states(tmp_path / "grown"), states(tmp_path / "whole")
    assert whole.items() <= grown.items() and len(whole) == 4
    # What it grew from is still there.
    assert set(first["stage"]) < set(package.load("grown")["stage"])


def test_fine_tunings_grow_too_and_what_they_started_from_does_not(fasttrain, tiny, tmp_path):
    grid = ("sweep", tiny, "--k", "none", "--pack", "4", "--processes", "1")
    assert fasttrain(*grid, "--finetune-epochs", "1", "--store", "grown").code == 0
    plan = fasttrain(*grid, "--finetune-epochs", "3", "--store", "grown", "--dry-run").out
    assert "left: 2 stages, 4 epochs" in plan
    assert fasttrain(*grid, "--finetune-epochs", "3", "--store", "grown").code == 0
    assert fasttrain(*grid, "--finetune-epochs", "3", "--store", "whole").code == 0
    assert states(tmp_path / "whole").items() <= states(tmp_path / "grown").items()


def test_a_leg_grows_from_the_longest_shorter_one_and_from_no_replaced_one(
    fasttrain, tiny, tmp_path
):
    grid = ("sweep", tiny, "--flr", "none", "--k", "none", "--pack", "1", "--processes", "1")
    for epochs in ("2", "5"):
        assert fasttrain(*grid, "--epochs", epochs, "--store", "s").code == 0
    dry = (*grid, "--epochs", "6", "--store", "s", "--dry-run")
    assert "left: 2 stages, 2 epochs" in fasttrain(*dry).out
    table = package.load("s")
    for stage in table.loc[table["epochs"] == 5, "stage"]:
        shutil.rmtree(tmp_path / "s" / stage)
    assert "left: 2 stages, 8 epochs" in fasttrain(*dry).out


def test_a_leg_that_ended_without_a_network_ends_there_when_it_is_longer(fasttrain, tiny, tmp_path):
    grid = ("sweep", tiny, "--plr", "1e-3,1e180", "--flr", "none", "--k", "none", "--pack", "2")
    assert fasttrain(*grid, "--epochs", "2", "--store", "grown").code == 0
    assert fasttrain(*grid, "--epochs", "4", "--store", "grown").code == 0
    assert fasttrain(*grid, "--epochs", "4", "--store", "whole").code == 0
    grown, whole = package.load("grown"), package.load("whole")
    assert whole["state"].tolist() == ["done", "non-finite"]
    longer = grown[grown["stage"].isin(whole["stage"])].reset_index(drop=True)
    assert longer[["stage", "state", "epoch"]].equals(whole[["stage", "state", "epoch"]])
    assert states(tmp_path / "whole").items() <= states(tmp_path / "grown").items()


def test_a_leg_ends_once_its_training_loss_is_reached(fasttrain, tiny, tmp_path):
    grid = ("sweep", tiny, "--plr", "1e-3,2e-3", "--flr", "1e-3", "--k", "none", "--pack", "2")
    grid += ("--processes", "1", "--evaluate-every", "100")
    assert fasttrain(*grid, "--epochs", "12", "--store", "whole").code == 0
    curves = package.load_epochs("whole")
    curves = curves[curves["kind"] == "pretrain"]
    bound = float(
        curves.loc[(curves["plr"] == 1e-3) & (curves["epoch"] == 6), "train_loss"].iloc[0]
    )
    stopped = (*grid, "--until-loss", f"{bound * 1.0001:.9g}")
    assert fasttrain(*stopped, "--epochs", "12", "--store", "s").code == 0
    table = package.load("s")
    roots = table[table["kind"] == "pretrain"].set_index("plr")
    for plr, rows in curves.groupby("plr"):
        reached = rows.loc[rows["train_loss"] < bound * 1.0001, "epoch"].min()
        assert roots.loc[plr, "epoch"] == (12 if pd.isna(reached) else reached)
    assert (roots["state"] == "done").all() and roots["test_accuracy"].notna().all()
    # What it starts is trained from there, for all of its epochs.
    tuned = table[table["kind"] == "finetune"]
    assert len(tuned) == 2 and (tuned["epoch"] == 12 + tuned["epochs"]).all()
    # A longer bound on the length changes nothing of what has ended.
    assert fasttrain(*stopped, "--epochs", "14", "--store", "s").code == 0
    again = package.load("s")
    again = again[(again["kind"] == "pretrain") & (again["epochs"] == 14)].set_index("plr")
    assert again.loc[1e-3, "epoch"] == roots.loc[1e-3, "epoch"]
    assert again.loc[1e-3, "train_loss"] == roots.loc[1e-3, "train_loss"]


def test_grid_and_chain_of_one_store_share_legs_and_stand_apart(fasttrain, tmp_path):
    grid = "[grid]\nplr = [1e-2, 2e-2]\nflr = [1e-3]\nk = []\n"
    chain = (
        "[experiment]\nkind = 'chain'\nlegs = [{lr = 1e-2, epochs = 2}, {lr = 3e-3, epochs = 1}]"
    )
    lengths = ("--epochs", "2", "--finetune-epochs", "1")
    assert fasttrain("sweep", study(tmp_path, grid), *lengths, "--store", "s").code == 0
    assert fasttrain("sweep", study(tmp_path, chain), "--store", "s").code == 0
    assert len(package.load("s")) == 5
    stages, configurations = load_setups("s")
    kinds = {c["experiment"]["kind"]: setup for setup, c in configurations.items()}
    assert set(kinds) == {"plr-flr", "chain"}
    of_chain = stages[stages["setup"] == kinds["chain"]]
    assert of_chain["path"].tolist() == ["0.01", "0.01>0.003"]
    assert (stages["setup"] == kinds["plr-flr"]).sum() == 4
    page = (tmp_path / "s" / "report" / "report.html").read_text()
    assert "0.01 → 0.003" in page


def test_shared_beginnings_are_one_stage():
    legs = [
        [{"lr": 0.1, "epochs": 2}, {"lr": 0.01, "epochs": 1}],
        [{"lr": 0.1, "epochs": 2}, {"lr": [0.01, 0.02], "epochs": 1}],
    ]
    stages = build(check({"experiment": {"kind": "chain", "legs": legs}}, "x"), ())
    assert [stage.label() for stage in stages] == [
        "pretrain plr 0.1 seed 0",
        "finetune plr 0.1 flr 0.01 seed 0",
        "finetune plr 0.1 flr 0.02 seed 0",
    ]


@pytest.mark.parametrize(
    "legs, words",
    [
        ([], "experiment.legs = []: must be a list of legs"),
        ([[]], "chain 1 of 1 has no leg"),
        ([{"lr": 0.1}], "experiment.legs.epochs: is missing; every leg needs it"),
        ([{"lr": 0.1, "epoch": 3}], "no such key (did you mean 'epochs'?)"),
        ([{"lr": [], "epochs": 3}], "empty: give at least one learning rate"),
        ([{"lr": 0.1, "epochs": 3, "inherit": "optimizer"}], "leg 1: inherit = 'optimizer'"),
        ([{"lr": 0.1, "epochs": 3}, {"lr": 0.1, "epochs": 3, "inherit": "optimizer"}], "keeps no"),
        ([{"lr": 0.1, "epochs": 3, "weight_decay": 0.1}], "weight_decay = 0.1: the optimizer is"),
        ([{"lr": 0.1, "epochs": 3, "until_loss": 0}], "until_loss = 0"),
        ([{"lr": list(range(1, 400)), "epochs": 1}] * 2, "159600 stages"),
    ],
)
def test_a_chain_that_cannot_be_trained_is_one_line(legs, words):
    with pytest.raises(UsageError) as raised:
        check({"experiment": {"kind": "chain", "legs": legs}}, "file.toml")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_weight_decay_that_an_optimizer_of_ones_own_would_not_hear_of_is_refused():
    legs = [{"lr": 0.1, "epochs": 1, "weight_decay": 0.1}]
    own = {"kind": "custom", "factory": "torch.optim:NAdam"}
    table = {"experiment": {"kind": "chain", "legs": legs}, "optimizer": own}
    with pytest.raises(UsageError, match="the optimizer is custom, whose factory"):
        check(table, "file.toml")


def test_what_a_chain_has_no_use_for_is_refused(fasttrain, tmp_path):
    chain = study(tmp_path, THREE)
    for flags, words in (
        (("--plr", "0.1"), "grid.plr"),
        (("--epochs", "3"), "training.epochs"),
        (("--until-loss", "1"), "training.until_loss"),
    ):
        outcome = fasttrain("sweep", chain, *flags)
        assert outcome.code == 2 and words in outcome.err and "chain" in outcome.err
    for command in ("train", "locate"):
        outcome = fasttrain(command, chain)
        assert outcome.code == 2 and "is a chain of legs" in outcome.err
    both = study(tmp_path, "[grid]\nplr = [0.1]\n" + THREE)
    assert "grid.plr" in fasttrain("sweep", both).err


def test_tables_of_a_store_from_before_there_were_chains_have_their_paths(
    fasttrain, tiny, tmp_path
):
    assert fasttrain("sweep", tiny, "--store", "s").code == 0
    store = Store.open(tmp_path / "s", create=False)
    for stage in store.stages():
        about = store.description(stage)
        path = about["path"]
        old = {k: v for k, v in about.items() if k not in ("path", "experiment", "until_loss")}
        assert [leg["lr"] for leg in path_of(old)] == [leg["lr"] for leg in path]
        assert [leg["epochs"] for leg in path_of(old)] == [leg["epochs"] for leg in path]
        assert stage_identity(old) == stage
