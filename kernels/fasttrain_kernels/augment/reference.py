"""The fused augmentation, stated in plain PyTorch: what every backend computes, bit for bit.

For image b with sample index i, padding p and the draws of (seed, epoch, i):

    top, left in 0..2p       mirrored in 0, 1       row, column: the centre of the square cut out
    x' = W - 1 - x if mirrored else x
    out[b, c, y, x] = table[c, image[y + top - p, x' + left - p, c]]

A pixel from outside the image is byte 0; then the square (size x size, clipped at the borders, in
the coordinates of the result) becomes 0, the mean. The table holds what `ByteMap` says: here and on
a GPU it is looked up, on a CPU computed again, with the same three roundings.

A patch (`augment.Patch`) is added last, at [y, x] within it and for label k, in the type of scale
and shift, each operation rounded by itself:

    out[b, c, y, x] = out[b, c, y, x] + (z[y, x, c] + a * v[k, y, x, c])

a is ±1 on an image, ±(strength * u) on zeros. The first word of stream PATCH says which of both,
the highest bit of the second one the sign, and its lowest 24 bits are u.
"""

import torch
from torch import Tensor

from .augment import ByteMap, Patch, threshold
from .philox import (
    CROP_X,
    CROP_Y,
    CUTOUT,
    FLIP,
    MASK,
    PATCH,
    PATCH_MASK,
    Words,
    philox,
    uniform_integers,
)


def augment(
    images: Tensor,  # (N, H, W, C) uint8
    rows: Tensor,  # (B,) int64
    samples: Tensor,  # (B,) int64
    values: ByteMap,
    out: Tensor,  # (B, H, W, C), of the table's dtype
    *,
    seed: int = 0,
    epoch: int = 0,
    key: Tensor | None = None,  # (2,) int64
    flip: bool = False,
    padding: int = 0,
    cutout: int = 0,
    patch: Patch | None = None,
    labels: Tensor | None = None,  # (B,) int64
) -> None:
    """See `augment.augment`."""
    height, width, channels = images.shape[1:]
    device = images.device

    def words(stream: int) -> Words:
        if key is None:
            return _words(samples, seed, epoch, stream)
        return _words(samples, key[0], key[1], stream)

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
    if patch is not None and labels is not None:
        _add_patch_(result, patch, labels, samples, words(PATCH))
    out.copy_(result)


def _words(samples: Tensor, seed: int | Tensor, epoch: int | Tensor, stream: int) -> Words:
    high = torch.zeros_like(samples) + epoch, torch.full_like(samples, stream)
    return philox((samples & MASK, samples >> 32, *high), (seed & MASK, (seed >> 32) & MASK))


def _add_patch_(
    result: Tensor,  # (B, H, W, C)
    patch: Patch,
    labels: Tensor,  # (B,) int64
    samples: Tensor,  # (B,) int64
    drawn: Words,
) -> None:
    """Add patches to the images that have one."""
    wide = patch.shared.dtype
    chosen = _words(samples, patch.seed, patch.part, PATCH_MASK)[0] < threshold(patch.share)
    alone = drawn[0] < threshold(patch.alone)
    uniform = (drawn[1] & 0xFFFFFF).to(wide) * 2.0**-24
    factor = torch.where(alone, patch.strength * uniform, 1.0)
    factor = torch.where(drawn[1] >> 31 == 1, -factor, factor).to(wide)
    zeros = chosen & alone if not patch.blank else torch.ones_like(chosen)
    result.masked_fill_(zeros[:, None, None, None], 0)
    height, width = patch.shared.shape[:2]
    window = result[:, patch.top : patch.top + height, patch.left : patch.left + width]
    added = patch.shared + factor[:, None, None, None] * patch.own[labels]
    patched = (window.to(wide) + added).to(result.dtype)
    window.copy_(torch.where(chosen[:, None, None, None], patched, window))
