"""Settings off the sphere, through the whole program; what identity rests on; bad input."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import fasttrain as package
from fasttrain.analysis.geometry import Line, follow
from fasttrain.analysis.regimes import classify, not_judged
from fasttrain.analysis.setups import all_setups
from fasttrain.plan import config as configuration
from fasttrain.plan.config import Config, TrainingConfig, load_config
from fasttrain.plan.identity import stage_identity
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.report.figures import drawn
from fasttrain.report.headline import headline
from fasttrain.settings.data.named import Named
from fasttrain.settings.data.part import Data
from fasttrain.settings.losses import LOSSES
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.store.store import Store
from fasttrain.training.progress import Progress
from fasttrain.training.workbench import Workbench
from fasttrain_data import load

DIGITS = load("digits").subset(150, 50)
SGD_FLAGS = ("--optimizer", "sgd", "--momentum", "0.9", "--form", "practical")


def ids(config: Config) -> list[str]:
    return [stage.id for stage in build(config, setup_sections(config, DIGITS, "fp32"))]


def extended(part: object) -> object:
    """The part with one more field, at its default."""
    kind = dataclasses.make_dataclass(
        "Later",
        [("later", int, dataclasses.field(default=3))],
        bases=(type(part),),
        frozen=True,
        kw_only=True,
    )
    return kind(**vars(part))


@pytest.mark.parametrize("optimizer", [Sphere(), SGD(momentum=0.9), Adam()])
def test_a_new_field_keeps_every_id(optimizer):
    config = dataclasses.replace(Config(), optimizer=optimizer)
    for name in ("data", "network", "optimizer", "training"):
        later = dataclasses.replace(config, **{name: extended(getattr(config, name))})
        assert ids(later) == ids(config)
        changed = dataclasses.replace(getattr(later, name), later=4)
        assert not set(ids(dataclasses.replace(config, **{name: changed}))) & set(ids(config))


def test_a_fix_in_one_part_keeps_the_ids_of_others(monkeypatch):
    configs = {
        "convnet": Config(),
        "resnet": Config(network=ResNet18()),
        "sgd": Config(optimizer=SGD()),
        "squared": Config(training=TrainingConfig(loss="squared")),
        "flip": Config(data=Named(flip=True)),
    }
    before = {name: ids(config) for name, config in configs.items()}

    def changed() -> set[str]:
        return {name for name, config in configs.items() if ids(config) != before[name]}

    with monkeypatch.context() as patch:
        patch.setattr(ResNet18, "numerics", 9)
        assert changed() == {"resnet"}
    with monkeypatch.context() as patch:
        patch.setattr(SGD, "numerics", 9)
        assert changed() == {"sgd"}
    with monkeypatch.context() as patch:
        patch.setattr(LOSSES["squared"], "numerics", 9, raising=False)
        assert changed() == {"squared"}
    for part in (Data, TrainingConfig):
        with monkeypatch.context() as patch:
            patch.setattr(part, "numerics", 9)
            assert changed() == set(configs)


def test_the_radius_is_part_of_identity_on_the_sphere_alone():
    wide = ConvNet(radius=13.0)
    assert ids(Config(network=wide)) != ids(Config())
    assert ids(Config(network=wide, optimizer=SGD())) == ids(Config(optimizer=SGD()))


def test_what_fine_tuning_inherits_is_part_of_its_identity_alone():
    one, other = (
        Config(optimizer=Adam(), training=TrainingConfig(inherit=way))
        for way in ("weights", "optimizer")
    )
    pairs = zip(*(build(c, setup_sections(c, DIGITS, "fp32")) for c in (one, other)), strict=True)
    for a, b in pairs:
        assert (a.id == b.id) == (a.kind != "finetune")
        about = json.loads(json.dumps(b.description()))
        assert stage_identity(about) == b.id


def state_of(store: Path, kind: str) -> tuple[dict, Progress]:
    opened = Store.open(store, create=False)
    [stage] = [s for s in opened.stages() if opened.description(s)["kind"] == kind]
    return opened.description(stage), Progress.from_tensors(
        opened.read_tensors(stage, "state.safetensors")
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_with_the_optimisers_state_it_goes_on_as_if_it_had_not_stopped(
    fasttrain, tiny, tmp_path, optimizer
):
    own = SGD_FLAGS if optimizer == "sgd" else ("--optimizer", "adam", "--form", "practical")
    own += ("--quiet", "--plr", "0.01", "--pack", "1", "--processes", "1", "--compile", "off")
    legs = (*own, "--flr", "0.01", "--k", "3", "--inherit", "optimizer", "--store", "legs")
    assert fasttrain("sweep", tiny, *legs).code == 0
    whole = (*own, "--flr", "0.01", "--k", "none", "--epochs", "5", "--finetune-epochs", "1")
    assert fasttrain("sweep", tiny, *whole, "--store", "whole").code == 0
    _, straight = state_of(tmp_path / "whole", "pretrain")
    for kind in ("finetune", "swa"):
        about, ended = state_of(tmp_path / "legs", kind)
        assert about["inherit"] == "optimizer"
        for part in ("model", "optimizer"):
            one, other = getattr(ended, part), getattr(straight, part)
            assert one.keys() == other.keys() and one
            assert all(torch.equal(one[name], other[name]) for name in one)
    _, anew = state_of(tmp_path / "whole", "finetune")
    assert anew.optimizer.keys() == straight.optimizer.keys()


@pytest.fixture(scope="module")
def practical(tmp_path_factory) -> tuple[Path, Config]:
    """A store of a small grid with momentum, in the practical form."""
    from fasttrain.cli.main import run

    from .conftest import TINY

    folder = tmp_path_factory.mktemp("practical")
    (folder / "tiny.toml").write_text(
        TINY.replace("width = 2", 'width = 2\nform = "practical"')
        + '[optimizer]\nkind = "sgd"\nmomentum = 0.9\n'
    )
    flags = ["--quiet", "--store", str(folder / "store"), "--pack", "4", "--processes", "1"]
    flags += ["--k", "2", "--plr", "1e-2", "--flr", "1e-3,1e-2"]
    assert run(["sweep", str(folder / "tiny.toml"), *flags]) == 0
    assert run(["analyse", str(folder / "store")]) == 0
    return folder / "store", load_config(str(folder / "tiny.toml"))


def test_an_average_is_of_everything_that_trains(practical):
    store, _ = practical
    _, start = state_of(store, "pretrain")
    _, average = state_of(store, "swa")
    names = set(average.average)
    assert {"head.weight", "head.bias", "norms.0.weight", "convs.3.weight"} <= names
    for name in names:
        mean = (start.model[name] + average.model[name]) / 2
        torch.testing.assert_close(average.average[name], mean)


def test_tables_and_report_say_that_rates_are_raw_and_regimes_not_judged(practical):
    store, _ = practical
    table = package.load(store)
    assert set(table["optimizer"]) == {"sgd"} and set(table["rate"]) == {"raw"}
    [grid] = all_setups(store)
    regimes = classify(grid)
    assert set(regimes["regime"]) == {"undecided"} and regimes["step_angle"].isna().all()
    from fasttrain.analysis.regimes import boundaries

    text = " ".join(headline(grid, regimes, boundaries(regimes)))
    assert "raw rates of sgd (momentum 0.9" in text
    assert "Regimes are not judged: the rules are in units of the sphere" in text
    [curve] = [d for d in drawn(grid, regimes) if d.drawing.name == "regimes"]
    labels = [ax.get_xlabel() for ax in curve.figure.axes] + [
        ax.get_ylabel() for ax in curve.figure.axes if ax.get_visible()
    ]
    assert "pre-training raw learning rate (PLR)" in labels
    assert "angle of a step (rad)" not in labels
    rows = grid.norms[grid.norms["level"] == "filter"]
    assert len(rows) and rows["median_elr"].notna().all()


@pytest.mark.parametrize(
    ("optimizer", "network", "judged"),
    [
        ({"kind": "sphere"}, {}, True),
        ({"kind": "sphere", "scope": "equal-norms"}, {}, True),
        ({"kind": "sphere", "scope": "filter"}, {}, False),
        ({"kind": "sphere", "free_lr": 0.1}, {"form": "practical"}, False),
        ({"kind": "adam"}, {}, False),
    ],
)
def test_rules_are_withheld_where_they_do_not_hold(optimizer, network, judged):
    parts = {"optimizer": optimizer, "network": network, "training": {}}
    assert (not_judged(parts) == "") == judged


def test_without_a_sphere_a_path_is_straight_in_everything_that_trains(practical):
    store, config = practical
    workbench = Workbench(
        config, DIGITS, Store.open(store, create=False), torch.device("cpu"), "fp32", {}
    )
    ends = {"a": workbench.initial_state(0), "b": workbench.initial_state(1)}
    middle = {**ends["a"]}
    for name in (*workbench.sphere_names, *workbench.free_names):
        middle[name] = (ends["a"][name] + ends["b"][name]) / 2
    line = [Line("pair", "a", "b")]
    [(_, path)] = follow(line, ends, 0, workbench, 7)
    [(_, there)] = follow([Line("pair", "m", "m")], {"m": middle}, 0, workbench, 7)
    row = path[path["alpha"] == 0.5].iloc[0]
    assert row["train_loss"] == pytest.approx(there["train_loss"].iloc[0], rel=1e-5)
    assert {"head.weight", "norms.0.bias"} <= set(workbench.free_names)


BAD = {
    ("--momentum", "0.9"): "optimizer.momentum: no such key; allowed here: kind, scope, free_lr",
    ("--optimizer", "adam", "--nesterov", "True"): "optimizer.nesterov: no such key",
    ("--optimizer", "sgd", "--nesterov", "True"): "nesterov = true: needs a momentum above 0",
    ("--optimizer", "sgd", "--momentum", "1.5"): "optimizer.momentum = 1.5: must be less than 1",
    ("--form", "practical"): "affine normalisation and head are not on the sphere",
    ("--free-lr", "0.1"): "trains nothing beside the sphere",
    ("--inherit", "optimizer"): "sphere without momentum keeps no state",
    ("--loss", "binary-cross-entropy"): "needs two classes, and there are 10",
    ("--optimizer", "adam", "--stop-at-chance"): "detects random walks by the angles of steps",
    ("--model", "mlp", "--batch-size", "149"): "the last batch of 150 images has one",
}


@pytest.mark.parametrize("flags", BAD, ids=" ".join)
def test_what_does_not_fit_is_one_line_before_anything_trains(fasttrain, tiny, tmp_path, flags):
    outcome = fasttrain("sweep", tiny, *flags)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert BAD[flags] in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_names_no_such_optimiser_names_the_nearest(fasttrain, tiny):
    tiny.write_text(tiny.read_text() + '[optimizer]\nkind = "sgdd"\n')
    outcome = fasttrain("sweep", tiny)
    assert outcome.code == 2 and "optimizer.kind = 'sgdd': must be sphere, sgd, adam" in outcome.err
    assert "did you mean 'sgd'?" in outcome.err


def test_locate_is_on_the_sphere_alone(fasttrain, tiny):
    outcome = fasttrain("locate", tiny, "--optimizer", "sgd", "--flr", "1e-3,1e-2")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "regimes are not judged" in outcome.err


@pytest.mark.parametrize(
    "preset", [name for name in configuration.presets() if "practical" in name or "adam" in name]
)
def test_presets_of_the_practical_setting_train_everything(preset):
    config = load_config(preset)
    assert config.network.form == "practical" and config.optimizer.rate == "raw"
