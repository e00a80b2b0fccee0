"""Passes over the training set at fixed weights: what the phase diagram of arXiv 2209.03695 shows.

The running means of an epoch are of weights that move. A pass is of one network: batch
normalisation in train mode, no augmentation, always the same batches in the same order.

    loss        mean over images
    grad_norm   ||g|| of a batch, mean over batches; effective: times ||theta||

g and theta are those of the sphere weights. Nothing that training depends on changes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..machine.precision import autocast
from ..settings.losses import Loss
from ..settings.networks.modules import ImageClassifier


class Measured(NamedTuple):
    """What a pass measures of every model, (num_models,) fp64 on the device."""

    loss: Tensor
    accuracy: Tensor
    grad_norm: Tensor
    effective_grad_norm: Tensor


def by_model(tensors: Sequence[Tensor], num_models: int) -> Tensor:
    """The parameters, or their gradients, as one vector of every model: (K, D)."""
    return torch.cat([tensor.reshape(num_models, -1) for tensor in tensors], dim=1)


def measure_pass(
    model: ImageClassifier,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Measured:
    """Loss, accuracy and mean batch gradient norms of every model in the mode that it is in."""
    size, parameters = model.num_models, model.sphere_parameters()
    loss_sum, norm_sum = torch.zeros(2, size, dtype=torch.float64, device=device)
    correct = torch.zeros(size, dtype=torch.int64, device=device)
    num_images = num_batches = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        losses, hits = loss(logits, labels)
        # Each model's gradient is that of its own loss: no weight is shared.
        grads = by_model(torch.autograd.grad(losses.sum(), parameters), size)
        norm_sum += torch.linalg.vector_norm(grads, dim=1)
        loss_sum += losses.detach() * len(labels)
        correct += hits.sum(dim=1)
        num_images += len(labels)
        num_batches += 1
    norm = torch.linalg.vector_norm(by_model([p.detach() for p in parameters], size), dim=1)
    grad_norm = norm_sum / num_batches
    accuracy = correct.double() / num_images
    return Measured(loss_sum / num_images, accuracy, grad_norm, grad_norm * norm)


def measure_undisturbed(
    model: ImageClassifier,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Measured:
    """As `measure_pass` in train mode, with the running statistics as they were before."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    found = measure_pass(model, loss, batches, precision, device)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
    return found
