"""A network of one's own: convolutions with group normalisation, whose scale does not matter.

A factory takes the shape of an image (C, H, W), the number of outputs and the options of the TOML
file, and returns a module from normalised images (N, C, H, W) to (N, outputs). `on_sphere` names
what lies on the sphere. Without it that is measured: try it by deleting the method.
"""

import torch
from torch import nn


class GroupNormNet(nn.Module):
    def __init__(self, shape: tuple[int, int, int], outputs: int, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, channels) for channels in (width, 2 * width))
        self.head = nn.Linear(2 * width, outputs)

    def on_sphere(self) -> list[str]:
        return ["first.weight", "second.weight"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.first(images)))
        x = torch.relu(self.norms[1](self.second(x)))
        return self.head(x.mean(dim=(2, 3)))
