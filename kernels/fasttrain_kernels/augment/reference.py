"""The fused augmentation, stated in plain PyTorch: what every backend computes, bit for bit.

For image b with sample index i, padding p and the draws of (seed, epoch, i):

    top, left in 0..2p       mirrored in 0, 1       row, column: the centre of the square cut out
    x' = W - 1 - x if mirrored else x
    out[b, c, y, x] = table[c, image[y + top - p, x' + left - p, c]]

A pixel from outside the image is byte 0; then the square (size x size, clipped at the borders, in
the coordinates of the result) becomes 0, the mean. The table holds what `ByteMap` says: here and on
a GPU it is looked up, on a CPU computed again, with the same three roundings.
"""

import torch
from torch import Tensor

from .augment import ByteMap
from .philox import CROP_X, CROP_Y, CUTOUT, FLIP, MASK, Words, philox, uniform_integers


def augment(
    images: Tensor,  # (N, H, W, C) uint8
    rows: Tensor,  # (B,) int64
    samples: Tensor,  # (B,) int64
    values: ByteMap,
    out: Tensor,  # (B, H, W, C), of the table's dtype
    *,
    seed: int = 0,
    epoch: int = 0,
    flip: bool = False,
    padding: int = 0,
    cutout: int = 0,
) -> None:
    """See `augment.augment`."""
    height, width, channels = images.shape[1:]
    device = images.device

    def words(stream: int) -> Words:
        high = torch.full_like(samples, epoch), torch.full_like(samples, stream)
        return philox((samples & MASK, samples >> 32, *high), (seed & MASK, seed >> 32))

    row = torch.arange(height, device=device).expand(len(rows), -1)  # (B, H)
    column = torch.arange(width, device=device).expand(len(rows), -1)  # (B, W)
    y, x = row, column
    if flip:
        x = torch.where(uniform_integers(words(FLIP)[0], 2)[:, None] == 1, width - 1 - x, x)
    if padding:
        y = y + uniform_integers(words(CROP_Y)[0], 2 * padding + 1)[:, None] - padding
        x = x + uniform_integers(words(CROP_X)[0], 2 * padding + 1)[:, None] - padding
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    pixels = images[rows[:, None, None], y[:, :, None], x[:, None, :]].long() * inside[..., None]
    result = values.table[torch.arange(channels, device=device), pixels]
    if cutout:
        drawn = words(CUTOUT)
        top = uniform_integers(drawn[0], height)[:, None] - cutout // 2
        left = uniform_integers(drawn[1], width)[:, None] - cutout // 2
        hit_y, hit_x = (
            (row >= top) & (row < top + cutout),
            (column >= left) & (column < left + cutout),
        )
        result = result.masked_fill((hit_y[:, :, None] & hit_x[:, None, :])[..., None], 0)
    out.copy_(result)
