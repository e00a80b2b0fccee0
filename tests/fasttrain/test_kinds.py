"""Kinds of data, network and optimiser: keys old and new, identities that stay, flags."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fasttrain.analysis.reopen import Location, reopen
from fasttrain.errors import UsageError
from fasttrain.plan.config import Config, RunOptions, check, load_config
from fasttrain.plan.flags import DataFlags, NetworkFlags
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.data.named import Folder, HuggingFace, Named, Npz
from fasttrain.settings.networks.kinds import MLP, NETWORKS, ConvNet, CustomNetwork, ResNet18
from fasttrain.settings.networks.modules import MLP as MLPModule
from fasttrain.settings.optimizers.kinds import SGD
from fasttrain.store.store import Store
from fasttrain.store.tables import finished
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_workbench

DATA = SimpleNamespace(digest="d" * 64)
SETUPS = {
    "cifar10-convnet": "9dbb47de6c89353a",
    "cifar10-convnet-cpu": "fb49afb4fb262cf1",
    "cifar10-practical-cpu": "91baa7d3803d2d2e",
    "cifar10-resnet18": "a158f9a3c050efe3",
    "cifar10-resnet18-practical": "2a15e233cb7392fa",
    "cifar100-convnet": "593793ec1bd431a9",
    "cifar100-practical": "2a15e233cb7392fa",
    "cifar100-resnet18": "a158f9a3c050efe3",
    "digits": "a8b18a27812857e4",
    "digits-adam": "61865f64b4f5ab62",
    "digits-practical": "2e5bf5c46d830d46",
}
"""digests of what the stages of presets rest on, as of the first stores of this format"""


@pytest.mark.parametrize("preset", SETUPS)
def test_presets_keep_what_their_identities_rest_on(preset):
    sections = dict(setup_sections(load_config(preset), DATA, "fp32"))  # type: ignore[arg-type]
    del sections["versions"]
    content = json.dumps(sections, sort_keys=True).encode()
    assert hashlib.sha256(content).hexdigest()[:16] == SETUPS[preset]


def ids(table) -> list[str]:
    config = check(table, "here")
    return [s.id for s in build(config, setup_sections(config, DATA, "fp32"))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"network": {"model": "mlp"}}, {"network": {"kind": "mlp"}}),
        ({"network": {"model": "mlp"}}, {"network": {"kind": "mlp", "layers": 2}}),
        ({"network": {"model": "resnet18", "width": 4}}, {"network": ResNet18(width=4)}),
        ({"data": {"dataset": "cifar10"}}, {"data": {"kind": "cifar10"}}),
        (
            {"data": {"dataset": "a.npz"}},
            {"data": {"kind": "folder", "path": "b", "image_size": 3}},
        ),
        ({"optimizer": {"kind": "sgd"}}, {"optimizer": SGD()}),
        ({}, {"network": ConvNet(), "data": Named()}),
        ({}, {"network": {"radius": 12.0}}),
    ],
)
def test_old_and_new_keys_say_the_same(old, new):
    assert ids(old) == ids(new)


def test_hidden_layers_are_part_of_identity_and_of_the_network():
    assert ids({"network": {"kind": "mlp", "layers": 3}}) != ids({"network": {"kind": "mlp"}})
    with torch.device("meta"):
        for layers in (1, 2, 5):
            net = MLP(width=3, layers=layers).build((1, 8, 8), 10, 2)
            assert isinstance(net, MLPModule) and len(net.layers) == layers
            assert net(torch.empty(4, 1, 8, 8)).shape == (2, 4, 10)


def test_a_dataset_is_short_for_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    found = {
        "fashion-mnist": Named(kind="fashion-mnist"),
        "a/b.npz": Npz(path="a/b.npz"),
        "images": Folder(path="images"),
        "elsewhere/images": Folder(path="elsewhere/images"),
        "saved": HuggingFace(path="saved"),
    }
    for dataset, data in found.items():
        assert check({"data": {"dataset": dataset}}, "here").data == data
        assert data.dataset == dataset


BAD = {
    "no such network": ({"network": {"kind": "mpl"}}, "network.kind = 'mpl'", "mean 'mlp'"),
    "two networks": ({"network": {"kind": "mlp", "model": "convnet"}}, "both name the network"),
    "layers of a convnet": ({"network": {"layers": 2}}, "network.layers: no such key"),
    "width of another's": (
        {"network": {"kind": "custom", "factory": "a:b", "width": 3}},
        "network.width: no such key; allowed here: kind, model, radius, factory, options",
    ),
    "no layers": ({"network": {"kind": "mlp", "layers": 0}}, "network.layers = 0: must be"),
    "radius without a sphere": (
        {"network": {"radius": 12.0}, "optimizer": {"kind": "sgd"}},
        "network.radius = 12.0: there is no sphere with optimizer.kind = 'sgd'",
    ),
    "no factory": ({"optimizer": {"kind": "custom"}}, "optimizer.factory: is missing"),
    "options": (
        {"network": {"kind": "custom", "factory": "a:b", "options": 3}},
        "network.options = 3: must be a table",
    ),
    "no such data": ({"data": {"kind": "cifar11"}}, "data.kind = 'cifar11'", "mean 'cifar10'"),
    "two data": ({"data": {"kind": "npz", "dataset": "a.npz"}}, "give one"),
    "no path": ({"data": {"kind": "folder"}}, "data.path: is missing; data.kind = 'folder'"),
    "size of named data": ({"data": {"image_size": 8}}, "data.image_size: no such key"),
    "typing error": ({"data": {"datset": "digits"}}, "mean 'dataset'?"),
    "a size of nothing": (
        {"data": {"kind": "folder", "path": "a", "image_size": 0}},
        "data.image_size = 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_keys_that_do_not_belong_are_refused(case):
    table, *parts = BAD[case]
    with pytest.raises(UsageError) as caught:
        check(table, "here")
    message = str(caught.value)
    assert message.startswith("here: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_a_radius_in_python_is_refused_without_a_sphere_if_it_is_not_the_usual():
    check(Config(optimizer=SGD()), "here")
    with pytest.raises(UsageError, match="there is no sphere"):
        check(Config(network=ConvNet(radius=3.0), optimizer=SGD()), "here")


PAIRS = {"data": {"kind": "pattern-pairs"}, "optimizer": {"kind": "sgd"}}
PAIRS |= {"training": {"loss": "binary-cross-entropy"}}


def test_flags_that_are_not_given_change_no_network_without_a_sphere():
    network = NETWORKS["two-layer"](width=6, init_std=0.5)
    table = NetworkFlags.of(network).applied(network, sphere=False)
    assert check({**PAIRS, "network": table}, "here").network == network
    transformer = NETWORKS["vit-small"](width=6, patch=2, dropout=0.0)
    table = NetworkFlags.of(transformer).applied(transformer, sphere=False)
    config = check({"network": table, "optimizer": {"kind": "adam"}}, "here")
    assert config.network == transformer


WITHOUT_A_SPHERE = ("two-layer", "vit-small")


@pytest.mark.parametrize("model", [model for model in NETWORKS if model not in WITHOUT_A_SPHERE])
def test_flags_that_are_not_given_change_no_network(model):
    own = {"factory": "a:b", "options": {"c": [1]}} if model == "custom" else {"width": 3}
    network = NETWORKS[model](radius=5.0, **own)
    table = NetworkFlags.of(network).applied(network, sphere=True)
    assert check({"network": table}, "here").network == network


def test_another_network_by_flag_keeps_what_both_have():
    before = ResNet18(width=16, form="practical", radius=28.0)
    flags = dataclasses.replace(NetworkFlags.of(before), model="mlp", layers=3)
    table = flags.applied(before, sphere=False)
    assert table == {"model": "mlp", "width": 16, "form": "practical", "layers": 3}
    given = dataclasses.replace(NetworkFlags.of(MLP()), model="convnet", layers=4)
    with pytest.raises(UsageError, match="network.layers: no such key"):
        check({"network": given.applied(MLP(), sphere=True)}, "here")
    odd = dataclasses.replace(NetworkFlags.of(before), layers=3).applied(before, sphere=True)
    with pytest.raises(UsageError, match="network.layers: no such key"):
        check({"network": odd}, "here")


def test_flags_of_data():
    before = Folder(path="a/b", image_size=8, n_train=5)
    flags = DataFlags.of(before)
    assert check({"data": flags.applied(before)}, "here").data == before
    other = dataclasses.replace(flags, dataset="digits", image_size=8).applied(before)
    assert check({"data": other}, "here").data == Named(n_train=5)
    size = dataclasses.replace(flags, image_size=4).applied(before)
    assert check({"data": size}, "here").data == dataclasses.replace(before, image_size=4)


def test_a_source_is_part_of_a_section_and_not_of_a_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_alone.py").write_text("def net(shape, outputs):\n    return None\n")
    config = Config(network=CustomNetwork(factory="mine_alone:net"))
    section = json.loads(dict(setup_sections(config, DATA, "fp32"))["network"])  # type: ignore[arg-type]
    expected = hashlib.sha256((tmp_path / "mine_alone.py").read_bytes()).hexdigest()[:16]
    assert section == {
        "model": "custom",
        "factory": "mine_alone:net",
        "numerics": 1,
        "source": expected,
    }


@pytest.fixture
def pets(tmp_path):
    """A folder of images of two sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10), ("probe_dark", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (9 + number % 2, 9), dtype=np.uint8) + 100 * label
                path = tmp_path / "pets" / split / name / f"{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "pets"


def test_a_folder_of_images_trains_and_is_found_again(fasttrain, tiny, tmp_path, pets):
    text = tiny.read_text().replace("n_train = 150\nn_test = 50\n", "")
    text = text.replace('dataset = "digits"', f'kind = "folder"\npath = "{pets}"\nimage_size = 8')
    tiny.write_text(text)
    outcome = fasttrain("sweep", tiny, "--pack", "1", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "data: 108 images of other sizes resized to 8x8" in outcome.out
    store = tmp_path / "store"
    Store.open(store, create=True)
    config = load_config(str(tiny))
    workbench = open_workbench(config, RunOptions(), store, torch.device("cpu"), "fp32", {})
    run_pack(
        build(config, setup_sections(config, workbench.data, "fp32"))[:1],
        workbench,
        lambda *_: None,
    )
    [stage] = finished(store)
    assert stage.identity()["dataset"] == "pets"
    again = reopen(stage, store, Location())
    assert again.data.digest == workbench.data.digest and again.config.data.dataset == str(pets)
    assert reopen(stage, store, Location(dataset=str(pets))).data.digest == workbench.data.digest
    refused = fasttrain("sweep", "digits", "--dataset", pets)
    assert refused.code == 2 and "give image_size" in refused.err
    assert (
        fasttrain(
            "sweep",
            "digits",
            "--dataset",
            pets,
            "--image-size",
            "8",
            "--n-train",
            "80",
            "--pack",
            "1",
            "--dry-run",
        ).code
        == 0
    )


def test_data_inspects_and_writes_what_was_converted(fasttrain, tmp_path, pets):
    outcome = fasttrain("data", "inspect", pets)
    assert outcome.code == 2 and "images of other sizes" in outcome.err
    for path in pets.rglob("*.png"):
        Image.open(path).resize((8, 8)).convert("LA").save(path)
    outcome = fasttrain("data", "inspect", pets)
    assert outcome.code == 0
    assert "probe set dark            8 images" in outcome.out
    assert "108 images of mode LA as L (transparency dropped)" in outcome.out
    written = fasttrain("data", "write", pets, "pets.npz")
    digest = [line for line in outcome.out.splitlines() if line.startswith("digest")]
    assert written.code == 0 and digest[0] in written.out
    odd = fasttrain("data", "write", pets, "pets.npz", "--split", "test")
    assert odd.code == 2 and "an .npz holds all" in odd.err
    assert fasttrain("data", "write", pets, "dark.beton", "--split", "dark").code == 0
    assert "pets, dark" in fasttrain("data", "inspect", "dark.beton").out
