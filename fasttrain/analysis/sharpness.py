"""Sharpness of finished stages: batch gradient norms, and the Hessian on the unit sphere.

The published proxy (arXiv 2410.22113) is the mean over training batches of the norm of the batch
gradient over the scale-invariant parameters, and that times ||theta||, which is free of scale. Here
the batches are those of epoch 0 of the stage's seed, all of them, the last short one too, without
augmentation, with batch normalisation in train mode.

The loss whose Hessian is measured (`spectrum.py`) is the mean, over the images of the first of
these batches, of the same train-mode loss. Everything is computed in fp32 (or fp64 if asked for),
whatever precision the stages were trained in.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fasttrain_data import open_loader

from ..evaluate import loss_and_correct
from ..lab import Lab
from ..models import ImageClassifier, fold
from ..pack import State
from .spectrum import SphereHessian, by_model, largest_eigenvalue, rademacher, trace
from .tables import TABLES

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class HessianSettings:
    """What the Hessian is measured on, and how exactly."""

    num_images: int = 256
    """at least so many training images, in whole batches; more are more representative: near a
    minimum the curvature of few images is that of the hardest of them"""
    tolerance: float = 1e-2
    """relative residual of the largest eigenvalue; its error is of the order of the square"""
    max_iterations: int = 40
    """products after which the eigenvalue is reported with the residual it has"""
    num_probes: int = 8
    """random vectors of the trace, at least 2"""


def measure(
    lab: Lab,
    states: Sequence[State],
    seed: int,
    *,
    hessian: HessianSettings | None,
    dtype: torch.dtype = torch.float32,
) -> pd.DataFrame:
    """Sharpness of models of one seed, measured as one pack: a row each, in their order.

    Columns as in `TABLES["sharpness"]` without stage; loss and accuracy are of the pass in which
    the gradients are taken, num_images is the Hessian's: 0, and NaN in its columns, where `hessian`
    is None. A model that is not finite has NaN but for its accuracy. The states stay as they are:
    batch normalisation counts in a copy.
    """
    # torch.compile has no second derivatives; the pass is too short to be worth it.
    eager = dataclasses.replace(lab, compiled=False)
    model = eager.new_model(seed, len(states))
    model.load_state_dict(fold(states))
    model.to(dtype).train()
    loader = open_loader(
        lab.data,
        "train",
        batch_size=lab.config.training.batch_size,
        seed=seed,
        loader=lab.config.data.loader,
        device=lab.device,
        dtype=dtype,
        augment=None,
    )
    table = gradient_norms(model, loader.epoch(0))
    found: dict[str, Any] = {"num_images": 0}
    if hessian is not None:
        count = math.ceil(hessian.num_images / loader.settings.batch_size)
        batches = list(itertools.islice(loader.epoch(0), count))
        found = curvature(model, batches, seed, hessian)
    columns = {name: kind for name, kind in TABLES["sharpness"].items() if name != "stage"}
    return table.assign(**found).reindex(columns=list(columns)).astype(columns)


def gradient_norms(model: ImageClassifier, batches: Iterable[Batch]) -> pd.DataFrame:
    """Loss, accuracy and mean batch gradient norms of every model in the mode that it is in."""
    size, parameters = model.num_models, model.sphere_parameters()
    device = parameters[0].device
    loss_sum, norm_sum = torch.zeros(2, size, dtype=torch.float64, device=device)
    correct = torch.zeros(size, dtype=torch.int64, device=device)
    num_images = num_batches = 0
    for images, labels in batches:
        losses, hits = loss_and_correct(model(images), labels)
        # Each model's gradient is that of its own loss: no weight is shared.
        grads = by_model(torch.autograd.grad(losses.sum(), parameters), size)
        norm_sum += torch.linalg.vector_norm(grads, dim=1)
        loss_sum += losses.detach() * len(labels)
        correct += hits
        num_images += len(labels)
        num_batches += 1
    radius = torch.linalg.vector_norm(by_model([p.detach() for p in parameters], size), dim=1)
    grad_norm = norm_sum / num_batches
    return pd.DataFrame(
        {
            "train_loss": (loss_sum / num_images).cpu().numpy(),
            "train_accuracy": (correct.double() / num_images).cpu().numpy(),
            "grad_norm": grad_norm.cpu().numpy(),
            "effective_grad_norm": (grad_norm * radius).cpu().numpy(),
        }
    )


def curvature(
    model: ImageClassifier, batches: Sequence[Batch], seed: int, settings: HessianSettings
) -> dict[str, Any]:
    """Largest eigenvalue and trace of the Hessian on the unit sphere: (K,) fp64 on the host."""
    num_images = sum(len(labels) for _, labels in batches)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return loss_and_correct(model(images), labels)[0] * (len(labels) / num_images)

    parts = [functools.partial(loss, *batch) for batch in batches]
    matrix = SphereHessian(model.sphere_parameters(), parts, model.num_models)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.dim, generator=generator).to(matrix.unit)
    probes = rademacher(settings.num_probes, matrix.dim, generator).to(matrix.unit)
    largest = largest_eigenvalue(
        matrix, start, tolerance=settings.tolerance, max_iterations=settings.max_iterations
    )
    mean, error = trace(matrix, probes)
    return {
        "eigenvalue": largest.value.numpy(),
        "eigenvalue_residual": largest.residual.numpy(),
        "trace": mean.numpy(),
        "trace_error": error.numpy(),
        "num_images": num_images,
    }
