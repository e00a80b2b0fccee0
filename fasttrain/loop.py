"""The training loop: one epoch on the device, read once at its end."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fasttrain_kernels import SphereSGD

from .evaluate import loss_and_correct
from .precision import autocast


class EpochTotals(NamedTuple):
    """What an epoch of training leaves on the device, all 0-d fp64."""

    train_loss: Tensor
    """mean over images, each at the weights of its step"""
    train_accuracy: Tensor
    """fraction of images, likewise, in train mode"""
    grad_norm: Tensor
    """effective gradient norm ||g|| * ||theta||, mean over steps"""


def train_epoch(
    model: nn.Module,
    optimizer: SphereSGD,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> EpochTotals:
    """Train on every batch: images (B, C, H, W), labels (B,). Nothing is read from the device."""
    model.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    grad_norm_sum = torch.zeros((), dtype=torch.float64, device=device)
    num_images = num_steps = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        loss, hits = loss_and_correct(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        statistics = optimizer.statistics()
        loss_sum += loss.detach() * len(labels)
        correct += hits
        grad_norm_sum += torch.linalg.vector_norm(statistics.grad_norm) * statistics.total_norm
        num_images += len(labels)
        num_steps += 1
    accuracy = correct.double() / num_images
    return EpochTotals(loss_sum / num_images, accuracy, grad_norm_sum / num_steps)


def group_norms(weights: list[Tensor]) -> Tensor:
    """||theta_i|| of every conv filter, in the order of the parameters: (num_filters,) fp32."""
    with torch.no_grad():
        return torch.cat(
            [torch.linalg.vector_norm(p, dim=tuple(range(1, p.ndim))) for p in weights]
        )
