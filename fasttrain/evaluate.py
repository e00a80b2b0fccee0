"""Test pass and re-estimation of batch-normalisation statistics."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasttrain_data import Loader

from .precision import autocast


class Score(NamedTuple):
    """Mean cross-entropy and fraction correct, 0-d fp64 device tensors."""

    loss: Tensor
    accuracy: Tensor


def loss_and_correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (0-d fp32) and number of correct predictions (0-d) of one batch."""
    loss = F.cross_entropy(logits.float(), labels)
    return loss, (logits.detach().argmax(dim=1) == labels).sum()


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Score:
    """Mean loss and accuracy over the batches, in the mode that the model is in."""
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        loss, hits = loss_and_correct(logits, labels)
        loss_sum += loss * len(labels)
        correct += hits
        count += len(labels)
    return Score(loss_sum / count, correct.double() / count)


def test_score(model: nn.Module, loader: Loader, precision: str, device: torch.device) -> Score:
    """Score on the test set in eval mode; the model is left in train mode."""
    model.eval()
    result = score(model, loader.epoch(0), precision, device)
    model.train()
    return result


def reestimate_batch_norm_(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Score:
    """Replace the running statistics by their plain mean over the batches, each weighted equally.

    Reset, cumulative mean over the training set, in train mode (arXiv 2410.22113). Returns the
    score of that same pass: training loss and accuracy in train mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    result = score(model, batches, precision, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result
