"""Presets, TOML and lists of learning rates: what is accepted, and what is said of the rest."""

import dataclasses

import pytest

from fasttrain.errors import UsageError
from fasttrain.plan.config import Config, check, load_config, presets
from fasttrain.settings.rates import epoch_counts, learning_rates


def test_every_preset_loads():
    assert {"digits", "cifar10-convnet-cpu"} <= set(presets())
    for name in presets():
        assert load_config(name) != Config()


PUBLISHED = {
    "cifar10-resnet18": ("resnet18", 32, 28, 32),
    "cifar100-resnet18": ("resnet18", 32, 28, 16),
    "cifar10-convnet": ("convnet", 32, 12, 16),
    "cifar100-convnet": ("convnet", 128, 12, 16),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_hold_the_published_constants(name):
    config = load_config(name)
    model, width, radius, num_plr = PUBLISHED[name]
    network = config.network
    assert (network.model, network.width, network.radius) == (model, width, radius)
    training = config.training
    assert (training.epochs, training.finetune_epochs, training.batch_size) == (200, 200, 128)
    assert training.precision == "fp32"
    assert len(config.grid.plr) == num_plr
    assert config.grid.k == (2, 5, 10, 50, 100)
    assert not config.data.flip and config.data.crop_padding == 0


def test_learning_rate_lists():
    assert learning_rates("1e-5:1e-1:5") == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert learning_rates("3e-5, 1e-5") == (1e-5, 3e-5)
    assert learning_rates([1, 0.1]) == (0.1, 1.0)
    # The same grid written in two ways has the same canonical values.
    assert learning_rates("1e-5:1e-1:16") == learning_rates(list(learning_rates("1e-5:1e-1:16")))
    assert learning_rates("0.1234567") == (0.123457,)
    assert epoch_counts("10,2") == (2, 10)
    assert epoch_counts("none") == epoch_counts([]) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ("1e-3,x", "'x' is not a learning rate"),
        ("1e-3,,1", "'' is not a learning rate"),
        ([True], "True is not a learning rate"),
        ("-1", "-1: a learning rate is a finite number above 0"),
        ("0", "above 0"),
        ("inf", "finite"),
        ("nan", "finite"),
        ("1e-3,1e-3", "0.001 is given twice"),
        ("1e-3,1.0000001e-3", "0.001 is given twice"),
        (["1e-3", "1e-2"], "'1e-3' is text"),
        ("1e-3:1e-1", "FIRST:LAST:COUNT"),
        ("1e-3:1e-1:1", "COUNT of at least 2"),
        ("1e-1:1e-3:5", "FIRST < LAST"),
        ("0:1:5", "0 < FIRST"),
        ("a:1:5", "'a' is not a number"),
    ],
)
def test_bad_learning_rates(value, message):
    with pytest.raises(ValueError, match=message):
        learning_rates(value)


@pytest.mark.parametrize("value", ["0", [-1], "2.5", "x", "", [2, 2], ["2"]])
def test_bad_counts(value):
    with pytest.raises(ValueError):
        epoch_counts(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\ndatset = 'x'", "data.datset: no such key (did you mean 'dataset'?)"),
        ("[grd]\nplr = 1", "grd: no such key (did you mean 'grid'?)"),
        ("[training]\nepochs = '3'", "training.epochs = '3': must be a valid integer"),
        ("[training]\nepochs = 0", "training.epochs = 0: must be greater than 0"),
        ("[training]\nepochs = true", "training.epochs = True"),
        ("[network]\nmodel = 'convnt'", "(did you mean 'convnet'?)"),
        ("[network]\nradius = 'big'", "network.radius = 'big'"),
        ("[network]\nradius = inf", "network.radius = inf"),
        ("[grid]\nplr = []", "grid.plr = []: empty"),
        ("[grid]\nk = [0]", "grid.k = [0]: 0: a number of checkpoints"),
        ("[grid]\nseeds = -1", "grid.seeds = -1"),
        ("data = 3", "data = 3"),
        ("[data", "not valid TOML"),
    ],
)
def test_bad_toml_names_file_key_value_and_what_is_allowed(tmp_path, text, message):
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        load_config(str(file))
    assert str(file) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_preset_and_missing_file(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_config("digts")
    with pytest.raises(UsageError, match="No such file"):
        load_config(str(tmp_path / "no.toml"))


def test_check_covers_what_the_command_line_built():
    config = Config()
    broken = dataclasses.replace(
        config, training=dataclasses.replace(config.training, batch_size=0)
    )
    with pytest.raises(UsageError, match="command line: training.batch_size = 0"):
        check(broken, "command line")
    assert check(config, "command line") == config
