"""Sums over the rows of a fused normalisation in Triton, and what follows from them per channel.

A tensor is rows of C numbers, (rows, C) in memory. A program sums a chunk of rows of `BLOCK_C`
channels; a second, small launch adds the chunks up, all of a channel at once. Both add in a fixed
order, so equal inputs give equal bits, without atomics.

A mean is kept as a shift, which is one of y's numbers and a little, and the mean of what is left:
neither a large mean nor a constant channel loses a digit. What is written per channel is fp64; its
few operations are the only ones. Of the coefficients that `triton_writes.py` reads, in the type of
the sums:

    out = relu((y - high) * scale + rest)       dy = scale * g + (y - high) * slope + offset

Legend: y input, out output, g gradient of the output where ReLU lets it pass.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from ..step.triton.chunks import read, write


@triton.jit
def _moments_kernel(
    p_y,  # (rows, C)
    p_parts,  # (3, num_chunks, C) out: shift, mean of y - shift, sum of squared deviations
    p_count,  # () int64: batches seen, one more with this one
    rows,
    chunk_rows,
    num_chunks,
    C: tl.constexpr,
    COUNTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    chunk = tl.program_id(0)
    if COUNTS:
        if (chunk == 0) & (tl.program_id(1) == 0):
            tl.store(p_count, tl.load(p_count) + 1)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.arange(0, BLOCK_R)
    count = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
    p_y += (chunk * chunk_rows).to(tl.int64) * C
    offset = row[:, None] * C + channel[None, :]
    mask = (row < count)[:, None] & (channel < C)[None, :]
    # About the mean of the first rows, and exactly that where they are all the same.
    first = read(p_y, channel, channel < C, ACC)
    y = read(p_y, offset, mask, ACC)
    sample = tl.minimum(count, BLOCK_R).to(ACC)
    shift = first + tl.sum(tl.where(mask, y - first[None, :], 0.0), axis=0) / sample
    deviation = tl.where(mask, y - shift[None, :], 0.0)
    square = deviation * deviation
    for start in range(BLOCK_R, count, BLOCK_R):
        p_y += BLOCK_R * C
        mask = (start + row < count)[:, None] & (channel < C)[None, :]
        gap = tl.where(mask, read(p_y, offset, mask, ACC) - shift[None, :], 0.0)
        deviation += gap
        square += gap * gap
    mean = tl.sum(deviation, axis=0) / count.to(ACC)
    squares = tl.sum(square, axis=0) - count.to(ACC) * mean * mean
    p_parts += chunk * C
    write(p_parts, channel, channel < C, shift)
    write(p_parts, num_chunks * C + channel, channel < C, mean)
    write(p_parts, 2 * num_chunks * C + channel, channel < C, squares)


@triton.jit
def _statistics_kernel(
    p_parts,  # (3, num_chunks, C)
    p_statistics,  # (2, C) fp64 out: mean, 1 / standard deviation
    p_table,  # (3, C) out: high, scale, rest
    p_mean,  # (C,) running statistics, fp32 or fp64
    p_var,
    p_count,  # () int64
    rows,
    chunk_rows,
    num_chunks,
    C: tl.constexpr,
    TRACKS: tl.constexpr,  # whether there are running statistics
    MOMENTUM: tl.constexpr,  # below 0: cumulative means
    EPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C
    chunk = tl.arange(0, CHUNKS)
    mask = (chunk < num_chunks)[:, None] & exists[None, :]
    place = chunk[:, None] * C + channel[None, :]
    size = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
    size = tl.where(chunk < num_chunks, size, 0).to(ACC)[:, None]
    shift = read(p_parts, place, mask, ACC)
    base = read(p_parts, channel, exists, ACC)
    gap = shift - base[None, :] + read(p_parts, num_chunks * C + place, mask, ACC)
    low = tl.sum(size * gap, axis=0) / rows
    gap -= low[None, :]
    parts = read(p_parts, 2 * num_chunks * C + place, mask, ACC)
    squares = tl.sum(parts + size * gap * gap, axis=0).to(tl.float64)
    # Not a maximum, which would make a NaN 0.
    squares = tl.where(squares < 0.0, 0.0, squares)
    mean = base.to(tl.float64) + low.to(tl.float64)
    scale = 1.0 / tl.sqrt(squares / rows + tl.full((), EPS, tl.float64))
    write(p_statistics, channel, exists, mean)
    write(p_statistics, C + channel, exists, scale)
    _write_forward(p_table, channel, mean, scale, C)
    if TRACKS:
        factor = tl.full((), MOMENTUM, tl.float64)
        if MOMENTUM < 0:
            factor = 1.0 / tl.load(p_count).to(tl.float64)
        _advance(p_mean, channel, exists, mean, factor)
        _advance(p_var, channel, exists, squares / (rows - 1), factor)


@triton.jit
def _write_forward(p_table, channel, mean, scale, C: tl.constexpr):
    """Coefficients of the output; the mean is `high`, and what rounding left of it in `rest`."""
    high = mean.to(p_table.dtype.element_ty)
    rest = -(mean - high.to(tl.float64)) * scale
    write(p_table, channel, channel < C, high)
    write(p_table, C + channel, channel < C, scale)
    write(p_table, 2 * C + channel, channel < C, rest)
    return rest


@triton.jit
def _advance(p_running, channel, mask, found, factor):
    """A running statistic after a batch."""
    before = read(p_running, channel, mask, tl.float64)
    write(p_running, channel, mask, (1.0 - factor) * before + factor * found)


@triton.jit
def _running_kernel(
    p_mean,  # (C,) running statistics, fp32 or fp64
    p_var,
    p_table,  # (3, C) out: high, scale, rest
    C: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean = read(p_mean, channel, channel < C, tl.float64)
    var = read(p_var, channel, channel < C, tl.float64)
    scale = 1.0 / tl.sqrt(var + tl.full((), EPS, tl.float64))
    _write_forward(p_table, channel, mean, scale, C)


@triton.jit
def _products_kernel(
    p_grad,  # (rows, C)
    p_out,  # (rows, C)
    p_parts,  # (2, num_chunks, C) out: sums of g, and of g times the normalised y
    rows,
    chunk_rows,
    num_chunks,
    C: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    chunk = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.arange(0, BLOCK_R)
    count = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
    begin = (chunk * chunk_rows).to(tl.int64) * C
    p_grad += begin
    p_out += begin
    offset = row[:, None] * C + channel[None, :]
    total = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    along = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for start in range(0, count, BLOCK_R):
        mask = (start + row < count)[:, None] & (channel < C)[None, :]
        grad = read(p_grad, offset, mask, ACC)
        out = read(p_out, offset, mask, ACC)
        if RELU:
            grad = tl.where(out > 0.0, grad, 0.0)
        total += grad
        along += grad * out
        p_grad += BLOCK_R * C
        p_out += BLOCK_R * C
    p_parts += chunk * C
    write(p_parts, channel, channel < C, tl.sum(total, axis=0))
    write(p_parts, num_chunks * C + channel, channel < C, tl.sum(along, axis=0))


@triton.jit
def _slopes_kernel(
    p_parts,  # (2, num_chunks, C)
    p_statistics,  # (2, C) fp64
    p_table,  # (5, C) out: high, scale, rest, slope, offset
    rows,  # of y
    num_chunks,
    C: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C
    chunk = tl.arange(0, CHUNKS)
    mask = (chunk < num_chunks)[:, None] & exists[None, :]
    place = chunk[:, None] * C + channel[None, :]
    total = tl.sum(read(p_parts, place, mask, ACC), axis=0).to(tl.float64) / rows
    along = tl.sum(read(p_parts, num_chunks * C + place, mask, ACC), axis=0)
    along = along.to(tl.float64) / rows
    mean = read(p_statistics, channel, exists, tl.float64)
    scale = read(p_statistics, C + channel, exists, tl.float64)
    rest = _write_forward(p_table, channel, mean, scale, C)
    write(p_table, 3 * C + channel, exists, -scale * scale * along)
    write(p_table, 4 * C + channel, exists, -scale * (total + rest * along))
