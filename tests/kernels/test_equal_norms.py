"""The variant of arXiv 2209.03695, one sphere of one radius for every filter, step by step."""

import pytest
import torch
from torch import Tensor, nn

from fasttrain_kernels import SphereSGD, equal_norms_

ELR = 1e-3


def network() -> tuple[nn.Sequential, list[nn.Parameter]]:
    """A scale-invariant network in fp64, and its convolutions' weights."""
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 9, 3, bias=False)
    layers = (m for conv in convs for m in (conv, nn.BatchNorm2d(conv.out_channels, affine=False)))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 4)).double()
    return model, [conv.weight for conv in convs]


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (16,), generator=generator)
    return nn.functional.cross_entropy(model(images), labels)


def published(steps: int) -> tuple[list[Tensor], list[float]]:
    """The published rule in plain torch: weights after the steps, and the losses before each."""
    model, weights = network()
    losses = []
    with torch.no_grad():
        n = sum(len(weight) for weight in weights)
        r = (sum(weight.square().sum() for weight in weights) / n).sqrt()
        for weight in weights:
            weight *= r / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for step in range(steps):
        loss = loss_of(model, step)
        losses.append(float(loss.detach()))
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight -= ELR * n * r**2 * grad
                weight *= r / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return weights, losses


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_twenty_steps_are_those_of_the_published_rule(memory_format):
    expected, losses = published(20)
    model, weights = network()
    model.to(memory_format=memory_format)
    radius, num_filters = equal_norms_(weights)
    assert num_filters == 15
    optimizer = SphereSGD(weights, elr=num_filters * ELR, radius=radius, scope="group")
    for step, wanted in enumerate(losses):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        assert float(loss.detach()) == pytest.approx(wanted, rel=1e-13)
        loss.backward()
        optimizer.step()
    rates = optimizer.statistics().elr
    torch.testing.assert_close(rates.reciprocal().sum().item(), 1 / ELR, rtol=1e-12, atol=0)
    for weight, target in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, target, rtol=0, atol=1e-14)


def test_norms_become_one_and_their_squares_keep_their_sum():
    named = [("a", torch.randn(4, 3, 2, 2)), ("b", torch.randn(5)), ("c", torch.randn(2, 7))]
    before = sum(float(tensor.double().square().sum()) for _, tensor in named)
    radius, num_filters = equal_norms_(named)
    norms = [*named[0][1].flatten(1).norm(dim=1), named[1][1].norm(), *named[2][1].norm(dim=1)]
    assert num_filters == len(norms) == 7
    torch.testing.assert_close(torch.stack(norms), torch.full((7,), radius))
    assert num_filters * radius**2 == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_filter_without_a_direction_is_refused_and_nothing_is_written(value):
    weight = torch.randn(3, 2)
    weight[1] = value
    kept = weight.clone()
    with pytest.raises(ValueError, match="1 of 3 filters have no finite norm above 0"):
        equal_norms_([weight])
    torch.testing.assert_close(weight, kept, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="at least one parameter"):
        equal_norms_([])
