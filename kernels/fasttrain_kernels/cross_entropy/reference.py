"""The cross-entropy of a pack, stated in plain PyTorch: what every backend computes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import LossSums, PackLoss


def cross_entropy(
    logits: Tensor,  # (K, B, C)
    labels: Tensor,  # (B,) or (K, B)
    sums: LossSums | None,
) -> PackLoss:
    """See `loss.cross_entropy`."""
    batch, num_classes = logits.shape[1:]
    _check_on_cpu(labels, num_classes)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels.expand(logits.shape[:2])
    # torch's own losses leave images with a label of -100 out.
    every = -wide.log_softmax(dim=2).gather(2, targets[:, :, None]).squeeze(2)
    right = wide.argmax(dim=2) == targets
    wanted = F.one_hot(targets, num_classes)
    gradient = (wide.softmax(dim=2) - wanted) / batch
    if sums is not None:
        sums.loss.add_(every.sum(dim=1))
        # Integers, so that the order of the additions does not matter.
        sums.hits.add_((wanted * right[:, :, None]).sum(dim=1))
        sums.images.add_(wanted[0].sum(dim=0) if labels.ndim == 1 else wanted.sum(dim=1))
    return PackLoss(every.mean(dim=1), right.sum(dim=1), gradient.to(logits.dtype))


def _check_on_cpu(labels: Tensor, num_classes: int) -> None:
    if labels.device.type == "cpu":
        outside = labels[(labels < 0) | (labels >= num_classes)]
        if len(outside):
            raise ValueError(
                f"labels hold {int(outside[0])}: {num_classes} classes are 0..{num_classes - 1}"
            )
