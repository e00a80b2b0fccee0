"""The command of a cell is one that the program takes, and names the same stages."""

import json
import shlex

import pytest

import fasttrain as ft
from fasttrain.cli.arguments import Train
from fasttrain.cli.usage import parse, preset_config
from fasttrain.report.page.cell_command import NoCommand, train_command
from fasttrain.report.page.cell_snippet import PLACE

from .pages import CONFIG


def _parsed(command: str) -> Train:
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("fasttrain", "train")
    config = preset_config("train", arguments)
    return parse(Train, "train", arguments, Train.of(config, plr=1.0))


def test_flags_of_the_set_up_are_kept_and_those_of_the_grid_dropped():
    recorded = (
        "fasttrain sweep digits --plr 1e-3:1:9 --flr 0.001,0.002 --k 2,3 --seeds 3 --width 16 "
        "--n-train 300 --n_test=100 --store 'my store; 2' --epochs 4 --flip --quiet --pack 2"
    )
    training = {**CONFIG["training"], "epochs": 4}
    network = {**CONFIG["network"], "width": 16}
    configuration = {**CONFIG, "training": training, "network": network}
    configuration["data"] = {**CONFIG["data"], "flip": True}
    command = train_command(configuration, [recorded])
    for option in ("--seeds", "0.002", "1e-3:1:9", "--quiet", "--pack"):
        assert option not in command
    made = _parsed(f"{command} --plr 0.0123457 --flr 0.001 --seed 2")
    assert (made.plr, made.flr, made.k, made.seed) == (0.0123457, 0.001, (), 2)
    assert made.network.width == 16 and made.training.epochs == 4 and made.data.flip
    assert (made.data.n_train, made.data.n_test) == (300, 100)
    assert made.options.store is not None and made.options.store.name == "my store; 2"
    assert _parsed(f"{command} --plr 0.5 --k 5 --seed 0").k == (5,)


def test_the_configuration_decides_where_commands_differ_from_it():
    """As for a set-up whose stages a second command extended, or a preset that has changed."""
    network = {**CONFIG["network"], "width": 16}
    configuration = {**CONFIG, "network": network}
    commands = ["fasttrain sweep digits --width 8", "fasttrain train cifar10-convnet --plr 1"]
    command = train_command(configuration, commands)
    assert command == "fasttrain train digits --width 16"


def test_a_set_up_without_fine_tuning_has_no_length_of_it():
    training = {**CONFIG["training"], "finetune_epochs": None}
    command = train_command({**CONFIG, "training": training}, ["fasttrain sweep digits"])
    assert command == "fasttrain train digits"


@pytest.mark.parametrize(
    "recorded, why",
    [
        ([], "no command of a sweep is recorded"),
        (["fasttrain bench grid"], "no command of a sweep is recorded"),
        (["fasttrain sweep gone.toml"], "gone.toml: cannot be read"),
    ],
)
def test_what_cannot_be_given_says_why(recorded, why):
    with pytest.raises(NoCommand, match=why):
        train_command(CONFIG, recorded)


def test_a_store_made_from_python_has_python_that_makes_the_same_stages(tmp_path):
    """Of one cell: of both seeds, and no other rate."""
    keys = {"plr": [1e-3, 1e-2], "flr": [1e-3, 2e-3], "epochs": 2, "finetune_epochs": 1}
    small = {"n_train": 100, "n_test": 50, "width": 2, "seeds": 2, "k": []}
    results = ft.sweep(ft.study("digits", **keys, **small), store=tmp_path / "s", processes=1)
    about = [json.loads(p.read_text()) for p in (tmp_path / "s").glob("*/done.json")]
    recorded = {done["provenance"]["command"] for done in about}
    snippet = train_command(CONFIG, recorded)
    assert snippet.count(PLACE) == 1 and snippet.startswith("import fasttrain as ft\nft.sweep(")
    cell = snippet.replace(PLACE, "plr=[0.001], flr=[0.002], k=[]")
    exec(cell.replace(str(tmp_path / "s"), str(tmp_path / "again")), {})
    again, all_of = ft.Results(tmp_path / "again").stages, results.stages
    chosen = (all_of["plr"] == 1e-3) & (all_of["flr"].isna() | (all_of["flr"] == 2e-3))
    assert set(again["stage"]) == set(all_of.loc[chosen, "stage"]) and len(again) == 4


def test_rates_in_a_table_give_way_and_what_has_no_snippet_says_why():
    call = "import fasttrain as ft; ft.sweep(ft.study('digits', grid={'plr': [1], 'seeds': 3}))"
    line = shlex.join(["python", "-c", call])
    assert train_command(CONFIG, [line]).endswith(
        "ft.sweep(ft.study('digits', {cell}, grid={'seeds': 3}))"
    )
    # A command is preferred where there is one.
    assert train_command(CONFIG, [line, "fasttrain sweep digits"]) == "fasttrain train digits"
    for code, why in {
        call.replace("3}", "'per-rate'}"): "every rate has a seed of its own",
        "import fasttrain as ft; ft.locate(ft.study('digits'))": "no sweep of a study",
        "ft.sweep(": "no sweep of a study",
    }.items():
        with pytest.raises(NoCommand, match=why):
            train_command(CONFIG, [shlex.join(["python", "-c", code])])


def test_flags_of_the_optimiser_make_the_one_that_the_set_up_has():
    made = {"kind": "adam", "betas": [0.8, 0.99], "eps": 1e-8, "weight_decay": 0.5}
    command = train_command({**CONFIG, "optimizer": made}, ["fasttrain sweep digits"])
    assert command == (
        "fasttrain train digits --optimizer adam --betas 0.8 0.99 --weight-decay 0.5"
    )
    assert _parsed(f"{command} --plr 1").optimizer.betas == (0.8, 0.99)
    same = {"kind": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    command = train_command({**CONFIG, "optimizer": same}, ["fasttrain sweep digits-practical"])
    assert "optimizer" not in command and "momentum" not in command
