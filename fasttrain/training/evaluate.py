"""Test pass and re-estimation of batch-normalisation statistics."""

from collections.abc import Iterable, Iterator, Sequence
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
    # A cumulative mean needs the number of batches, which every layer reads where it lies. On a
    # device that is a wait for each: there sums are taken, and divided once.
    sums = None if device.type == "cpu" else BatchSums(norms)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None if sums is None else 1.0
    model.train()
    result = score(model, loss, batches if sums is None else sums.over(batches), precision, device)
    if sums is not None:
        sums.divide_()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result


class BatchSums:
    """Sums of the statistics that every batch leaves in normalisations of momentum 1."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        buffers = [(norm.running_mean, norm.running_var) for norm in norms]
        self.running = [b for pair in buffers for b in pair if isinstance(b, Tensor)]
        self.sums = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in self.running]
        self.count = 0

    def over(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; what the model has made of each is added up before the next."""
        for batch in batches:
            yield batch
            torch._foreach_add_(self.sums, self.running)  # type: ignore[attr-defined]
            self.count += 1

    def divide_(self) -> None:
        """Put the means into the normalisations."""
        for buffer, total in zip(self.running, self.sums, strict=True):
            buffer.copy_(total / self.count)
