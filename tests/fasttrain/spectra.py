"""Hessians on the sphere of which the spectrum is known, and of small networks."""

import functools

import torch
from torch import Tensor

from fasttrain.analysis.spectrum import SphereHessian
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS, ImageClassifier, fold

SIZES = {"mlp": {"image_size": (4, 4)}}
# What a relative error may be of fp64 results after some hundred operations.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
DIM = 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quotients(scales: Tensor, points: Tensor) -> SphereHessian:
    """Of f(x) = sum a_i x_i^2 / ||x||^2, one model for every row of `points`."""
    theta = points.clone().requires_grad_()

    def loss() -> Tensor:
        return (scales * theta**2).sum(dim=1) / (theta**2).sum(dim=1)

    return SphereHessian([theta], [loss], len(points))


def matrices(hessian: SphereHessian) -> Tensor:
    """All of every model's matrix: (K, D, D)."""
    count = hessian.unit.shape[0]
    units = torch.eye(hessian.dim, dtype=torch.float64)
    return torch.stack([hessian(unit.expand(count, -1)) for unit in units], dim=2)


def network(model: str, count: int) -> tuple[ImageClassifier, Tensor, Tensor]:
    """A pack of different models in fp64 and train mode, with images and their labels."""
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        states.append(
            MODELS[model](10, in_channels=1, width=1, **SIZES.get(model, {})).state_dict()
        )
    net = MODELS[model](10, in_channels=1, width=1, num_models=count, **SIZES.get(model, {}))
    net.load_state_dict(fold(states))
    return net.double().train(), random(24, 1, 4, 4), torch.arange(24) % 10


def sphere_hessian(
    net: ImageClassifier, images: Tensor, labels: Tensor, room: float = 0.0
) -> SphereHessian:
    """Of the mean loss of two batches."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return CrossEntropy()(net(images), labels)[0] / 2

    halves = zip(images.chunk(2), labels.chunk(2), strict=True)
    parts = [functools.partial(loss, *half) for half in halves]
    return SphereHessian(net.sphere_parameters(), parts, net.num_models, room)
