"""The training loop: one epoch on the device, read once at its end."""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fasttrain_kernels.cross_entropy.loss import LossSums

from ..machine.precision import autocast
from ..settings.losses import Loss
from ..settings.networks.modules import ImageClassifier
from ..settings.optimizers.groups import Built
from .working_copies import WorkingCopies


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


class Sums:
    """What the steps of an epoch add up on the device, in memory that stays where it is."""

    def __init__(self, num_models: int, num_classes: int, device: torch.device) -> None:
        self.batches = LossSums(
            loss=torch.zeros(num_models, dtype=torch.float64, device=device),
            hits=torch.zeros(num_models, num_classes, dtype=torch.int64, device=device),
            images=torch.zeros(num_classes, dtype=torch.int64, device=device),
        )
        self.grad_norm = torch.zeros(num_models, dtype=torch.float64, device=device)

    def clear_(self) -> None:
        """Begin an epoch."""
        for tensor in (*self.batches, self.grad_norm):
            tensor.zero_()

    def totals(self, num_images: int, num_steps: int) -> EpochTotals:
        """Of the epoch, in memory of their own."""
        loss, hits, images = self.batches
        accuracy = hits.sum(dim=1).double() / num_images
        # A class without an image adds nothing to either.
        recalls = hits.double() / images.clamp(min=1)
        balanced = recalls.sum(dim=1) / (images > 0).sum()
        return EpochTotals(loss / num_images, accuracy, balanced, self.grad_norm / num_steps)


def sums_of(model: ImageClassifier, loss: Loss, device: torch.device) -> Sums:
    """Sums for epochs of a pack."""
    return Sums(model.num_models, loss.num_classes(model.num_outputs), device)


def train_step(
    model: ImageClassifier,
    loss: Loss,
    optimizer: Built,
    batch: tuple[Tensor, Tensor],  # images (B, C, H, W), labels (B,)
    sums: Sums,
    precision: str,
    device: torch.device,
    copies: WorkingCopies | None = None,
) -> None:
    """One step of every model. Nothing is read from the device."""
    images, labels = batch
    reads = contextlib.nullcontext() if copies is None else copies.in_place()
    with autocast(precision, device), reads:
        logits = model(images)
    optimizer.zero_grad()
    loss.backward(logits, labels, sums.batches)
    optimizer.step()
    optimizer.add_effective_grad_norm_(sums.grad_norm)


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
    sums = sums_of(model, loss, device)
    num_images = num_steps = 0
    for batch in batches:
        train_step(model, loss, optimizer, batch, sums, precision, device)
        num_images += len(batch[1])
        num_steps += 1
    return sums.totals(num_images, num_steps)


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
