"""Optimisers of packs: each model as torch trains it alone, and on from its state bit for bit."""

import copy

import pytest
import torch
from torch import Tensor

from fasttrain.errors import UsageError
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MLP, ConvNet, ImageClassifier, fold, unfold
from fasttrain.settings.optimizers import adam as adam_module
from fasttrain.settings.optimizers.fused import start_norms
from fasttrain.settings.optimizers.groups import Built
from fasttrain.settings.optimizers.kinds import SGD, Adam, Sphere
from fasttrain.training.loop import train_epoch
from fasttrain.training.workbench import trained
from fasttrain_data import load, open_loader
from fasttrain_kernels import SphereSGD, equal_norms_

DIGITS = load("digits").subset(150, 50)
LOSS = CrossEntropy()
LRS = (1e-3, 3e-3, 1e-2)
KNOBS = [Knobs(lr=lr) for lr in LRS]
OPTIMIZERS = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9, weight_decay=5e-3),
    "nesterov": SGD(momentum=0.9, nesterov=True, weight_decay=5e-3),
    "adam": Adam(betas=(0.8, 0.99), weight_decay=1e-2),
    "adamw": Adam(weight_decay=1e-1, decoupled=True),
}
IN_TORCH = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=5e-3),
    "nesterov": lambda p, lr: torch.optim.SGD(
        p, lr, momentum=0.9, weight_decay=5e-3, nesterov=True
    ),
    "adam": lambda p, lr: torch.optim.Adam(p, lr, betas=(0.8, 0.99), weight_decay=1e-2),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=1e-1),
}
TOLERANCES = {"rtol": 1e-8, "atol": 1e-10}
"""of fp64 after an epoch: sums are taken in another order in packs"""


def network(model: str, num_models: int = 1, *, practical: bool = True) -> ImageClassifier:
    shape = {"in_channels": 1, "width": 4, "scale_invariant": not practical}
    if model == "mlp":
        return MLP(10, image_size=(8, 8), num_models=num_models, **shape)
    return ConvNet(10, num_models=num_models, **shape)


def packed(model: str, dtype: torch.dtype = torch.float64) -> ImageClassifier:
    """As many networks as there are rates, all different."""
    states = []
    for seed in range(len(LRS)):
        torch.manual_seed(seed)
        states.append(network(model).state_dict())
    net = network(model, len(LRS))
    net.load_state_dict(fold(states))
    return net.to(dtype).to(memory_format=torch.channels_last)


def train(net: ImageClassifier, optimizer: Built, epoch: int = 0) -> Tensor:
    dtype = next(net.parameters()).dtype
    batches = open_loader(DIGITS, batch_size=48, dtype=dtype).epoch(epoch)
    return train_epoch(net, LOSS, optimizer, batches, "fp32", torch.device("cpu")).grad_norm


@pytest.fixture(params=["in torch's kernel", "before it"])
def where_decays_are(request, monkeypatch):
    """Adam's: as on a CPU, and as on a GPU."""
    as_numbers = request.param == "in torch's kernel"
    monkeypatch.setattr(adam_module, "takes_decays", lambda device: as_numbers)


@pytest.mark.parametrize("model", ["convnet", "mlp"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("where_decays_are")
def test_each_model_of_a_practical_pack_is_as_torch_trains_it(kind, model):
    net = packed(model)
    before = unfold(copy.deepcopy(net.state_dict()), len(LRS))
    train(net, OPTIMIZERS[kind].build(trained(net), KNOBS))
    for lr, start, end in zip(LRS, before, unfold(net.state_dict(), len(LRS)), strict=True):
        alone = network(model).double()
        alone.load_state_dict(start)
        optimizer = IN_TORCH[kind](alone.parameters(), lr)
        for images, labels in open_loader(DIGITS, batch_size=48, dtype=torch.float64).epoch(0):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(alone(images), labels).backward()
            optimizer.step()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(end[name], value, **TOLERANCES, msg=name)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("where_decays_are")
def test_a_weight_decay_per_model_is_that_of_the_model_alone(kind):
    decays = (None, 0.0, 0.3)
    knobs = [Knobs(lr=3e-3, weight_decay=decay) for decay in decays]
    net = packed("convnet")
    before = unfold(copy.deepcopy(net.state_dict()), len(knobs))
    train(net, OPTIMIZERS[kind].build(trained(net), knobs))
    ends = unfold(net.state_dict(), len(knobs))
    for own, start, end in zip(knobs, before, ends, strict=True):
        alone = network("convnet").double()
        alone.load_state_dict(start)
        train(alone, OPTIMIZERS[kind].build(trained(alone), [own]))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(end[name], value, **TOLERANCES, msg=name)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_from_its_state_it_goes_on_in_the_same_bits(kind):
    """Through the states of the single models, as checkpoints hold them."""
    net = packed("convnet", torch.float32)
    optimizer = OPTIMIZERS[kind].build(trained(net), KNOBS)
    assert optimizer.state() == {}
    train(net, optimizer)
    kept = unfold(copy.deepcopy(net.state_dict()), len(LRS))
    state = unfold(copy.deepcopy(optimizer.state()), len(LRS))
    assert bool(state[0]) == OPTIMIZERS[kind].keeps_state
    train(net, optimizer, 1)
    other = packed("convnet", torch.float32)
    resumed = OPTIMIZERS[kind].build(trained(other), KNOBS)
    other.load_state_dict(fold(kept))
    resumed.load_(fold(state))
    train(other, resumed, 1)
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for name, value in optimizer.state().items():
        assert torch.equal(resumed.state()[name], value), name


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_effective_gradient_norm_is_of_the_sphere_weights(kind):
    net = packed("convnet")
    optimizer = OPTIMIZERS[kind].build(trained(net), KNOBS)
    images, labels = next(iter(open_loader(DIGITS, batch_size=48, dtype=torch.float64).epoch(0)))
    LOSS(net(images), labels)[0].sum().backward()
    rows = [
        torch.cat([t.detach().reshape(len(LRS), -1) for t in tensors], dim=1).norm(dim=1)
        for tensors in (net.sphere_parameters(), [p.grad for p in net.sphere_parameters()])
    ]
    optimizer.step()
    total = torch.ones(len(LRS), dtype=torch.float64)
    optimizer.add_effective_grad_norm_(total)
    torch.testing.assert_close(total, 1 + rows[0] * rows[1])


def test_beside_the_sphere_plain_sgd_trains_the_rest():
    net = packed("convnet")
    before = copy.deepcopy(net.state_dict())
    optimizer = Sphere(free_lr=0.1).build(trained(net), KNOBS, radius=5.0)
    optimizer.start_()
    images, labels = next(iter(open_loader(DIGITS, batch_size=48, dtype=torch.float64).epoch(0)))
    LOSS(net(images), labels)[0].sum().backward()
    optimizer.step()
    for name, parameter in net.named_free_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * parameter.grad)
    for state in unfold(net.state_dict(), len(LRS)):
        weights = torch.cat([state[name].flatten() for name, _ in net.named_sphere_parameters()])
        torch.testing.assert_close(weights.norm(), torch.tensor(5.0, dtype=torch.float64))


def test_equal_norms_are_those_of_the_kernels():
    """Every model of a pack as `equal_norms_` and SphereSGD train it alone, at n times its rate."""
    torch.manual_seed(0)
    start = network("convnet", practical=False).double()
    norms = start_norms("equal-norms", start.sphere_parameters(), 5.0)
    net = network("convnet", len(LRS), practical=False).double()
    net.load_state_dict(fold([start.state_dict()] * len(LRS)))
    optimizer = Sphere(scope="equal-norms").build(trained(net), KNOBS, radius=5.0, norms=norms)
    optimizer.start_()
    train(net, optimizer)
    for lr, end in zip(LRS, unfold(net.state_dict(), len(LRS)), strict=True):
        alone = copy.deepcopy(start)
        SphereSGD(alone.named_sphere_parameters(), lr=1.0, radius=5.0).projected_()
        radius, count = equal_norms_(alone.named_sphere_parameters())
        assert radius == pytest.approx(float(norms[0][0]))
        reference = SphereSGD(
            alone.named_sphere_parameters(), elr=count * lr, radius=radius, scope="group"
        )
        for images, labels in open_loader(DIGITS, batch_size=48, dtype=torch.float64).epoch(0):
            reference.zero_grad()
            LOSS(alone(images), labels)[0].sum().backward()
            reference.step()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(end[name], value, **TOLERANCES, msg=name)


@pytest.mark.parametrize("scope", ["filter", "tensor"])
def test_every_group_keeps_the_norm_that_it_starts_with(scope):
    net = packed("convnet")
    torch.manual_seed(0)
    norms = start_norms(scope, network("convnet").double().sphere_parameters(), 5.0)
    assert float(torch.cat(norms).norm()) == pytest.approx(5.0)
    optimizer = Sphere(scope=scope, free_lr=0.1).build(trained(net), KNOBS, radius=5.0, norms=norms)
    optimizer.start_()
    train(net, optimizer)
    for state in unfold(net.state_dict(), len(LRS)):
        weights = [state[name] for name, _ in net.named_sphere_parameters()]
        for weight, norm in zip(weights, norms, strict=True):
            rows = weight.flatten(1) if scope == "filter" else weight.reshape(1, -1)
            torch.testing.assert_close(rows.norm(dim=1), norm)


def test_a_parameter_that_no_optimiser_takes_is_named():
    net = network("convnet")
    net.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="no optimiser takes them: extra.bias, extra.weight"):
        trained(net)
