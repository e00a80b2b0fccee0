"""ConvNets without batch norm: what is invariant, frozen and trained; packs; what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

import fasttrain as ft
from fasttrain.errors import UsageError
from fasttrain.plan.config import check
from fasttrain.settings.networks.kinds import ConvNet
from fasttrain.settings.networks.modules import ConvNet as Module
from fasttrain.settings.networks.modules import fold, unfold
from fasttrain.settings.part import section
from fasttrain_data import load

SHAPE = (3, 32, 32)
WEIGHT = {"norm": "weight"}
NONE = {"norm": "none", "form": "practical"}


def images(count=4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPE, dtype=torch.float64, generator=generator)


def network(num_models=1, seed=0, **options) -> Module:
    torch.manual_seed(seed)
    return ConvNet(width=4, **options).build(SHAPE, 10, num_models).double()


def test_with_weight_norm_every_filter_is_scale_invariant_by_itself():
    net = network(**WEIGHT)
    before = net(images())
    with torch.no_grad():
        for weight in net.sphere_parameters():
            scales = torch.logspace(-2, 2, len(weight), dtype=torch.float64)
            weight.mul_(scales.view(-1, 1, 1, 1))
    assert (net(images()) - before).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_a_filter_that_has_shrunk_to_nothing_is_dead_and_not_a_number(scale):
    net = network(**WEIGHT).float()
    with torch.no_grad():
        net.convs[1].weight[2].mul_(scale)
    out = net.convs[1](torch.randn(2, 4, 8, 8))
    assert out.isfinite().all() and out[:, 2].abs().max() < 1e-9 < out[:, 1].abs().max()
    losses = net(images().float()).square().sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(losses, net.sphere_parameters()))


def test_weight_norm_is_torchs_with_frozen_norms():
    net, x = network(**WEIGHT), images()
    layer = net.convs[1]
    plain = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False).double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    theirs = weight_norm(plain)
    inputs = F.relu(net.convs[0](x))
    with torch.no_grad():
        # What trains moves, and the norms stay those of the start.
        theirs.parametrizations.weight.original1.add_(1)
        layer.weight.add_(1)
    ours, expected = layer(inputs), theirs(inputs)
    # Norms are of weights in fp32.
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    v = theirs.parametrizations.weight.original1
    [own], [other] = (
        torch.autograd.grad(out.square().sum(), to)
        for out, to in ((ours, [layer.weight]), (expected, [v]))
    )
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", [WEIGHT, NONE], ids=["weight", "none"])
def test_outputs_do_not_depend_on_the_other_images(options):
    net = network(**options)
    together = net(images())
    torch.testing.assert_close(net(images()[:1]), together[:1])


def test_without_a_norm_everything_trains_and_biases_are_beside_the_filters():
    net = network(**NONE)
    free = [name for name, _ in net.named_free_parameters()]
    assert free == [*(f"convs.{i}.bias" for i in range(4)), "head.weight", "head.bias"]
    assert all(parameter.requires_grad for parameter in net.parameters())
    frozen = network(**WEIGHT)
    assert frozen.named_free_parameters() == []
    trained = {n for n, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, _ in frozen.named_sphere_parameters()}


@pytest.mark.parametrize("options", [WEIGHT, NONE], ids=["weight", "none"])
def test_a_pack_is_its_models(options):
    alone = [network(seed=seed, **options) for seed in (0, 1)]
    pack = network(num_models=2, **options)
    pack.load_state_dict(fold([net.state_dict() for net in alone]))
    for net, logits in zip(alone, pack(images()), strict=True):
        torch.testing.assert_close(logits, net(images()))
    for net, state in zip(alone, unfold(pack.state_dict(), 2), strict=True):
        assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {**WEIGHT, "k": [2]},
        {**WEIGHT, "scope": "equal-norms", "k": []},
        {**NONE, "optimizer": {"kind": "sgd"}, "k": [2]},
    ],
    ids=["weight", "equal-norms", "none"],
)
def test_a_grid_trains_and_its_models_come_out(tmp_path, changes):
    grid = {"plr": [1e-3, 3e-2], "flr": [1e-3], "epochs": 2, "finetune_epochs": 1}
    sizes = {"n_train": 150, "n_test": 50, "width": 2}
    results = ft.sweep(ft.study("digits", **grid, **sizes, **changes), store=tmp_path / "s", pack=2)
    stages = results.stages
    assert np.isfinite(stages["train_loss"]).all()
    data = load("digits").subset(n_train=150, n_test=50)
    for row in stages.to_dict("records"):
        predicted = ft.load_model(tmp_path / "s", row["stage"]).predict(data.test_images).numpy()
        assert (predicted == data.test_labels).mean() == row["test_accuracy"]


def test_batch_norm_is_the_default_and_no_part_of_an_identity():
    assert section(ConvNet()) == section(ConvNet(norm="batch"))
    assert "norm" not in section(ConvNet()) and "norm" in section(ConvNet(norm="weight"))
    assert not any("gain" in name for name in network().state_dict())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"network": {"norm": "wieght"}}, "network.norm = 'wieght': must be"),
        ({"network": {"norm": "layer"}}, "network.norm = 'layer': must be"),
        ({"network": {"kind": "mlp", "norm": "weight"}}, "network.norm = 'weight': must be"),
        ({"network": {"kind": "resnet18", "norm": "weight"}}, "network.norm: no such key"),
        ({"network": {"norm": "weight", "form": "practical"}}, "allowed here is scale-invariant"),
        ({"network": {"norm": "none"}}, "network.form = 'practical'"),
        ({"network": NONE, "optimizer": {"free_lr": 0.1}}, "allowed are sgd, adam and custom"),
        (
            {
                "network": {"norm": "weight"},
                "experiment": {"kind": "chain", "legs": [{"lr": 0.1, "epochs": 1, "noise": 0.1}]},
            },
            "network.norm is 'weight'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(table, words):
    with pytest.raises(UsageError) as raised:
        check(table, "here")
    assert words in str(raised.value) and "\n" not in str(raised.value)
