"""The training loop: one epoch on the device, read once at its end."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fasttrain_kernels import SphereSGD

from .evaluate import loss_and_correct
from .models import ImageClassifier
from .precision import autocast


class EpochTotals(NamedTuple):
    """What an epoch of training leaves on the device, all (num_models,) fp64."""

    train_loss: Tensor
    """mean over images, each at the weights of its step"""
    train_accuracy: Tensor
    """fraction of images, likewise, in train mode"""
    grad_norm: Tensor
    """effective gradient norm ||g|| * ||theta||, mean over steps"""


def train_epoch(
    model: ImageClassifier,
    optimizer: SphereSGD,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> EpochTotals:
    """Train on every batch: images (B, C, H, W), labels (B,). Nothing is read from the device."""
    model.train()
    size = model.num_models
    loss_sum = torch.zeros(size, dtype=torch.float64, device=device)
    correct = torch.zeros(size, dtype=torch.int64, device=device)
    grad_norm_sum = torch.zeros(size, dtype=torch.float64, device=device)
    num_images = num_steps = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        losses, hits = loss_and_correct(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        # Each model's gradient is that of its own loss: no weight is shared.
        losses.sum().backward()
        optimizer.step()
        norms = optimizer.totals()
        loss_sum += losses.detach() * len(labels)
        correct += hits
        grad_norm_sum += norms.grad_norm * norms.norm
        num_images += len(labels)
        num_steps += 1
    accuracy = correct.double() / num_images
    return EpochTotals(loss_sum / num_images, accuracy, grad_norm_sum / num_steps)


def filter_norms(model: ImageClassifier) -> Tensor:
    """||theta_i|| of every conv filter in the order of the parameters: (num_models, F) fp32."""
    with torch.no_grad():
        return torch.cat(
            [
                torch.linalg.vector_norm(weight, dim=(1, 2, 3)).view(model.num_models, -1)
                for weight in model.sphere_parameters()
            ],
            dim=1,
        )
