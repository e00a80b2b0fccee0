"""A small vision transformer (arXiv 2010.11929): square patches, a mean over their tokens.

fasttrain sweep vit.toml
"""

import torch
from torch import nn


class ViT(nn.Module):
    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        patch: int = 2,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        channels, height, length = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        tokens = (height // patch) * (length // patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))
