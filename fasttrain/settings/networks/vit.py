"""Vision transformer for small data sets, as in the published code of arXiv 2410.22113.

Tokens are patches of the image and of four copies shifted by a pixel; attention has a learned
temperature and does not see its own token (both from arXiv 2112.13492). Layer norms follow both
linear layers of every feed-forward part: these twelve are all that is scale-invariant, each weight
together with its bias.

Shapes: B images, T tokens with the class token, D width, H heads of `HEAD_WIDTH`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64


class ShiftedPatches(nn.Module):
    """(B, C, S, S) -> (B, (S / patch)^2, D)."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        inputs = 5 * channels * patch * patch
        self.norm = nn.LayerNorm(inputs)
        self.linear = nn.Linear(inputs, width)

    def forward(self, images: Tensor) -> Tensor:
        shifts = ((1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1))
        copies = torch.cat([images, *(F.pad(images, shift) for shift in shifts)], dim=1)
        tokens = F.unfold(copies, self.patch, stride=self.patch).transpose(1, 2)
        return self.linear(self.norm(tokens))


class Attention(nn.Module):
    """Attention (B, T, D) -> (B, T, D) in which no token attends to itself."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * HEAD_WIDTH, bias=False)
        self.temperature = nn.Parameter(torch.tensor([HEAD_WIDTH**-0.5]))
        self.out = nn.Linear(heads * HEAD_WIDTH, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(tokens)).unflatten(2, (3, self.heads, HEAD_WIDTH))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, HEAD_WIDTH)
        scores = query @ key.transpose(2, 3) * self.temperature
        itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        weights = self.dropout(scores.masked_fill(itself, float("-inf")).softmax(dim=-1))
        return self.dropout(self.out((weights @ value).transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention, then a feed-forward part, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.forward_part = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.forward_part(tokens)


class ViT(nn.Module):
    """(B, C, S, S) -> (B, outputs); 9,634,800 parameters with the defaults at 32x32x3, 10 classes.

    Raises:
        ValueError: images that patches do not fill.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        patch: int = 4,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels, height, length = shape
        if height % patch or length % patch:
            raise ValueError(f"patches of {patch} do not tile images of {height}x{length}")
        self.patches = ShiftedPatches(channels, patch, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        tokens = (height // patch) * (length // patch) + 1
        self.places = nn.Parameter(torch.randn(1, tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def on_sphere(self) -> list[str]:
        """Names of what is scale-invariant: the feed-forward layers, weight and bias together."""
        return [
            f"{name}.{own}"
            for name, module in self.named_modules()
            if name.endswith(("forward_part.1", "forward_part.5"))
            for own in ("weight", "bias")
        ]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1)
        return self.head(self.norm(self.blocks(self.dropout(tokens + self.places))[:, 0]))
