"""The fused augmentation of `reference.py` on CUDA and ROCm: one launch per call.

A program makes a part of one image: it draws the sample's words, then walks over blocks of values,
each a byte from the image (0 outside it), looked up in the table. Values are moved as bits, so that
nothing is rounded, contracted or converted on the way.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import philox as streams
from .augment import ByteMap

BLOCK = 1024
"""Values at once, 8 per thread."""

MAX_BLOCKS = 16
"""Of one program: enough that drawing its words costs little."""

LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}
"""Compile options."""

FLIP = tl.constexpr(streams.FLIP)
CROP_Y = tl.constexpr(streams.CROP_Y)
CROP_X = tl.constexpr(streams.CROP_X)
CUTOUT = tl.constexpr(streams.CUTOUT)

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _draw(sample, epoch, seed, stream: tl.constexpr, num_y, num_x):
    """Two integers in [0, num_y) and [0, num_x) from the first two words of a stream."""
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    zero = low * 0
    y, x, _, _ = tl.philox(seed, low, high, zero + epoch.to(tl.uint32), zero + stream)
    return tl.umulhi(y, zero + num_y).to(tl.int32), tl.umulhi(x, zero + num_x).to(tl.int32)


@triton.jit(do_not_specialize=["seed", "epoch"])
def _augment_kernel(
    p_out, p_images, p_rows, p_samples, p_table, seed, epoch,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    MIRROR: tl.constexpr, PADDING: tl.constexpr, HOLE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0), tl.program_id(1)
    row, sample = tl.load(p_rows + image), tl.load(p_samples + image)
    seed, epoch = seed.to(tl.uint64), epoch.to(tl.int64)
    down, right, mirrored, top, left = 0, 0, 0, 0, 0
    if PADDING:
        down = _draw(sample, epoch, seed, CROP_Y, 2 * PADDING + 1, 1)[0] - PADDING
        right = _draw(sample, epoch, seed, CROP_X, 2 * PADDING + 1, 1)[0] - PADDING
    if MIRROR:
        mirrored = _draw(sample, epoch, seed, FLIP, 2, 1)[0]
    if HOLE:
        top, left = _draw(sample, epoch, seed, CUTOUT, H, W)
        top, left = top - HOLE // 2, left - HOLE // 2
    SIZE: tl.constexpr = H * W * C
    p_image = p_images + row * SIZE
    p_result = p_out + image.to(tl.int64) * SIZE
    for block in range(BLOCKS):
        value = (part * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        y, inside = value // (W * C), value % (W * C)
        x, channel = inside // C, inside % C
        source_y = y + down
        source_x = tl.where(mirrored == 1, W - 1 - x, x) + right
        exists = (source_y >= 0) & (source_y < H) & (source_x >= 0) & (source_x < W)
        offset = (source_y * W + source_x) * C + channel
        byte = tl.load(p_image + offset, mask=exists & (value < SIZE), other=0).to(tl.int32)
        result = tl.load(p_table + channel * 256 + byte)
        if HOLE:
            cut = (y >= top) & (y < top + HOLE) & (x >= left) & (x < left + HOLE)
            result = tl.where(cut, 0, result)
        tl.store(p_result + value, result, mask=value < SIZE)


def augment(
    images: Tensor,
    rows: Tensor,
    samples: Tensor,
    values: ByteMap,
    out: Tensor,
    *,
    seed: int,
    epoch: int,
    flip: bool,
    padding: int,
    cutout: int,
) -> None:
    """See `augment.augment`."""
    table = values.table
    bits = _BITS[table.element_size()]
    _, height, width, channels = images.shape
    num_blocks = triton.cdiv(height * width * channels, BLOCK)
    num_parts = triton.cdiv(num_blocks, MAX_BLOCKS)
    _augment_kernel[(len(out), num_parts)](
        out.view(bits),
        images,
        rows.contiguous(),
        samples.contiguous(),
        table.contiguous().view(bits),
        # Triton's widest integer is signed: the same bits.
        seed - 2**64 if seed >= 2**63 else seed,
        epoch,
        **constants(height, width, channels, flip=flip, padding=padding, cutout=cutout),
        **LAUNCH,
    )


def constants(
    height: int, width: int, channels: int, *, flip: bool, padding: int, cutout: int
) -> dict[str, int]:
    """What the kernel is compiled for."""
    num_blocks = triton.cdiv(height * width * channels, BLOCK)
    return {
        "H": height,
        "W": width,
        "C": channels,
        "MIRROR": int(flip),
        "PADDING": padding,
        "HOLE": cutout,
        "BLOCK": BLOCK,
        "BLOCKS": min(num_blocks, MAX_BLOCKS),
    }
