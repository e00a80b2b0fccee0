"""One model in plain torch: what the packs of `bench.studies` are timed against.

fp32 modules, autograd, torch.optim.SGD and a rescaling with one host read per tensor, as in
`bench.grid.published`, or torch.optim.Adam; the loss is read on the host at every step.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.grid.networks import NETWORKS
from bench.grid.published import rescale_
from fasttrain.experiments.kinds import first_rates
from fasttrain.settings.networks.kinds import MLP, ConvNet, ResNet18, ViTSmall
from fasttrain.settings.networks.modules import LayerNormMLP
from fasttrain.settings.networks.vit import ViT
from fasttrain.settings.optimizers.kinds import Adam, Sphere
from fasttrain.training.pack import drawing
from fasttrain.training.step_epochs import StepEpochs
from fasttrain.training.workbench import Workbench
from fasttrain_data import Loader

CPU = torch.device("cpu")


class Way(NamedTuple):
    """How steps are taken."""

    steps: Callable[[int], Tensor]
    """takes those of an epoch, and returns a number of every model that tells its results"""
    num_models: int


def plain_network(workbench: Workbench) -> nn.Module:
    """The network of seed 0 in plain modules, with the weights that a pack's models have."""
    ours, network = workbench.network(0), workbench.config.network
    channels, height, width = workbench.shape()
    if isinstance(network, ViTSmall):
        sizes = network.patch, network.width, network.depth, network.heads, network.dropout
        model = ViT(workbench.shape(), ours.num_outputs, *sizes)
        model.load_state_dict(ours.state_dict())
        return model
    if not isinstance(network, MLP):
        assert isinstance(network, ConvNet | ResNet18)
        torch.manual_seed(0)
        with torch.no_grad():
            make = NETWORKS[network.model]
            return make(ours.num_outputs, in_channels=channels, width=network.width, side=height)
    layers: list[nn.Module] = [nn.Flatten()]
    for weight in ours.sphere_parameters():
        layer = nn.Linear(weight[0].numel(), len(weight), bias=False)
        layer.weight.data.copy_(weight.detach().flatten(1))
        layers.append(layer)
        if isinstance(ours, LayerNormMLP):
            layers.append(nn.LayerNorm(len(weight), eps=ours.eps, elementwise_affine=False))
        else:
            layers.append(nn.BatchNorm1d(len(weight), affine=False))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, ours.head)


def loss_of(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of a batch."""
    if kind == "binary-cross-entropy":
        logits, target = logits.squeeze(1), labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target)
    if kind == "squared":
        target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return (logits - target).square().sum(dim=1).mean()
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def rescale_filters_(tensors: Sequence[Tensor], radius: float) -> None:
    """Put every filter on a sphere of this radius, one tensor after another."""
    for tensor in tensors:
        rows = tensor.view(len(tensor), -1)
        rows.mul_(radius / rows.norm(dim=1, keepdim=True))


class Step(NamedTuple):
    """An optimiser of one model, and what follows its steps."""

    optimizer: torch.optim.Optimizer
    project: Callable[[], None]
    thetas: Sequence[Tensor]
    """what lies on the sphere, or all that trains"""


def step_of(workbench: Workbench, model: nn.Module) -> Step:
    """The setting's step at its first rate, the weights put where training starts."""
    config = workbench.config
    chosen, rate, radius = config.optimizer, first_rates(config)[0], config.network.radius
    if isinstance(chosen, Adam):
        everything = list(model.parameters())
        adam = torch.optim.Adam(everything, lr=rate, weight_decay=chosen.weight_decay)
        return Step(adam, lambda: None, everything)
    assert isinstance(chosen, Sphere)
    thetas: list[Tensor] = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
    ]
    if chosen.scope == "equal-norms":
        # Of n filters: n ELR (radius / sqrt(n))^2 is the rate of the joint sphere.
        own = radius / math.sqrt(sum(len(theta) for theta in thetas))
        project = lambda: rescale_filters_(thetas, own)  # noqa: E731
    else:
        assert chosen.scope == "joint"
        project = lambda: rescale_(thetas, radius)  # noqa: E731
    project()
    return Step(torch.optim.SGD(thetas, lr=rate * radius**2), project, thetas)


def effective_grad_norm(
    model: nn.Module, thetas: Sequence[Tensor], loss: str, loader: Loader
) -> Tensor:
    """Of a pass over the training set at fixed weights: mean over batches, of one model."""
    norms = []
    for images, labels in loader.epoch(0):
        grads = torch.autograd.grad(loss_of(loss, model(images), labels), thetas)
        norms.append(math.sqrt(sum(float(grad.norm().item()) ** 2 for grad in grads)))
    norm = math.sqrt(sum(float(theta.norm().item()) ** 2 for theta in thetas))
    return torch.tensor([statistics.fmean(norms) * norm])


def plain(
    workbench: Workbench, steps: int, *, evaluated: int | None = None, passed: bool = False
) -> Way:
    """One model, with a pass over training and test set every so many steps.

    Args:
        passed: whether gradients of a pass over the training set follow.
    """
    model, loss_kind = plain_network(workbench), workbench.config.training.loss
    optimizer, project, thetas = step_of(workbench, model)
    loader = StepEpochs(workbench.passes(0), steps)
    still = workbench.unaugmented(0)
    train, test = (workbench.data.split(split) for split in ("train", "test"))
    sets = [(torch.from_numpy(images).flatten(1), labels) for images, labels in (train, test)]

    def epoch(number: int) -> Tensor:
        losses = []
        with drawing(0, number, CPU):
            for step, (images, labels) in enumerate(loader.epoch(number)):
                loss = loss_of(loss_kind, model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                project()
                losses.append(loss.item())
                if evaluated is not None and step % evaluated == 0:
                    with torch.no_grad():
                        for inputs, _ in sets:
                            model(inputs).mean().item()
        if passed:
            return effective_grad_norm(model, thetas, loss_kind, still)
        return torch.tensor([statistics.fmean(losses)])

    return Way(epoch, 1)
