"""The operations of RandAugment on batches of bytes, each as Pillow defines it, bit for bit.

Plain PyTorch on any device, in integers, or in floats with Pillow's own roundings, one operation
at a time: every device gives the same bytes, and nothing is read back to the host.

    geometric      out[y, x] = in[floor of M (x + 1/2, y + 1/2, 1)], in 16.16 fixed point, 0 outside
    enhancing      trunc(d + f (in - d)), clipped, in fp32: d is the grey image (colour), its mean
                   (contrast), 0 (brightness) or the smoothed image (sharpness)
    by value       posterize, solarize, invert, and autocontrast, equalize by the histogram of each
                   channel of an image

Shapes: images (B, H, W, C) uint8 with C = 1 or 3; what is drawn of each is (B,).
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Matrix = tuple[float, float, float, float, float, float]
"""a row for x and a row for y: where in the image a place of the result comes from"""
CUT_COLOUR = (125, 123, 114)


@functools.cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor that nothing may change, brought to the device once."""
    return torch.tensor(values, dtype=dtype, device=device)


def moved(
    images: Tensor,
    matrices: Sequence[Matrix],
    chosen: Tensor,  # (B,) int64, which of the matrices
) -> Tensor:
    """Return images through affine maps, of the nearest pixel."""
    _, height, width, _ = images.shape
    device = images.device
    numbers = tuple(number for matrix in matrices for number in _fixed(matrix))
    fixed = constant(numbers, torch.int64, device).view(-1, 6)[chosen]
    a, b, c, d, e, f = fixed[:, :, None, None].unbind(1)  # each (B, 1, 1)
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)[:, None]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16  # (B, H, W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    batch = torch.arange(len(images), device=device)[:, None, None]
    pixels = images[batch, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return pixels * inside[..., None]


def _fixed(matrix: Matrix) -> list[int]:
    a, b, c, d, e, f = matrix
    values = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    return [math.floor(value * 65536.0 + 0.5) for value in values]


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Return what turns images about their middle, counter-clockwise."""
    angle = -math.radians(degrees % 360.0)
    # To 15 digits, so that a quarter turn is one.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return (
        *(cosine, sine, -cosine * x - sine * y + x),
        *(-sine, cosine, sine * x - cosine * y + y),
    )


def grey(images: Tensor) -> Tensor:
    """Return the luma (ITU-R 601-2), as int64 (B, H, W, 1)."""
    wide = images.long()
    if images.shape[3] == 1:
        return wide
    red, green, blue = wide.split(1, dim=3)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blended(
    degenerate: Tensor,  # int64, broadcast to the images
    images: Tensor,
    factors: Tensor,  # (B,) fp32
) -> Tensor:
    difference = (images.long() - degenerate).float()
    product = factors[:, None, None, None] * difference
    return (degenerate.float() + product).clamp(0, 255).to(torch.uint8)


def coloured(images: Tensor, factors: Tensor) -> Tensor:
    """Return images with other colour: grey at 0, as they are at 1."""
    return _blended(grey(images), images, factors)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Return images with other contrast: their mean at 0."""
    luma = grey(images).flatten(1)
    count = luma.shape[1]
    mean = (2 * luma.sum(dim=1) + count) // (2 * count)
    return _blended(mean[:, None, None, None], images, factors)


def brightened(images: Tensor, factors: Tensor) -> Tensor:
    """Return images with other brightness: black at 0."""
    return _blended(images.new_zeros(1, dtype=torch.int64), images, factors)


def sharpened(images: Tensor, factors: Tensor) -> Tensor:
    """Return images with other sharpness: smoothed at 0, but for their outermost pixels."""
    smooth, wide = images.long(), images.long()
    height, width = images.shape[1:3]
    if min(height, width) > 2:
        total = 4 * wide[:, 1:-1, 1:-1]
        for top in range(3):
            for left in range(3):
                total = total + wide[:, top : top + height - 2, left : left + width - 2]
        smooth = smooth.clone()
        smooth[:, 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blended(smooth, images, factors)


def posterized(images: Tensor, bits: int) -> Tensor:
    """Return images of which so many bits are left."""
    return images & (256 - 2 ** (8 - bits))


def solarized(images: Tensor, threshold: float) -> Tensor:
    """Return images in which the values from the threshold on are inverted."""
    return torch.where(images < threshold, images, 255 - images)


def added(images: Tensor, amount: float) -> Tensor:
    """Return images brighter by an amount, then solarized from 128 on."""
    return solarized((images.double() + amount).clamp(0, 255).to(torch.uint8), 128)


def inverted(images: Tensor) -> Tensor:
    """Return the negative."""
    return 255 - images


def autocontrasted(images: Tensor) -> Tensor:
    """Return images whose channels reach from 0 to 255."""
    low = images.amin(dim=(1, 2), keepdim=True).double()
    high = images.amax(dim=(1, 2), keepdim=True).double()
    # A number divided by a tensor would be multiplied by its inverse, rounded twice.
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)
    product = images.double() * scale
    stretched = (product + -low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalized(images: Tensor) -> Tensor:
    """Return images whose channels have about as many pixels of every value."""
    size, height, width, channels = images.shape
    values = images.permute(0, 3, 1, 2).reshape(size * channels, -1).long()
    counts = values.new_zeros(len(values), 256).scatter_add_(1, values, torch.ones_like(values))
    # The count of the largest value that occurs.
    last = counts.gather(1, values.amax(dim=1, keepdim=True))
    step = (height * width - last) // 255
    below = counts.cumsum(dim=1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    result = torch.where(step > 0, table.gather(1, values), values)
    shaped = result.reshape(size, channels, height, width).permute(0, 2, 3, 1)
    return shaped.to(torch.uint8, memory_format=torch.contiguous_format)


def cut_out(
    images: Tensor,
    side: float,
    places: tuple[Tensor, Tensor],  # each (B,) fp64 in [0, 1): across, down
) -> Tensor:
    """Return images with a rectangle of one colour at a random place, clipped at the borders."""
    _, height, width, channels = images.shape
    hits = []
    for place, size in zip(places, (width, height), strict=True):
        first = (1 + place * (size - 1) - side / 2).clamp(min=0).floor()[:, None]
        # The last pixel belongs to it.
        last = (first + side).clamp(max=size).floor()
        position = torch.arange(size, device=images.device)
        hits.append((position >= first) & (position <= last))
    across, down = hits
    hit = (down[:, :, None] & across[:, None, :])[..., None]
    colour = constant(CUT_COLOUR, torch.uint8, images.device)
    if channels == 1:
        colour = grey(colour.view(1, 1, 1, 3)).to(torch.uint8).view(1)
    return torch.where(hit, colour, images)
