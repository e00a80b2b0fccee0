"""Test pass and re-estimation of batch-normalisation statistics."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fasttrain_data import Loader
from fasttrain_kernels import NormReLUPool

from ..machine.precision import autocast
from ..settings.losses import Loss
from ..settings.networks.modules import ImageClassifier


class Score(NamedTuple):
    """Mean loss and fraction correct of every model, (num_models,) fp64 on the device."""

    loss: Tensor
    accuracy: Tensor


@torch.no_grad()
def score(
    model: ImageClassifier,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Score:
    """Mean loss and accuracy over the batches, in the mode that the model is in."""
    loss_sum = torch.zeros(model.num_models, dtype=torch.float64, device=device)
    correct = torch.zeros(model.num_models, dtype=torch.int64, device=device)
    count = 0
    for images, labels in batches:
        with autocast(precision, device):
            logits = model(images)
        losses, hits = loss(logits, labels)
        loss_sum += losses * len(labels)
        correct += hits.sum(dim=1)
        count += len(labels)
    return Score(loss_sum / count, correct.double() / count)


def score_test_set(
    model: ImageClassifier, loss: Loss, loader: Loader, precision: str, device: torch.device
) -> Score:
    """Score on the test set in eval mode; the model is left in train mode."""
    return score_in_eval_mode(model, loss, loader.epoch(0), precision, device)


def score_in_eval_mode(
    model: ImageClassifier,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Score:
    """Score with the running statistics of batch normalisation; the model is left in train mode."""
    model.eval()
    result = score(model, loss, batches, precision, device)
    model.train()
    return result


def reestimate_batch_norm_(
    model: ImageClassifier,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    precision: str,
    device: torch.device,
) -> Score:
    """Replace the running statistics by their plain mean over the batches, each weighted equally.

    Reset, cumulative mean over the training set, in train mode (arXiv 2410.22113). Returns the
    score of that same pass, in train mode: what the published barriers are measured in. A network
    without batch normalisation is scored in eval mode, in which it drops nothing.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, NormReLUPool)
    norms = [m for m in model.modules() if isinstance(m, kinds)]
    if not norms:
        return score_in_eval_mode(model, loss, batches, precision, device)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    result = score(model, loss, batches, precision, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result
