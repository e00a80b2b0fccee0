"""MLP with layer norm: hidden layers of one width, each linear, layer norm, ReLU; a linear head.

That of the tick features (arXiv 2410.22113): nothing has a bias, layer norm has no affine
parameters, and the head is of norm 10 and frozen, so that every layer is scale-invariant. Weights
are drawn from N(0, 1): on the sphere their direction alone counts. Packs fold the models into the
rows of every weight; a group is a neuron's inputs.
"""

import math

import torch
from torch import Tensor, nn

from .head import Head, ImageClassifier


class LayerNormMLP(ImageClassifier):
    """(B, C, H, W) -> (B, outputs); 2,048 sphere parameters at width 32 on 32 inputs."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        image_size: tuple[int, int] = (16, 2),
        width: int = 32,
        num_layers: int = 2,
        scale_invariant: bool = True,
        eps: float = 1e-7,
        num_models: int = 1,
    ) -> None:
        super().__init__()
        assert scale_invariant, "layer norm is without affine parameters here"
        self.width = width
        self.eps = eps
        inputs = in_channels * math.prod(image_size)
        self.layers = nn.ModuleList(
            nn.Linear(size, num_models * width, bias=False)
            for size in (inputs, *[width] * (num_layers - 1))
        )
        for _, weight in self.named_sphere_parameters():
            nn.init.normal_(weight)
        self.head = Head(width, num_classes, bias=False, frozen=True, num_models=num_models)

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """Names and weights of the layers: (num_models * width, inputs of the layer)."""
        return [
            (f"layers.{index}.weight", layer.weight)
            for index, layer in enumerate(self.layers)
            if isinstance(layer, nn.Linear)
        ]

    def features(self, images: Tensor) -> Tensor:
        first, *rest = (weight for _, weight in self.named_sphere_parameters())
        x = (images.flatten(1) @ first.T).unflatten(1, (self.num_models, self.width))
        x = self._normed(x).transpose(0, 1)
        for weight in rest:
            x = self._normed(torch.bmm(x, weight.unflatten(0, (self.num_models, -1)).mT))
        return x.transpose(0, 1).flatten(1)

    def _normed(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.layer_norm(x, (self.width,), eps=self.eps))
