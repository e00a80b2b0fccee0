"""Sums over the chunks of a fused normalisation: statistics of channels, and of their gradients.

Sums are taken over fixed chunks of rows, in fp32 sums of at most `TERMS` terms, added up in fp64,
then merged in the order of the chunks: bits do not depend on the number of threads. Legend:
`cpu_loops.py`.
"""

import numba
import numpy as np

from ..numba_runtime.elements import FP32, FP64, INLINE, INT64, OPTIONS, array
from ..numba_runtime.vector_math import where_greater
from ..numba_runtime.vectors import add_to_fp64, load, load_part, splat, store_part

TERMS = 64
"""Terms of an fp32 sum."""

SAMPLE = 32
"""Rows of a chunk whose mean is taken off before its sums, lest a large mean cancel."""


@numba.njit(**INLINE)
def _deviation(like, a_x, _, count, shift, __):
    x = load_part(like, a_x, count, shift) - shift
    return x, x * x


@numba.njit(**INLINE)
def _product(like, a_x, a_y, count, zero, floor):
    y = load_part(like, a_y, count, zero)
    x = where_greater(y, floor, load_part(like, a_x, count, zero), zero)
    return x, x * y


def _summing(terms):
    """A function that adds what `terms` makes of two arrays of `size` numbers to sums, (2, run)."""

    @numba.njit(**OPTIONS)
    def add_up(a_x, a_y, like, table, size, shift, floor, sums):
        lanes = 64 // table.itemsize
        run = len(shift)
        floor = splat(like, floor)
        zero = splat(like, 0.0)
        a_shift, a_sums, step = shift.ctypes.data, sums.ctypes.data, run * like.itemsize
        for first in range(0, size // run, TERMS):
            last = min(first + TERMS, size // run)
            for v in range(0, run, 2 * lanes):
                shift_0 = load(table, a_shift + v * table.itemsize)
                shift_1 = load(table, a_shift + (v + lanes) * table.itemsize)
                one_0 = one_1 = two_0 = two_1 = zero
                offset = first * step + v * like.itemsize
                for _ in range(first, last):
                    x, y = terms(like, a_x + offset, a_y + offset, lanes, shift_0, floor)
                    one_0, two_0 = one_0 + x, two_0 + y
                    beside = offset + lanes * like.itemsize
                    x, y = terms(like, a_x + beside, a_y + beside, lanes, shift_1, floor)
                    one_1, two_1 = one_1 + x, two_1 + y
                    offset += step
                add_to_fp64(a_sums + v * 8, one_0)
                add_to_fp64(a_sums + (v + lanes) * 8, one_1)
                add_to_fp64(a_sums + (run + v) * 8, two_0)
                add_to_fp64(a_sums + (run + v + lanes) * 8, two_1)
        done = size - size % run
        for v in range(0, size - done, lanes):
            offset = (done + v) * like.itemsize
            a_x_v, a_y_v = a_x + offset, a_y + offset
            shift_v = load(table, a_shift + v * table.itemsize)
            x, y = terms(like, a_x_v, a_y_v, size - done - v, shift_v, floor)
            add_to_fp64(a_sums + v * 8, x)
            add_to_fp64(a_sums + (run + v) * 8, y)

    return add_up


_sum_deviations, _sum_products = _summing(_deviation), _summing(_product)


@numba.njit(**INLINE)
def moments(job, like, table, chunk):
    """Mean and sum of squared deviations of a chunk."""
    first = chunk * job.chunk_rows
    rows = min(job.chunk_rows, job.rows - first)
    a_y = job.y + first * job.c * like.itemsize
    shift = np.empty(job.run, table.dtype)
    _sample_mean(a_y, like, table, min(rows, SAMPLE), job.c, shift)
    for lane in range(job.c, job.run):
        shift[lane] = shift[lane - job.c]
    sums = np.zeros((2, job.run))
    _sum_deviations(a_y, a_y, like, table, rows * job.c, shift, job.floor, sums)
    part = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)[chunk]
    for channel in range(job.c):
        deviation = square = 0.0
        for lane in range(channel, job.run, job.c):
            deviation += sums[0, lane]
            square += sums[1, lane]
        part[0, channel] = shift[channel] + deviation / rows
        part[1, channel] = square - deviation * (deviation / rows)


@numba.njit(**INLINE)
def _sample_mean(a_y, like, table, rows, c, shift):
    """About the mean of the first rows: exact where they are all the same."""
    lanes = 64 // table.itemsize
    zero = splat(like, 0.0)
    factor = splat(like, 1.0 / rows)
    for v in range(0, c, lanes):
        start = load_part(like, a_y + v * like.itemsize, c - v, zero)
        total = zero
        for row in range(1, rows):
            y = load_part(like, a_y + (row * c + v) * like.itemsize, c - v, zero)
            total = total + (y - start)
        store_part(table, shift.ctypes.data + v * table.itemsize, c - v, start + total * factor)


@numba.njit(**INLINE)
def gradient_sums(job, like, table, chunk):
    """Sums of a chunk's gradient, where ReLU lets it pass, and of its product with the output."""
    first = chunk * job.chunk_rows
    rows = min(job.chunk_rows, job.rows - first)
    offset = first * job.c * like.itemsize
    zeros = np.zeros(job.run, table.dtype)
    sums = np.zeros((2, job.run))
    _sum_products(
        job.grad + offset, job.out + offset, like, table,
        rows * job.c, zeros, job.floor, sums,
    )  # fmt: skip
    part = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)[chunk]
    for k in range(2):
        for channel in range(job.c):
            total = 0.0
            for lane in range(channel, job.run, job.c):
                total += sums[k, lane]
            part[k, channel] = total


@numba.njit(**OPTIONS)
def merge_moments(job, begin, end):
    """Statistics of channels from those of the chunks (Chan, Golub and LeVeque 1979)."""
    parts = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)
    mean, squares = parts[job.num_chunks]
    mean[begin:end] = 0.0
    squares[begin:end] = 0.0
    for chunk in range(job.num_chunks):
        before = chunk * job.chunk_rows
        rows = min(job.chunk_rows, job.rows - before)
        share = rows / (before + rows)
        for channel in range(begin, end):
            gap = parts[chunk, 0, channel] - mean[channel]
            mean[channel] += gap * share
            squares[channel] += parts[chunk, 1, channel] + gap * gap * (before * share)
    statistics = array(job.statistics, (2, job.c), FP64)
    for channel in range(begin, end):
        statistics[0, channel] = mean[channel]
        # Not max(), which would make a NaN 0.
        square = squares[channel] if not squares[channel] < 0.0 else 0.0
        squares[channel] = square
        statistics[1, channel] = 1.0 / np.sqrt(square / job.rows + job.eps)
    if job.running_mean != 0:
        factor = job.momentum
        if factor < 0.0:
            factor = 1.0 / array(job.num_batches, (1,), INT64)[0]
        if job.running_is_fp64 != 0:
            _update_running(job, FP64, mean, squares, factor, begin, end)
        else:
            _update_running(job, FP32, mean, squares, factor, begin, end)


@numba.njit(**OPTIONS)
def _update_running(job, kind, mean, squares, factor, begin, end):
    running_mean = array(job.running_mean, (job.c,), kind)
    running_var = array(job.running_var, (job.c,), kind)
    for channel in range(begin, end):
        running_mean[channel] = (1.0 - factor) * running_mean[channel] + factor * mean[channel]
        variance = squares[channel] / (job.rows - 1)
        running_var[channel] = (1.0 - factor) * running_var[channel] + factor * variance


@numba.njit(**OPTIONS)
def merge_sums(job, begin, end):
    parts = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)
    totals = parts[job.num_chunks]
    totals[:, begin:end] = 0.0
    for chunk in range(job.num_chunks):
        for k in range(2):
            for channel in range(begin, end):
                totals[k, channel] += parts[chunk, k, channel]
