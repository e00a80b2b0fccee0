"""Sharpness of finished stages: batch gradient norms, and the Hessian on the unit sphere.

Both are of the sphere weights, other parameters as they are, whatever optimiser trained them.
The published proxy (arXiv 2410.22113) is the mean over training batches of the norm of the batch
gradient over the scale-invariant parameters, and that times ||theta||, which is free of scale. Here
the batches are those of epoch 0 of the stage's seed, all of them, the last short one too, without
augmentation, with batch normalisation in train mode; a network that drops is in eval mode.

The loss whose Hessian is measured (`spectrum.py`) is the mean, over the images of the first of
these batches, of the same train-mode loss. Everything is computed in fp32 (or fp64 if asked for),
whatever precision the stages were trained in.

Beside it stands the scale of arXiv 2209.03695, of the Hessian by theta at its norm n, in N numbers:
eigenvalues / n^2, and trace / (n^2 N). Along theta a scale-invariant loss has no curvature, so that
the trace is the same; eigenvalues are up to what the gradient mixes of both.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fasttrain_data import open_loader

from ..machine.memory import free_bytes
from ..machine.processes import usable_cpus
from ..settings.losses import Loss
from ..settings.networks.modules import ImageClassifier, fold
from ..settings.networks.noise import drops
from ..training.pack import State
from ..training.passes import Measured as Pass
from ..training.passes import by_model, measure_pass
from ..training.workbench import Workbench
from .spectrum import SphereHessian, Top, rademacher, top_eigenvalues, trace
from .tables import TABLES

Batch = tuple[Tensor, Tensor]
KEPT_SHARE = 0.25
"""of a core's part of the free memory, that graphs of gradients may take from product to product"""


@dataclass(frozen=True, kw_only=True)
class HessianSettings:
    """What the Hessian is measured on, and how exactly."""

    num_images: int = 256
    """at least so many training images, in whole batches; more are more representative: near a
    minimum the curvature of few images is that of the hardest of them"""
    num_eigenvalues: int = 5
    """the largest ones"""
    tolerance: float = 1e-2
    """of their residuals, relative to the largest; errors are of the order of the square"""
    max_iterations: int = 60
    """products after which eigenvalues are reported with the residuals they have"""
    num_probes: int = 8
    """random vectors of the trace, at least 2"""


class Measured(NamedTuple):
    """What is measured of a pack: tables of `TABLES` without stage."""

    sharpness: pd.DataFrame
    """a row for every model, in their order"""
    eigenvalues: pd.DataFrame
    """rows of every model, behind its number in the column `model`"""


def measure(
    workbench: Workbench,
    states: Sequence[State],
    seed: int,
    *,
    hessian: HessianSettings | None,
    dtype: torch.dtype = torch.float32,
) -> Measured:
    """Sharpness of models of one seed, measured as one pack.

    Loss and accuracy are of the pass in which the gradients are taken, num_images is the Hessian's:
    0, NaN in its columns, and no eigenvalues where `hessian` is None. A model that is not finite
    has NaN but for its accuracy. The states stay as they are: batch normalisation counts in a copy.
    """
    # torch.compile has no second derivatives; the pass is too short to be worth it.
    eager = dataclasses.replace(workbench, compiled=False)
    model = eager.new_model(seed, len(states))
    model.load_state_dict(fold(states))
    # One loss has one gradient and one Hessian: nothing is dropped.
    model.to(dtype).train(not drops(model))
    loader = open_loader(
        workbench.data,
        "train",
        batch_size=workbench.config.training.batch_size,
        seed=seed,
        loader=workbench.config.data.loader,
        device=workbench.device,
        dtype=dtype,
        augment=None,
    )
    batches = loader.epoch(0)
    table = _gradients(measure_pass(model, workbench.loss, batches, "fp32", workbench.device))
    theta = by_model([p.detach() for p in model.sphere_parameters()], len(states))
    norm = torch.linalg.vector_norm(theta.double(), dim=1).cpu().numpy()
    found: dict[str, Any] = {"num_images": 0}
    ranked = {name: [] for name in ("model", *_columns("eigenvalues"))}
    if hessian is not None:
        count = math.ceil(hessian.num_images / loader.settings.batch_size)
        batches = list(itertools.islice(loader.epoch(0), count))
        found, top = curvature(model, workbench.loss, batches, seed, hessian)
        found["trace_at_norm"] = found["trace"] / (norm**2 * theta.shape[1])
        ranked = _ranked(top, norm)
    columns, rows = _columns("sharpness"), {"model": "int64"} | _columns("eigenvalues")
    return Measured(
        table.assign(**found, norm=norm, num_weights=theta.shape[1])
        .reindex(columns=list(columns))
        .astype(columns),
        pd.DataFrame(ranked).astype(rows),
    )


def _columns(table: str) -> dict[str, str]:
    return {name: kind for name, kind in TABLES[table].items() if name != "stage"}


def _ranked(top: Top, norm: np.ndarray) -> dict[str, Any]:
    num_models, count = top.values.shape
    return {
        "model": np.repeat(np.arange(num_models), count),
        "rank": np.tile(np.arange(1, count + 1), num_models),
        "value": top.values.flatten(),
        "residual": top.residuals.flatten(),
        "value_at_norm": top.values.flatten().numpy() / np.repeat(norm, count) ** 2,
    }


def _gradients(found: Pass) -> pd.DataFrame:
    """Loss, accuracy and mean batch gradient norms of every model."""
    names = ("train_loss", "train_accuracy", "grad_norm", "effective_grad_norm")
    return pd.DataFrame(
        {name: value.cpu().numpy() for name, value in zip(names, found, strict=True)}
    )


def curvature(
    model: ImageClassifier,
    loss: Loss,
    batches: Sequence[Batch],
    seed: int,
    settings: HessianSettings,
) -> tuple[dict[str, Any], Top]:
    """Trace of the Hessian on the unit sphere, (K,) fp64 on the host, and its top eigenvalues."""
    num_images = sum(len(labels) for _, labels in batches)

    def part(images: Tensor, labels: Tensor) -> Tensor:
        return loss(model(images), labels)[0] * (len(labels) / num_images)

    parts = [functools.partial(part, *batch) for batch in batches]
    room = free_bytes(batches[0][0].device) / usable_cpus() * KEPT_SHARE
    matrix = SphereHessian(model.sphere_parameters(), parts, model.num_models, room)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.dim, generator=generator).to(matrix.unit)
    probes = rademacher(settings.num_probes, matrix.dim, generator).to(matrix.unit)
    top = top_eigenvalues(
        matrix,
        start,
        count=settings.num_eigenvalues,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    mean, error = trace(matrix, probes)
    traces = {"trace": mean.numpy(), "trace_error": error.numpy(), "num_images": num_images}
    return traces, top
