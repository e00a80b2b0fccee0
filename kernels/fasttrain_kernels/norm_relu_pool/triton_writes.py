"""Writing the output of a fused normalisation, and the gradient of its input, in Triton.

Without windows a tensor is rows of C numbers. With windows a program holds `WINDOWS` of them whole,
(WINDOWS, PLACES, BLOCK_C) numbers of y, each read once; PLACES is KH * KW or the next power of 2.
Coefficients per channel: `triton_sums.py`.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from ..step.triton.chunks import read, write


@triton.jit
def _normalise(y, p_table, channel, C: tl.constexpr, ACC: tl.constexpr):
    """The normalised y before ReLU; channels are the last axis."""
    high = read(p_table, channel, channel < C, ACC)
    scale = read(p_table, C + channel, channel < C, ACC)
    rest = read(p_table, 2 * C + channel, channel < C, ACC)
    return (y - high) * scale + rest


@triton.jit
def _write_kernel(
    p_y,  # (rows, C)
    p_table,  # (3, C)
    p_out,  # (rows, C) out
    rows,
    C: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_R
    row = tl.arange(0, BLOCK_R)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    mask = (first + row < rows)[:, None] & (channel < C)
    offset = first.to(tl.int64) * C + (row[:, None] * C + channel)
    y = read(p_y, offset, mask, ACC)
    value = _normalise(y, p_table, channel, C, ACC)
    if RELU:
        # Not a maximum, which would make a NaN 0.
        value = tl.where(value < 0.0, 0.0, value)
    write(p_out, offset, mask, value)


@triton.jit
def _gradient_kernel(
    p_grad,  # (rows, C)
    p_y,  # (rows, C)
    p_table,  # (5, C)
    p_dy,  # (rows, C) out
    rows,
    C: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_R
    row = tl.arange(0, BLOCK_R)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    mask = (first + row < rows)[:, None] & (channel < C)
    offset = first.to(tl.int64) * C + (row[:, None] * C + channel)
    y = read(p_y, offset, mask, ACC)
    grad = read(p_grad, offset, mask, ACC)
    grad = _passed(y, grad, p_table, channel, C, RELU, ACC)
    write(p_dy, offset, mask, grad + _others(y, p_table, channel, C, ACC))


@triton.jit
def _passed(y, grad, p_table, channel, C: tl.constexpr, RELU: tl.constexpr, ACC: tl.constexpr):
    """What ReLU lets pass of the gradient, in units of y."""
    passed = grad * read(p_table, C + channel, channel < C, ACC)
    if RELU:
        passed = tl.where(_normalise(y, p_table, channel, C, ACC) > 0.0, passed, 0.0)
    return passed


@triton.jit
def _others(y, p_table, channel, C: tl.constexpr, ACC: tl.constexpr):
    """The gradient that y has by way of its channel's mean and standard deviation."""
    high = read(p_table, channel, channel < C, ACC)
    slope = read(p_table, 3 * C + channel, channel < C, ACC)
    return (y - high) * slope + read(p_table, 4 * C + channel, channel < C, ACC)


@triton.jit
def _windows(
    num_windows,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    WINDOWS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Of a program's windows, `DOWN` x `ACROSS` of an image: where they are, pixels, which exist.

    Image, row and column of windows, (WINDOWS,); pixels and mask, (WINDOWS, PLACES).
    """
    window = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    place = tl.arange(0, PLACES)
    column = window % ACROSS
    image, line = window // ACROSS // DOWN, window // ACROSS % DOWN
    i, j = place // KW, place % KW
    mask = (window < num_windows)[:, None] & (place < KH * KW)[None, :]
    if DOWN * KH > H:
        mask = mask & ((line * KH)[:, None] + i[None, :] < H)
    if ACROSS * KW > W:
        mask = mask & ((column * KW)[:, None] + j[None, :] < W)
    pixel = ((image * H + line * KH) * W + column * KW)[:, None] + (i * W + j)[None, :]
    return image, line, column, pixel, mask


@triton.jit
def _only(y, mask, PADDED: tl.constexpr):
    """What a maximum is taken of; where windows are padded, what does not exist is below all."""
    if PADDED:
        y = tl.where(mask, y, -float("inf"))
    return y


@triton.jit
def _pool_kernel(
    p_y,  # (N, H, W, C)
    p_table,  # (3, C)
    p_out,  # (num_windows, C) out
    num_windows,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    C: tl.constexpr,
    RELU: tl.constexpr,
    KEEPS_NAN: tl.constexpr,  # where a NaN need not have made the whole channel NaN
    WINDOWS: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    _, _, _, pixel, mask = _windows(
        num_windows, H, W, KH, KW, H // KH, W // KW, WINDOWS, PLACES
    )  # fmt: skip
    offset = pixel[:, :, None].to(tl.int64) * C + channel[None, None, :]
    mask = mask[:, :, None] & (channel < C)[None, None, :]
    y = read(p_y, offset, mask, ACC)
    largest = tl.max(_only(y, mask, KH * KW < PLACES), axis=1)
    if KEEPS_NAN:
        spoilt = tl.max((y != y).to(tl.int32), axis=1)
        largest = tl.where(spoilt > 0, float("nan"), largest)
    value = _normalise(largest, p_table, channel[None, :], C, ACC)
    if RELU:
        value = tl.where(value < 0.0, 0.0, value)
    window = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    beside = window[:, None].to(tl.int64) * C + channel[None, :]
    write(p_out, beside, (window < num_windows)[:, None] & (channel < C)[None, :], value)


@triton.jit
def _pool_gradient_kernel(
    p_grad,  # (N, H // KH, W // KW, C)
    p_y,  # (N, H, W, C)
    p_table,  # (5, C)
    p_dy,  # (N, H, W, C) out
    num_windows,  # with those that the image cuts off
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    C: tl.constexpr,
    RELU: tl.constexpr,
    WINDOWS: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    DOWN: tl.constexpr = (H + KH - 1) // KH
    ACROSS: tl.constexpr = (W + KW - 1) // KW
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, line, column, pixel, mask = _windows(
        num_windows, H, W, KH, KW, DOWN, ACROSS, WINDOWS, PLACES
    )  # fmt: skip
    offset = pixel[:, :, None].to(tl.int64) * C + channel[None, None, :]
    mask = mask[:, :, None] & (channel < C)[None, None, :]
    y = read(p_y, offset, mask, ACC)
    PADDED: tl.constexpr = (KH * KW < PLACES) | (DOWN * KH > H) | (ACROSS * KW > W)
    # The gradient goes to the first of a window's largest numbers, in the order of its rows.
    largest, place = tl.max(_only(y, mask, PADDED), axis=1, return_indices=True)
    window = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    whole = (window < num_windows) & (line < H // KH) & (column < W // KW)
    beside = ((image * (H // KH) + line) * (W // KW) + column)[:, None].to(tl.int64) * C
    grad = read(p_grad, beside + channel[None, :], whole[:, None] & (channel < C)[None, :], ACC)
    grad = _passed(largest, grad, p_table, channel[None, :], C, RELU, ACC)
    here = tl.arange(0, PLACES)[None, :, None] == place[:, None, :]
    dy = tl.where(here, grad[:, None, :], 0.0)
    write(p_dy, offset, mask, dy + _others(y, p_table, channel[None, None, :], C, ACC))
