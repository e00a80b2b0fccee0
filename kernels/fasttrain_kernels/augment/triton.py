"""The fused augmentation of `reference.py` on CUDA and ROCm: one launch per call.

A program makes a part of one image: it draws the sample's words, then walks over blocks of values,
each a byte from the image (0 outside it), looked up in the table. Values are moved as bits, so that
nothing is rounded, contracted or converted on the way; but where there is a patch.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import philox as streams
from .augment import BLOCK, MAX_BLOCKS, ByteMap, Patch, num_parts, signed, threshold
from .places import Places

LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}
"""Compile options."""

FLIP = tl.constexpr(streams.FLIP)
CROP_Y = tl.constexpr(streams.CROP_Y)
CROP_X = tl.constexpr(streams.CROP_X)
CUTOUT = tl.constexpr(streams.CUTOUT)
PATCH_MASK = tl.constexpr(streams.PATCH_MASK)
PATCH = tl.constexpr(streams.PATCH)

_TYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _draw(sample, epoch, seed, stream: tl.constexpr, num_y, num_x):
    """Two integers in [0, num_y) and [0, num_x) from the first two words of a stream."""
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    zero = low * 0
    y, x, _, _ = tl.philox(seed, low, high, zero + epoch.to(tl.uint32), zero + stream)
    return tl.umulhi(y, zero + num_y).to(tl.int32), tl.umulhi(x, zero + num_x).to(tl.int32)


@triton.jit
def _words(sample, epoch, seed, stream: tl.constexpr):
    """The first two words of a stream, as int64."""
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    zero = low * 0
    first, second, _, _ = tl.philox(seed, low, high, zero + epoch.to(tl.uint32), zero + stream)
    return first.to(tl.int64), second.to(tl.int64)


@triton.jit
def _narrow(value, like: tl.constexpr):
    """The bits of a number rounded to the nearest, ties to even, as an element of type `like`."""
    if like == tl.bfloat16:
        # By hand: some versions of the interpreter cut off.
        bits = value.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.to(tl.uint16).to(tl.int16, bitcast=True)
    elif like == tl.float16:
        return value.to(tl.float16).to(tl.int16, bitcast=True)
    elif like == tl.float32:
        return value.to(tl.int32, bitcast=True)
    else:
        return value.to(tl.int64, bitcast=True)


@triton.jit
def _widen(bits, like: tl.constexpr):
    """An element of type `like`, given by its bits, in the type to compute in."""
    if like == tl.bfloat16:
        return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif like == tl.float16:
        return bits.to(tl.float16, bitcast=True).to(tl.float32)
    elif like == tl.float32:
        return bits.to(tl.float32, bitcast=True)
    else:
        return bits.to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["seed", "epoch", "patch_seed", "num_positions"])
def _augment_kernel(
    p_out, p_images, p_rows, p_samples, p_table, seed, epoch,
    p_key,  # (2,) seed and epoch, read where KEYED
    p_labels, p_shared, p_own, p_strength, patch_seed,
    p_positions,  # (parts, num_positions) where PLACED: rows and labels are those of an epoch
    p_chosen,  # (B,) out: labels of the batch
    num_positions,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    MIRROR: tl.constexpr, PADDING: tl.constexpr, HOLE: tl.constexpr,
    KEYED: tl.constexpr, PLACED: tl.constexpr, PATCHED: tl.constexpr,
    SHARE: tl.constexpr, ALONE: tl.constexpr,
    PART: tl.constexpr, BLANK: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LIKE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0), tl.program_id(1)
    index = image.to(tl.int64)
    if PLACED:
        # Every program has a position of its own, and moves it on once all its threads know it.
        p_position = p_positions + part * num_positions + image
        index = tl.load(p_position)
        tl.debug_barrier()
        tl.store(p_position, index + num_positions)
        if part == 0:
            tl.store(p_chosen + image, tl.load(p_labels + index))
    row, sample = tl.load(p_rows + index), tl.load(p_samples + index)
    if KEYED:
        seed, epoch = tl.load(p_key).to(tl.uint64), tl.load(p_key + 1)
    else:
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
    if PATCHED:
        chosen = _words(sample, epoch * 0 + PART, patch_seed.to(tl.uint64), PATCH_MASK)[0] < SHARE
        first, second = _words(sample, epoch, seed, PATCH)
        alone = first < ALONE
        empty = (chosen & alone) | (BLANK == 1)
        strength = tl.load(p_strength)
        factor = strength * ((second & 0xFFFFFF).to(strength.dtype) * 5.9604644775390625e-08)
        factor = tl.where(alone, factor, strength * 0 + 1)
        factor = tl.where(second >= 2147483648, -factor, factor)
        p_mine = p_own + tl.load(p_labels + index) * (ROWS * COLUMNS * C)
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
        if PATCHED:
            result = tl.where(empty, 0, result)
            hit = (y >= TOP) & (y < TOP + ROWS) & (x >= LEFT) & (x < LEFT + COLUMNS) & chosen
            at = ((y - TOP) * COLUMNS + x - LEFT) * C + channel
            added = tl.load(p_shared + at, mask=hit, other=0)
            added = added + factor * tl.load(p_mine + at, mask=hit, other=0)
            result = tl.where(hit, _narrow(_widen(result, LIKE) + added, LIKE), result)
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
    key: Tensor | None = None,
    flip: bool,
    padding: int,
    cutout: int,
    patch: Patch | None = None,
    labels: Tensor | None = None,
    places: Places | None = None,
    chosen: Tensor | None = None,
) -> None:
    """See `augment.augment`; with `places` rows and labels are those of an epoch.

    Labels of the batch are written to `chosen` then.
    """
    table = values.table
    bits = _BITS[table.element_size()]
    _, height, width, channels = images.shape
    patch_seed = 0 if patch is None else patch.seed
    # Pointers that are not read where there is no patch.
    patched: list[Tensor] = [samples, values.scale, values.scale, values.scale]
    if patch is not None and labels is not None:
        strength = torch.full_like(patch.shared[0, 0, :1], patch.strength)
        patched = [labels.contiguous(), patch.shared, patch.own, strength]
    placed, num_positions = [samples, samples], 0
    if places is not None and chosen is not None:
        patched[0], placed = places.labels, [places.positions, chosen]
        num_positions = places.positions.shape[1]
    _augment_kernel[(len(out), num_parts(images))](
        out.view(bits),
        images,
        rows.contiguous(),
        samples.contiguous(),
        table.contiguous().view(bits),
        signed(seed),
        epoch,
        samples if key is None else key.contiguous(),
        *patched,
        signed(patch_seed),
        *placed,
        num_positions,
        PLACED=int(places is not None),
        KEYED=int(key is not None),
        **constants(height, width, channels, flip=flip, padding=padding, cutout=cutout),
        **patch_constants(patch, table.dtype),
        **LAUNCH,
    )


def patch_constants(patch: Patch | None, dtype: torch.dtype) -> dict[str, object]:
    """What the kernel is compiled for of a patch."""
    height, width = (0, 0) if patch is None else patch.shared.shape[:2]
    return {
        "PATCHED": int(patch is not None),
        "SHARE": 0 if patch is None else threshold(patch.share),
        "ALONE": 0 if patch is None else threshold(patch.alone),
        "PART": 0 if patch is None else patch.part,
        "BLANK": 0 if patch is None else int(patch.blank),
        "TOP": 0 if patch is None else patch.top,
        "LEFT": 0 if patch is None else patch.left,
        "ROWS": height,
        "COLUMNS": width,
        "LIKE": _TYPES[dtype],
    }


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
