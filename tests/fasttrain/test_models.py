"""The published networks: sizes, scale invariance, the frozen head, and other image sizes."""

import pytest
import torch
from torch import nn

from fasttrain.settings.networks.modules import HEAD_NORM, MLP, MODELS, ConvNet, ResNet18
from fasttrain_kernels import NormReLUPool

SIZES = [
    (ConvNet, 32, 387_936, 4, 480),
    (ResNet18, 32, 2_790_240, 20, 2_400),
    (ResNet18, 64, 11_159_232, 20, 4_800),
]


@pytest.mark.parametrize(("model", "width", "numel", "tensors", "filters"), SIZES)
def test_published_sizes(model, width, numel, tensors, filters):
    weights = model(10, width=width).sphere_parameters()
    assert sum(w.numel() for w in weights) == numel
    assert len(weights) == tensors
    assert sum(w.shape[0] for w in weights) == filters


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_only_sphere_parameters_train_and_the_head_is_frozen(model):
    net = model(10, width=4)
    trained = {id(p) for p in net.parameters() if p.requires_grad}
    assert trained == {id(p) for p in net.sphere_parameters()}
    assert net.head.weight.norm().item() == pytest.approx(HEAD_NORM, rel=1e-5)
    assert dict(net.named_parameters()).keys() >= {n for n, _ in net.named_sphere_parameters()}


def change_when_scaled(net: nn.Module, weights: list[torch.Tensor]) -> float:
    """Largest change of the logits when these conv weights are multiplied by 3."""
    net = net.double().train()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        logits = net(images)
        for weight in weights:
            weight.mul_(3)
        change = (net(images) - logits).abs().max().item()
        for weight in weights:
            weight.div_(3)
    return change


# eps 0 is refused by batch normalisation; at 1e-30 it is below fp64 resolution.
TINY_EPS = 1e-30
# Logits are of order 10, and fp64 rounding passes through at most 20 layers.
INVARIANT = 1e-11


def test_convnet_is_invariant_to_each_tensor():
    torch.manual_seed(0)
    net = ConvNet(10, width=4, eps=TINY_EPS)
    for weight in net.sphere_parameters():
        assert change_when_scaled(net, [weight]) < INVARIANT


def test_resnet_is_invariant_to_each_inner_tensor_and_to_each_residual_stream():
    """What is added on one residual stream only has a meaningful scale together."""
    torch.manual_seed(0)
    net = ResNet18(10, width=4, eps=TINY_EPS)
    streams = [[net.stem.weight]]
    for block in net.blocks:
        assert change_when_scaled(net, [block.conv1.weight]) < INVARIANT
        if block.downsample is not None:
            streams.append([block.downsample[1].weight])
        streams[-1].append(block.conv2.weight)
    assert [len(stream) for stream in streams] == [3, 3, 3, 3]
    for stream in streams:
        assert change_when_scaled(net, stream) < INVARIANT
        assert change_when_scaled(net, stream[:1]) > 1e-3
    assert change_when_scaled(net, net.sphere_parameters()) < INVARIANT


class OnlyPool(nn.Module):
    """What a normalising module does, but for the normalisation."""

    def forward(self, x: torch.Tensor, pool: tuple[int, int]) -> torch.Tensor:
        return nn.functional.max_pool2d(x.relu(), pool)


def test_the_measure_sees_a_network_that_is_not_invariant():
    torch.manual_seed(0)
    net = ConvNet(10, width=4, eps=TINY_EPS)
    net.norms[3] = OnlyPool()
    assert change_when_scaled(net, net.sphere_parameters()[3:]) > 1e-3


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_practical_form_trains_everything(model):
    net = model(10, width=4, scale_invariant=False)
    assert all(p.requires_grad for p in net.parameters())
    norms = [m for m in net.modules() if isinstance(m, NormReLUPool)]
    assert norms
    assert all(norm.affine for norm in norms)
    assert not any(m.affine for m in model(10, width=4).modules() if isinstance(m, NormReLUPool))


def test_convnet_pools_as_published_at_32():
    torch.manual_seed(0)
    net = ConvNet(10, width=4)
    layers: list[nn.Module] = []
    for index, (conv, norm) in enumerate(zip(net.convs, net.norms, strict=True)):
        layers += [conv, norm, nn.ReLU()] + ([nn.MaxPool2d(2)] if index else [])
    published = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), net.head)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(images), published(images))


def test_resnet_pools_as_published_at_32():
    torch.manual_seed(0)
    net = ResNet18(10, width=4)
    images = torch.randn(2, 3, 32, 32)
    maps = net.norm(net.blocks(net.stem(images))).relu()
    assert maps.shape[-2:] == (4, 4)
    pooled = nn.functional.avg_pool2d(maps, 4).flatten(1)
    net.train()
    torch.testing.assert_close(net.head(pooled), net(images))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("size", "channels"), [(4, 1), (8, 1), (28, 1), (33, 3), (64, 3)])
def test_any_size_and_channels(model, size, channels):
    options = {"image_size": (size, size)} if model is MLP else {}
    net = model(7, in_channels=channels, width=2, **options)
    assert net(torch.randn(3, channels, size, size)).shape == (3, 7)
