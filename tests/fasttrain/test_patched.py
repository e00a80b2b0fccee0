"""Patched data and wide residual networks as parts of a setting: keys, packs, what is refused."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import fasttrain as ft
from fasttrain.analysis.reopen import Location, reopen
from fasttrain.errors import UsageError
from fasttrain.plan.config import check, load_config
from fasttrain.plan.flags import DataFlags
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.networks.modules import WideResNet, fold
from fasttrain.store.tables import finished

LEGS = [
    [{"lr": 0.02, "epochs": 2}, {"lr": 0.01, "epochs": 1, "inherit": "optimizer"}],
    [{"lr": 0.01, "noise": 0.4, "epochs": 2}],
]
TABLE = {
    "data": {"kind": "patched", "base": "digits", "patch_size": 3, "n_train": 200, "n_test": 50},
    "network": {"kind": "convnet", "form": "practical", "width": 4},
    "optimizer": {"kind": "sgd", "momentum": 0.9, "nesterov": True},
    "training": {"batch_size": 50},
    "experiment": {"kind": "chain", "legs": LEGS},
}


def test_a_sweep_scores_the_three_sets_and_is_found_again(tmp_path):
    study = ft.study("patches-cpu", **TABLE, seeds=2)
    results = ft.sweep(study, store=tmp_path / "s", pack=4, processes=1)
    assert set(results.sets["set"]) == {"test", "mixed", "patch-only"}
    assert (results.stages["state"] == "done").all()
    found = finished(tmp_path / "s")[0]
    assert found.about["dataset"] == "digits-patched"
    for location in (Location(device="cpu"), Location(device="cpu", dataset="digits")):
        workbench = reopen(found, tmp_path / "s", location)
        assert workbench.data.patches.keys() == {"train", "mixed", "patch-only"}


def test_patches_are_part_of_identity():
    def ids(**data):
        config = check({**TABLE, "data": {**TABLE["data"], **data}}, "here")
        images = config.data.load(None)
        return [s.id for s in build(config, setup_sections(config, images, "fp32"))]

    plain = {key: TABLE["data"][key] for key in ("n_train", "n_test")}
    config = check({**TABLE, "data": {"kind": "digits", **plain}}, "here")
    sections = setup_sections(config, config.data.load(None).subset(200, 50), "fp32")
    assert not set(ids()) & {s.id for s in build(config, sections)}
    assert not set(ids()) & set(ids(patched=0.7))


def test_another_dataset_keeps_the_patches():
    data = load_config("patches-cpu").data
    table = DataFlags.of(data).applied(data)
    assert check({"data": table}, "here").data == data
    flags = DataFlags(dataset="fashion-mnist", n_train=300)
    changed = check({"data": flags.applied(data)}, "here").data
    assert (changed.kind, changed.base, changed.n_train) == ("patched", "fashion-mnist", 300)


REFUSED = {
    "share": ({"patched": 1.2}, "data.patched = 1.2: must be less than or equal to 1"),
    "alone": ({"alone": -0.5}, "data.alone = -0.5: must be greater than or equal to 0"),
    "size": ({"patch_size": 0}, "data.patch_size = 0: must be greater than 0"),
    "key": ({"patch_sise": 3}, "no such key (did you mean 'patch_size'?)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(UsageError) as error:
        check({**TABLE, "data": {**TABLE["data"], **changes}}, "here")
    assert message in str(error.value)


def test_a_patch_outside_the_images_is_one_line_and_exit_2(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[data]\nkind = "patched"\nbase = "digits"\npatch_size = 9\n')
    command = [sys.executable, "-m", "fasttrain", "sweep", str(path), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "9x9 pixels at top = 0 does not lie inside digits" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("depth", [5, 4, 17, 3])
def test_a_depth_that_no_network_has_names_the_nearest(depth):
    table = {**TABLE, "network": {"kind": "wide-resnet", "depth": depth}}
    nearest = {5: (10, 16), 4: (10, 16), 17: (16, 22), 3: (10, 16)}[depth]
    message = f"network.depth = {depth}: must be 6 n \\+ 4 for n blocks a group: %d or %d" % nearest
    with pytest.raises(UsageError, match=message):
        check(table, "here")


def test_wrn_16_10_has_its_published_size_and_start():
    torch.manual_seed(0)
    net = WideResNet(10, scale_invariant=False)
    assert sum(p.numel() for p in net.parameters()) == 17_116_634
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 16
    for conv in convs:
        std = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.weight.std().item() == pytest.approx(std, rel=0.05)
    assert all(p.requires_grad for p in net.parameters())


def test_a_pack_is_its_models():
    nets = [WideResNet(10, depth=10, widen=2, width=4, scale_invariant=False) for _ in range(3)]
    pack = WideResNet(10, depth=10, widen=2, width=4, scale_invariant=False, num_models=3)
    pack.load_state_dict(fold([net.state_dict() for net in nets]))
    images = torch.randn(5, 3, 16, 16)
    expected = torch.stack([net(images) for net in nets])
    torch.testing.assert_close(pack(images), expected, rtol=1e-5, atol=1e-5)


def test_the_published_preset_is_the_published_training():
    config = load_config("patches-wrn16")
    data, network, optimizer = config.data, config.network, config.optimizer
    assert (data.base, data.patch_size, data.patched, data.alone) == ("cifar10", 7, 0.8, 0.2)
    assert (network.depth, network.widen, network.form) == (16, 10, "practical")
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 5e-4)
    for chain in config.experiment.legs:
        assert [leg.epochs for leg in chain] == [29, 31]
        assert chain[1].inherit == "optimizer"
