"""Noisy labels, PS10 and pattern pairs as settings; the two-layer network; descent with noise."""

import math

import numpy as np
import pytest
import torch

from fasttrain.analysis.reopen import Place, reopen
from fasttrain.errors import UsageError
from fasttrain.plan.config import RunOptions, check, load_config
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.two_layer import TwoLayer
from fasttrain.settings.optimizers.groups import Trained
from fasttrain.settings.optimizers.kinds import NoisyGD
from fasttrain.store.inputs import check_training
from fasttrain.store.store import Store
from fasttrain.store.tables import finished
from fasttrain.training.pack import Pack
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_lab
from fasttrain_data import load

PAIRS = {
    "data": {"kind": "pattern-pairs", "d": 8, "n_train": 12, "n_test": 20},
    "network": {"kind": "two-layer", "width": 6},
    "optimizer": {"kind": "noisy-gd", "weight_decay": 0.01, "noise": 0.1},
    "training": {"loss": "binary-cross-entropy", "batch_size": 12, "steps": 5, "epochs": 2},
    "grid": {"plr": [0.5], "flr": "none", "k": "none"},
}


def lab_of(table, folder):
    config = check(table, "here")
    return open_lab(config, RunOptions(), folder, torch.device("cpu"), "fp32", {})


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        (
            "data",
            {"kind": "noisy-labels", "share": 0.0},
            "data.share = 0.0: must be",
        ),
        ("data", {"kind": "noisy-labels", "share": 1.5}, "data.share = 1.5"),
        ("data", {"kind": "noisy-labels", "seed": -1}, "data.seed = -1"),
        ("data", {"kind": "noisy-labels", "off": "digits"}, "data.off: no such key"),
        ("data", {"kind": "ps10", "alone": 0.7}, "data.alone = 0.7"),
        ("data", {"kind": "pattern-pairs", "d": 1}, "data.d = 1"),
        ("data", {"kind": "pattern-pairs", "kappa": 0.0}, "data.kappa = 0.0"),
        ("data", {"kind": "pattern-pairs", "radius": 0.0}, "data.radius = 0.0"),
        ("network", {"kind": "two-layer", "init_std": 0.0}, "network.init_std = 0.0"),
        ("optimizer", {"kind": "noisy-gd", "noise": -1.0}, "optimizer.noise = -1.0"),
        ("optimizer", {"kind": "sphere"}, "'two-layer': is not scale-invariant"),
        ("training", {"loss": "squared"}, "training.loss must be 'binary-cross-entropy'"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(section, change, words):
    with pytest.raises(UsageError) as raised:
        check({**PAIRS, section: change}, "here")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "noisy-labels", "of": "cifar11"}, "did you mean 'cifar10'"),
        ({"kind": "ps10", "simple_bits": 2.6}, "simple_bits is 2.6, it must be below"),
        ({"kind": "ps10", "complex_bits": 3.5}, "complex_bits is 3.5, it must lie between 0 and 3"),
        ({"kind": "pattern-pairs", "p_share": 0.9}, "p_share 0.9 and q_share 0.2"),
        ({"kind": "pattern-pairs", "kappa": 1.0, "n_train": 5}, "data.kappa = 1: and data.n_train"),
    ],
)
def test_values_that_do_not_go_together_are_refused_before_anything_is_loaded(data, words):
    with pytest.raises(UsageError) as raised:
        check_training(check({"data": data}, "here"), RunOptions(), "x")
    assert words in str(raised.value)


def test_a_two_layer_network_takes_pairs_alone():
    network = check(PAIRS, "here").network
    with pytest.raises(UsageError, match="takes pairs of vectors.* the data have 3 of 8 x 8"):
        network.build((3, 8, 8), 1, on_sphere=False)


def test_kappa_says_how_many_samples_there_are():
    data = check({**PAIRS, "data": {"kind": "pattern-pairs", "d": 50, "kappa": 0.5}}, "here").data
    assert len(data.load(None).train_labels) == 200


def test_noise_falls_on_the_images_of_the_subset():
    table = {"data": {"kind": "noisy-labels", "n_train": 100, "share": 0.5}}
    data = check(table, "here").data.load(None)
    wrong = data.train_labels != data.subset(100).train_labels
    assert len(data.train_labels) == 100 and not wrong.any()
    assert 30 < len(data.probes["mislabelled"][1]) < 60


def test_the_function_of_a_two_layer_network():
    torch.manual_seed(1)
    net = TwoLayer(5, width=4, init_std=0.5)
    (_, w), (_, v) = net.named_sphere_parameters()
    signs = torch.tensor([1.0, -1, 1, -1]) / math.sqrt(4)
    x = torch.randn(7, 1, 2, 5)
    wanted = torch.relu(x[:, 0, 0] @ w.T) @ signs + torch.relu(x[:, 0, 1] @ v.T) @ signs
    torch.testing.assert_close(net(x).squeeze(1), wanted)
    assert not net.head.weight.requires_grad


def test_models_of_a_pack_are_those_trained_alone(tmp_path):
    lab = lab_of(PAIRS, tmp_path / "store")
    knobs = [Knobs(lr=0.5), Knobs(lr=0.1, weight_decay=0.3)]
    together = Pack(lab, 0, knobs, None).train(0, tested=True)
    for index, one in enumerate(knobs):
        alone = Pack(lab, 0, [one], None).train(0, tested=True)
        torch.testing.assert_close(together.scores[index], alone.scores[0])
        for name, value in alone.states[0].items():
            torch.testing.assert_close(together.states[index][name], value)


def test_a_run_that_goes_on_draws_the_noise_of_one_that_was_not_interrupted(tmp_path):
    lab = lab_of(PAIRS, tmp_path / "store")
    whole = Pack(lab, 3, [Knobs(lr=0.5)], None)
    first, second = (whole.train(epoch, tested=False).states[0] for epoch in (0, 1))
    again = Pack(lab, 3, [Knobs(lr=0.5)], [first]).train(1, tested=False).states[0]
    assert all(torch.equal(again[name], value) for name, value in second.items())


def test_weights_left_alone_come_to_the_spread_that_noise_and_decay_have():
    weight = torch.zeros(100, 100, requires_grad=True)
    options = NoisyGD(weight_decay=0.05, noise=0.3)
    built = options.build(Trained([("w", weight)], [], 1), [Knobs(lr=1.0)])
    torch.manual_seed(0)
    for _ in range(200):
        weight.grad = torch.zeros_like(weight)
        built.step()
    # gamma tau^2 = 2 lambda tau0^2 (1 - gamma lambda / 2)
    tau0 = math.sqrt(0.3**2 / (2 * 0.05 * (1 - 0.05 / 2)))
    assert weight.std().item() == pytest.approx(tau0, rel=0.02)


def test_a_finished_study_finds_its_data_again(tmp_path):
    table = {
        "data": {"kind": "noisy-labels", "of": "digits", "n_train": 60, "share": 0.3, "seed": 5},
        "network": {"width": 2},
        "training": {"epochs": 1},
        "grid": {"plr": [0.01], "flr": "none", "k": "none"},
    }
    Store.open(tmp_path / "store", create=True)
    lab = lab_of(table, tmp_path / "store")
    run_pack(build(lab.config, setup_sections(lab.config, lab.data, "fp32")), lab, lambda *_: None)
    [stage] = finished(tmp_path / "store")
    for place in (Place(device="cpu"), Place(device="cpu", dataset="digits")):
        found = reopen(stage, tmp_path / "store", place)
        assert found.data.digest == lab.data.digest
    digits, others = load("digits"), tmp_path / "others.npz"
    np.savez(
        others,
        train_images=255 - digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )
    with pytest.raises(UsageError, match="other images"):
        reopen(stage, tmp_path / "store", Place(device="cpu", dataset=str(others)))


@pytest.mark.parametrize("preset", ["digits-noisy-labels", "ps10", "pattern-pairs"])
def test_presets_of_side_studies_can_be_trained(preset, tmp_path):
    lab = open_lab(
        load_config(preset), RunOptions(), tmp_path / "s", torch.device("cpu"), "fp32", {}
    )
    assert len(lab.probe_loaders) == 2
