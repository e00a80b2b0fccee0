"""The command of a cell is one that the program takes, and names the same stages."""

import shlex

import pytest

from fasttrain.cli.arguments import Train
from fasttrain.cli.usage import parse, preset_config
from fasttrain.report.page.cell_command import NoCommand, train_command

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
