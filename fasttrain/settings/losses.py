"""The losses of a setting, by kind: per model and batch, and what the best guess has.

    cross-entropy          -log softmax(f)_y over C outputs
    binary-cross-entropy   log(1 + exp(-(2y - 1) f)) of one output, for two classes
    squared                sum over classes (f_c - [c = y])^2, of C outputs

The loss of a batch is the mean over its images.
"""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fasttrain_kernels.cross_entropy.loss import LossSums, choose_loss_backend, cross_entropy

from ..errors import UsageError


class Loss:
    """Base of the losses."""

    kind: ClassVar[str]
    numerics: ClassVar[int] = 1

    def outputs(self, num_classes: int) -> int:
        """Outputs of the network.

        Raises:
            UsageError: the loss does not fit so many classes.
        """
        return num_classes

    def num_classes(self, outputs: int) -> int:
        """The inverse of `outputs`."""
        return outputs

    def __call__(
        self,
        logits: Tensor,  # (B, outputs), or of a pack (num_models, B, outputs)
        labels: Tensor,  # (B,)
    ) -> tuple[Tensor, Tensor]:
        """Mean loss, fp32 or wider, (num_models,); which are right, (num_models, B) bool."""
        every = logits.view(-1, *logits.shape[-2:])
        every = every.to(torch.promote_types(every.dtype, torch.float32))
        targets = labels.expand(every.shape[:2])
        return self.losses(every, targets).mean(dim=1), self.classes(every.detach()) == targets

    def backward(
        self,
        logits: Tensor,  # (B, outputs), or of a pack (num_models, B, outputs)
        labels: Tensor,  # (B,)
        sums: LossSums,
    ) -> None:
        """Take every model's gradient of its own loss, and add the batch to the sums."""
        losses, hits = self(logits, labels)
        # Each model's gradient is that of its own loss: no weight is shared.
        losses.sum().backward()
        sums.loss.add_(losses.detach() * len(labels))
        # Integers, so that the order of the additions does not matter.
        sums.hits.index_add_(1, labels, hits.long())
        sums.images.index_add_(0, labels, torch.ones_like(labels))

    def losses(
        self,
        outputs: Tensor,  # (num_models, B, outputs)
        targets: Tensor,  # (num_models, B)
    ) -> Tensor:
        """The loss of every image: (num_models, B)."""
        raise NotImplementedError

    def classes(self, outputs: Tensor) -> Tensor:
        """The class that is predicted: (num_models, B, outputs) -> (num_models, B)."""
        return outputs.argmax(dim=2)

    def guess(self, shares: np.ndarray) -> float:
        """The least mean loss of a prediction that does not look at the image."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """The cross-entropy of the classes' softmax."""

    kind = "cross-entropy"

    def backward(self, logits: Tensor, labels: Tensor, sums: LossSums) -> None:
        """As of any loss, or where there is a kernel for it in one launch."""
        every = logits.detach().view(-1, *logits.shape[-2:])
        if choose_loss_backend(logits.device.type, logits.shape[-1]) == "reference":
            super().backward(logits, labels, sums)
        else:
            gradient = cross_entropy(every, labels, sums).gradient
            logits.backward(gradient.view_as(logits))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        flat = F.cross_entropy(outputs.flatten(0, 1), targets.reshape(-1), reduction="none")
        return flat.view_as(targets)

    def guess(self, shares: np.ndarray) -> float:
        return entropy(shares)


class BinaryCrossEntropy(Loss):
    """The cross-entropy of one logit: that of class 1 against class 0."""

    kind = "binary-cross-entropy"

    def outputs(self, num_classes: int) -> int:
        if num_classes != 2:
            raise UsageError(
                f"training.loss = 'binary-cross-entropy': needs two classes, and there are"
                f" {num_classes}; cross-entropy and squared take any number"
            )
        return 1

    def num_classes(self, outputs: int) -> int:
        return 2

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs.squeeze(2)
        return F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        )

    def classes(self, outputs: Tensor) -> Tensor:
        return (outputs.squeeze(2) > 0).long()

    def guess(self, shares: np.ndarray) -> float:
        return entropy(shares)


class Squared(Loss):
    """The squared distance from the class's unit vector, summed over the classes."""

    kind = "squared"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = F.one_hot(targets, outputs.shape[2]).to(outputs.dtype)
        return (outputs - wanted).square().sum(dim=2)

    def guess(self, shares: np.ndarray) -> float:
        """Of the shares themselves: sum p (1 - p)."""
        return float((shares * (1 - shares)).sum())


def entropy(shares: np.ndarray) -> float:
    """Of the shares of classes, in nats."""
    return float(-(shares * np.log(shares)).sum())


LOSSES: dict[str, Loss] = {
    loss.kind: loss for loss in (CrossEntropy(), BinaryCrossEntropy(), Squared())
}
