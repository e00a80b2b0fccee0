"""The training loop: one epoch on the device, read once at its end."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..machine.precision import autocast
from ..settings.losses import Loss
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.groups import Built


class EpochTotals(NamedTuple):
    """What an epoch of training leaves on the device, all (num_models,) fp64."""

    train_loss: Tensor
    """mean over images, each at the weights of its step"""
    train_accuracy: Tensor
    """fraction of images, likewise, in train mode"""
    train_balanced_accuracy: Tensor
    """of the same predictions the mean over classes of the fraction of their images"""
    grad_norm: Tensor
    """effective gradient norm ||g|| * ||theta|| of the sphere weights, mean over steps"""


def train_epoch(
    model: ImageClassifier,
    loss: Loss,
    optimizer: Built,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> EpochTotals:
    """Train on every batch: images (B, C, H, W), labels (B,). Nothing is read from the device."""
    model.train()
    size = model.num_models
    loss_sum = torch.zeros(size, dtype=torch.float64, device=device)
    num_classes = loss.num_classes(model.num_outputs)
    hits_by_class = torch.zeros(size, num_classes, dtype=torch.int64, device=device)
    images_by_class = torch.zeros(num_classes, dtype=torch.int64, device=device)
    grad_norm_sum = torch.zeros(size, dtype=torch.float64, device=device)
    num_images = num_steps = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        losses, hits = loss(logits, labels)
        optimizer.zero_grad()
        # Each model's gradient is that of its own loss: no weight is shared.
        losses.sum().backward()
        optimizer.step()
        loss_sum += losses.detach() * len(labels)
        # Integers, so that the order of the additions does not matter.
        hits_by_class.index_add_(1, labels, hits.long())
        images_by_class.index_add_(0, labels, torch.ones_like(labels))
        grad_norm_sum += optimizer.effective_grad_norm()
        num_images += len(labels)
        num_steps += 1
    accuracy = hits_by_class.sum(dim=1).double() / num_images
    # A class without an image adds nothing to either.
    recalls = hits_by_class.double() / images_by_class.clamp(min=1)
    balanced = recalls.sum(dim=1) / (images_by_class > 0).sum()
    return EpochTotals(loss_sum / num_images, accuracy, balanced, grad_norm_sum / num_steps)


def filter_norms(model: ImageClassifier) -> Tensor:
    """||theta_i|| of every filter on the sphere, in the order of the parameters: (num_models, F).

    fp32; a filter is a row of whatever dimensions.
    """
    with torch.no_grad():
        norms = []
        for weight in model.sphere_parameters():
            rows = weight if weight.ndim == 4 else weight.reshape(len(weight), -1)
            rest = tuple(range(1, rows.ndim))
            norms.append(torch.linalg.vector_norm(rows, dim=rest).view(model.num_models, -1))
        return torch.cat(norms, dim=1)
