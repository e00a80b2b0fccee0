"""Noisy labels and PS10 as settings: what is refused, subsets, data found again."""

import numpy as np
import pytest
import torch

from fasttrain.analysis.reopen import Location, reopen
from fasttrain.errors import UsageError
from fasttrain.plan.config import RunOptions, check, load_config
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.store.inputs import check_training
from fasttrain.store.store import Store
from fasttrain.store.tables import finished
from fasttrain.training.run_pack import run_pack
from fasttrain.training.workbench import open_workbench
from fasttrain_data import load


def workbench_of(table, folder):
    config = check(table, "here")
    return open_workbench(config, RunOptions(), folder, torch.device("cpu"), "fp32", {})


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
    ],
)
def test_values_outside_their_range_are_refused_by_name(section, change, words):
    with pytest.raises(UsageError) as raised:
        check({section: change}, "here")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "noisy-labels", "base": "cifar11"}, "did you mean 'cifar10'"),
        ({"kind": "ps10", "simple_bits": 2.6}, "simple_bits is 2.6, it must be below"),
        ({"kind": "ps10", "complex_bits": 3.5}, "complex_bits is 3.5, it must lie between 0 and 3"),
    ],
)
def test_values_that_do_not_go_together_are_refused_before_anything_is_loaded(data, words):
    with pytest.raises(UsageError) as raised:
        check_training(check({"data": data}, "here"), RunOptions(), "x")
    assert words in str(raised.value)


def test_noise_falls_on_the_images_of_the_subset():
    table = {"data": {"kind": "noisy-labels", "n_train": 100, "share": 0.5}}
    data = check(table, "here").data.load(None)
    wrong = data.train_labels != data.subset(100).train_labels
    assert len(data.train_labels) == 100 and not wrong.any()
    assert 30 < len(data.probes["mislabelled"][1]) < 60


def test_a_finished_study_finds_its_data_again(tmp_path):
    table = {
        "data": {"kind": "noisy-labels", "base": "digits", "n_train": 60, "share": 0.3, "seed": 5},
        "network": {"width": 2},
        "training": {"epochs": 1},
        "grid": {"plr": [0.01], "flr": "none", "k": "none"},
    }
    Store.open(tmp_path / "store", create=True)
    workbench = workbench_of(table, tmp_path / "store")
    run_pack(
        build(workbench.config, setup_sections(workbench.config, workbench.data, "fp32")),
        workbench,
        lambda *_: None,
    )
    [stage] = finished(tmp_path / "store")
    for location in (Location(device="cpu"), Location(device="cpu", dataset="digits")):
        found = reopen(stage, tmp_path / "store", location)
        assert found.data.digest == workbench.data.digest
    digits, others = load("digits"), tmp_path / "others.npz"
    np.savez(
        others,
        train_images=255 - digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )
    with pytest.raises(UsageError, match="other images"):
        reopen(stage, tmp_path / "store", Location(device="cpu", dataset=str(others)))


@pytest.mark.parametrize("preset", ["digits-noisy-labels", "ps10"])
def test_presets_of_side_studies_can_be_trained(preset, tmp_path):
    workbench = open_workbench(
        load_config(preset), RunOptions(), tmp_path / "s", torch.device("cpu"), "fp32", {}
    )
    assert len(workbench.probe_loaders) == 2
