"""Two-layer network of two groups of neurons, one for each pattern of a pair (arXiv 1907.04595).

    f(x) = w . relu(W x1) + v . relu(V x2)

W and V train, drawn from N(0, tau0^2); the output weights w and v are fixed: +1/sqrt(m) and
-1/sqrt(m) in turn, m the neurons of a group. Packs fold the models into the rows of W and V. A
reconstruction: no simulation was published.
"""

import math

import torch
from torch import Tensor, nn

from .head import Head, ImageClassifier


class TwoLayer(ImageClassifier):
    """(B, 1, 2, d) -> (B, 1); nothing is scale-invariant, so that norms are told of W and V."""

    def __init__(self, dimension: int, *, width: int, init_std: float, num_models: int = 1) -> None:
        super().__init__()
        self.width = width
        self.groups = nn.ModuleList(
            nn.Linear(dimension, num_models * width, bias=False) for _ in range(2)
        )
        for _, weight in self.named_sphere_parameters():
            nn.init.normal_(weight, std=init_std)
        self.head = Head(2 * width, 1, bias=False, frozen=True, num_models=num_models)
        signs = torch.ones(2 * width)
        signs[1::2] = -1
        with torch.no_grad():
            self.head.weight.copy_((signs / math.sqrt(width)).expand_as(self.head.weight))

    def named_sphere_parameters(self) -> list[tuple[str, Tensor]]:
        """Names and weights of W and V: (num_models * m, d)."""
        return [
            (name, value) for name, value in self.named_parameters() if name.startswith("groups.")
        ]

    def features(self, images: Tensor) -> Tensor:
        pairs = images.flatten(1, 2)
        hidden = [
            torch.relu(group(pairs[:, i])).unflatten(1, (self.head.num_models, self.width))
            for i, group in enumerate(self.groups)
        ]
        return torch.cat(hidden, dim=2).flatten(1)
