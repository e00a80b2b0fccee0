"""The vision transformer and its study: published sizes, what is scale-invariant, its paths."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import fasttrain as ft
from fasttrain.analysis import geometry
from fasttrain.analysis.geometry import Line
from fasttrain.analysis.regimes import classify
from fasttrain.analysis.setups import all_setups
from fasttrain.analysis.sharpness import measure
from fasttrain.api.session import RunOptions, open_session
from fasttrain.errors import UsageError
from fasttrain.plan.config import check, load_config
from fasttrain.plan.flags import DataFlags
from fasttrain.plan.stages import setup_sections
from fasttrain.plan.trees import build
from fasttrain.settings.networks.vit import Attention, ShiftedPatches, ViT
from fasttrain.training.evaluate import score_in_eval_mode


def test_published_sizes():
    net = ViT((3, 32, 32), 10)
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    assert sum(sizes.values()) == 9_634_800
    assert sum(sizes[name] for name in net.on_sphere()) == 3_151_872


def change(net: ViT, names: list[str]) -> float:
    """Largest change of the logits when these parameters are multiplied by 3."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        before = net(images)
        for name in names:
            net.get_parameter(name).mul_(3)
        moved = (net(images) - before).abs().max().item()
        for name in names:
            net.get_parameter(name).div_(3)
    return moved


def test_each_feed_forward_layer_is_invariant_and_nothing_else():
    torch.manual_seed(0)
    net = ViT((3, 8, 8), 10, width=32, depth=2, heads=2).double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-30
    with torch.no_grad():  # biases that are zero would hide that they matter
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    names = net.on_sphere()
    for weight, bias in zip(names[::2], names[1::2], strict=True):
        assert change(net, [weight, bias]) < 1e-11
    for name, _ in net.named_parameters():
        if name not in names:
            assert change(net, [name]) > 1e-6, name


def test_a_token_does_not_attend_to_itself():
    """Of two tokens each gets the other's value alone."""
    torch.manual_seed(0)
    attention = Attention(32, 2, 0.0)
    tokens = torch.randn(1, 2, 32)
    values = attention.qkv(attention.norm(tokens)).chunk(3, dim=2)[2]
    torch.testing.assert_close(attention(tokens), attention.out(values.flip(1)))


def test_tokens_hold_the_image_and_four_shifted_copies():
    tokens = ShiftedPatches(1, 2, 8)
    seen = []
    tokens.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    tokens(image)
    assert seen[0].shape == (1, 4, 20)
    first = seen[0][0, 0].reshape(5, 2, 2)
    assert first[0].tolist() == [[0, 1], [4, 5]]
    assert first[1].tolist() == [[0, 0], [0, 4]]  # right
    assert first[2].tolist() == [[1, 2], [5, 6]]  # left
    assert first[3].tolist() == [[0, 0], [0, 1]]  # down
    assert first[4].tolist() == [[4, 5], [8, 9]]  # up


def test_images_that_patches_do_not_fill_are_refused():
    with pytest.raises(ValueError, match="patches of 4 do not tile images of 30x32"):
        ViT((3, 30, 32), 10)


def study(**keys):
    """The digits-sized study, of a minute rather less."""
    data = {"n_train": 64, "n_test": 30, **keys.pop("data", {})}
    small = {"width": 8, "depth": 1, "batch_size": 32, "epochs": 3, "finetune_epochs": 2}
    small |= {"plr": [1e-3, 1e-2], "flr": [1e-4, 1e-3], "k": [2], **keys}
    return ft.study("digits-vit", data=data, **small)


def workbench_of(path, **keys):
    options = RunOptions(store=path, device="cpu")
    return open_session(study(**keys).config, options, name="vit", command="test").workbench


def test_a_study_from_its_runs_to_its_figures(tmp_path):
    results = ft.sweep(study(), store=tmp_path / "s")
    assert results.stages.groupby("kind").size().to_dict() == {
        "finetune": 4,
        "pretrain": 2,
        "swa": 2,
    }
    assert (results.stages["rate"] == "raw").all() and (results.stages["state"] != "failed").all()
    [setup] = all_setups(tmp_path / "s")
    assert classify(setup)["reason"].str.startswith("not judged").all()
    ft.analyse(tmp_path / "s", only=["geometry", "norms"], points=7)
    tables = ft.load_analyses(tmp_path / "s")
    # Low, high and average of each PLR: three paths of seven points.
    assert tables["paths"].groupby(["stage_a", "stage_b"]).size().tolist() == [7] * 6
    assert np.isfinite(tables["pairs"]["angle"]).all()
    results.figure("accuracy")


def test_a_sweep_is_the_same_in_other_processes_and_continued(tmp_path):
    """Dropout and RandAugment are functions of seed and epoch."""
    columns = ["kind", "plr", "train_loss", "test_loss"]
    whole = ft.sweep(study(), store=tmp_path / "a").stages[columns]
    ft.sweep(study(epochs=2, flr=[], k=[]), store=tmp_path / "b")
    again = ft.sweep(study(), store=tmp_path / "b").stages
    again = again[again["stage"].isin(ft.load(tmp_path / "a")["stage"])]
    assert again[columns].reset_index(drop=True).equals(whole)


def test_paths_are_straight_in_all_parameters(tmp_path, monkeypatch):
    workbench = workbench_of(tmp_path / "s")
    ends = {name: workbench.initial_state(seed) for seed, name in enumerate("ab")}
    seen = []

    def scored(states, seed, workbench):
        seen.extend(states)
        return torch.zeros(len(states), 4, dtype=torch.float64)

    monkeypatch.setattr(geometry, "score_pack", scored)
    geometry.follow([Line("low-high", "a", "b")], ends, 0, workbench, 1, 7)
    assert len(seen) == 7 and set(ends["a"]) == set(seen[3])
    assert set(seen[3]) == {*workbench.sphere_names, *workbench.free_names}
    for name, value in seen[3].items():
        middle = (ends["a"][name].double() + ends["b"][name].double()) / 2
        torch.testing.assert_close(value, middle.float(), rtol=1e-6, atol=1e-7)


def test_points_of_a_path_are_scored_in_eval_mode(tmp_path):
    workbench = workbench_of(tmp_path / "s", dropout=0.5)
    states = [workbench.initial_state(0)]
    found = geometry.score_pack(states, 0, workbench)
    assert torch.equal(found, geometry.score_pack(states, 0, workbench))
    model = workbench.new_model(0)
    batches = workbench.train_loader(0).epoch(0)
    expected = score_in_eval_mode(model, workbench.loss, batches, "fp32", workbench.device)
    assert torch.equal(found[0, :2], torch.stack([*expected], dim=1)[0])


def test_sharpness_is_of_one_loss(tmp_path):
    workbench = workbench_of(tmp_path / "s", dropout=0.5)
    states = [workbench.initial_state(0)]
    tables = [measure(workbench, states, 0, hessian=None).sharpness for _ in range(2)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_drops_is_not_compiled(tmp_path, dropout):
    workbench = workbench_of(tmp_path / "s", dropout=dropout)
    workbench.compiled = True
    model = workbench.new_model(0)
    assert (model._compiled_call_impl is None) == (dropout > 0)


def ids(**data):
    table = {"data": data, "network": {"kind": "vit-small"}, "optimizer": {"kind": "adam"}}
    config = check(table, "here")
    sections = setup_sections(config, config.data.load(None), "fp32")
    return {stage.id for stage in build(config, sections)}


def test_rand_augment_is_part_of_identity_where_there_is_one():
    assert ids() == ids(rand_augment="none", rand_ops=2, rand_magnitude=9)
    kinds = [
        ids(),
        ids(rand_augment="torchvision"),
        ids(rand_augment="absolute"),
        ids(rand_augment="absolute", rand_ops=1),
        ids(rand_augment="absolute", rand_magnitude=14),
    ]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


def test_without_rand_augment_its_numbers_go_too():
    data = load_config("cifar10-vit").data
    flags = DataFlags.of(data)
    assert check({"data": flags.applied(data)}, "here").data == data
    plain = DataFlags(**{**vars(flags), "rand_augment": "none"}).applied(data)
    assert check({"data": plain}, "here").data.rand_magnitude == 9


REFUSED = {
    "sphere": ({"optimizer": {"kind": "sphere"}}, "only the feed-forward layers of vit-small"),
    "noise": (
        {"experiment": {"kind": "chain", "legs": [{"lr": 1e-3, "epochs": 1, "noise": 0.1}]}},
        "this is vit-small",
    ),
    "dropout": ({"network": {"kind": "vit-small", "dropout": 1.0}}, "network.dropout = 1.0"),
    "heads": ({"network": {"kind": "vit-small", "heads": 0}}, "network.heads = 0"),
    "form": (
        {"network": {"kind": "vit-small", "form": "practical"}},
        "network.form: no such key; allowed here: kind, model",
    ),
    "policy": ({"data": {"rand_augment": "absolut"}}, "did you mean 'absolute'"),
    "magnitude": (
        {"data": {"rand_augment": "absolute", "rand_magnitude": 31}},
        "data.rand_magnitude = 31: must be less than or equal to 30",
    ),
    "ops": ({"data": {"rand_augment": "absolute", "rand_ops": 0}}, "data.rand_ops = 0"),
    "numbers of nothing": (
        {"data": {"rand_magnitude": 14}},
        "data.rand_magnitude = 14: applies to RandAugment, and data.rand_augment is 'none'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused(case):
    changes, message = REFUSED[case]
    table = {"network": {"kind": "vit-small"}, "optimizer": {"kind": "adam"}} | changes
    with pytest.raises(UsageError) as error:
        check(table, "here")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--patch", "3"), "network.patch = 3: does not divide images of 8x8"),
        (
            ("--dataset", "tick", "--crop-padding", "0", "--loss", "binary-cross-entropy"),
            "rand_augment = 'torchvision': tick holds no images",
        ),
    ],
)
def test_what_the_images_refuse_is_one_line_and_exit_2(tmp_path, flags, message):
    command = [sys.executable, "-m", "fasttrain", "sweep", "digits-vit", "--dry-run", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_published_preset_is_the_published_training():
    config = load_config("cifar10-vit")
    data, network, training = config.data, config.network, config.training
    assert (data.rand_augment, data.rand_ops, data.rand_magnitude) == ("absolute", 2, 14)
    assert (data.flip, data.crop_padding, training.batch_size) == (True, 4, 512)
    assert (network.width, network.depth, network.heads, network.dropout) == (512, 6, 8, 0.1)
    passes = training.steps / -(-50_000 // training.batch_size)
    assert (passes * training.epochs, passes * training.finetune_epochs) == (500, 500)
    assert (config.optimizer.kind, config.optimizer.weight_decay) == ("adam", 1e-4)
    assert not config.optimizer.decoupled and training.inherit == "weights"
    assert len(config.grid.plr) == 10 and config.grid.flr == (1e-5, 2e-5, 5e-5, 1e-4)
