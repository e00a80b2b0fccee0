"""Parts that every network shares: normalisation, the frozen head, and access to sphere parameters.

A network is scale-invariant when multiplying its conv weights by a positive factor leaves its
output: what a conv yields goes through a batch normalisation without affine parameters, no conv has
a bias, and the head is rescaled once to Frobenius norm 10 and frozen (arXiv 2410.22113, the
published code). A conv that feeds a batch normalisation directly is invariant by itself; the convs
that add to one residual stream are invariant together. The practical form has affine normalisation
and a trainable head.
"""

import torch
from torch import Tensor, nn

from fasttrain_kernels import NormReLUPool

HEAD_NORM = 10.0


def batch_norm(
    channels: int, *, scale_invariant: bool, eps: float, relu: bool = True
) -> NormReLUPool:
    """Batch normalisation, affine only in the practical form, then ReLU if it is asked for."""
    return NormReLUPool(channels, eps=eps, affine=not scale_invariant, relu=relu)


def linear_head(features: int, num_classes: int, *, bias: bool, frozen: bool) -> nn.Linear:
    """Classifier; frozen means of Frobenius norm `HEAD_NORM` and without gradients."""
    head = nn.Linear(features, num_classes, bias=bias)
    if frozen:
        with torch.no_grad():
            head.weight.mul_(HEAD_NORM / head.weight.norm())
        head.requires_grad_(False)
    return head


class ImageClassifier(nn.Module):
    """A network whose conv weights lie on the sphere. Input (B, C, H, W), output logits (B, K)."""

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """Names and values of the conv weights, in the order of `named_modules`."""
        return [
            (f"{name}.weight", module.weight)
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d)
        ]

    def sphere_parameters(self) -> list[Tensor]:
        """The conv weights: scale-invariant unless the network was built in its practical form."""
        return [parameter for _, parameter in self.named_sphere_parameters()]

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (B, C, H, W) -> (B, 8 * width)."""
        raise NotImplementedError

    head: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
