"""The loops of `cpu_norm.py`, compiled by numba: normalise, ReLU, max-pool, and their gradient.

Legend: y input and dy its gradient, (N, H, W, C) in memory; out output and grad its gradient,
(N, H // KH, W // KW, C). A row is C numbers; a run is a row, or for what needs no windows so many
rows that they are whole pairs of vectors. Tables have one number for every number of a run, of the
type computed in. `like` and `table` are arrays without elements of the stored and that type;
addresses, `a_`, are int64.

Sums are taken over fixed chunks of rows, in fp32 sums of at most `TERMS` terms, added up in fp64,
then merged in the order of the chunks: bits do not depend on the number of threads. Each thread of
a team runs a worker on the same `Job`, and waits for the others between its passes.
"""

import ctypes

import numba
import numpy as np

from .cpu_vectors import (
    OPTIONS,
    add_to_fp64,
    array,
    call,
    load,
    load_part,
    splat,
    store_part,
    where_equal,
    where_greater,
)

TERMS = 64
"""Terms of an fp32 sum."""

SAMPLE = 32
"""Rows of a chunk whose mean is taken off before its sums, lest a large mean cancel."""

# What takes `like` becomes part of its caller: constants make loops straight, and without arrays
# that somebody might own no references are counted in them.
INLINE = {**OPTIONS, "forceinline": True}


class Job(ctypes.Structure):
    """What a worker is called with."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("n", "h", "w", "c", "kh", "kw", "run"),
                # Rows that sums are taken over, and of a chunk.
                *("rows", "chunk_rows", "num_chunks"),
                # Functions of OpenMP, 0 where it is missing: index of the thread, size of its team.
                *("thread_num", "num_threads", "barrier"),
                # grad and dy are 0 forward.
                *("y", "out", "grad", "dy"),
                # fp64 (2, C): mean and 1 / standard deviation; (num_chunks + 1, 2, C).
                *("statistics", "parts"),
                # Running statistics; address 0 where they are not tracked.
                *("running_mean", "running_var", "running_is_fp64", "num_batches"),
            )
        ),
        # What comes out at least; a momentum below 0 asks for cumulative means.
        *((name, ctypes.c_double) for name in ("floor", "eps", "momentum")),
    ]


JOB, INT64, FP32, FP64 = (np.empty(0, kind) for kind in (Job, np.int64, np.float32, np.float64))


@numba.njit(**INLINE)
def work(address, like, table):
    """What every thread of a team does."""
    job = array(address, (1,), JOB)[0]
    if job.dy == 0:
        _forward(job, like, table)
    else:
        _backward(job, like, table)


@numba.njit(**INLINE)
def _forward(job, like, table):
    thread, threads = _team(job)
    if thread == 0 and job.num_batches != 0:
        array(job.num_batches, (1,), INT64)[0] += 1
    for chunk in range(*_share(job.num_chunks, thread, threads)):
        _moments(job, like, table, chunk)
    _wait(job)
    _merge_moments(job, *_share(job.c, thread, threads))
    _wait(job)
    tables = _forward_tables(job, table)
    width, count, rest = _runs(job)
    begin, end = _share(count, thread, threads)
    if job.kh == 1 and job.kw == 1:
        _forward_runs(job, like, table, tables, width, begin, end, 1, 1)
        if thread == 0 and rest > 0:
            _forward_run(
                job, like, table, tables, job.y + count * width * like.itemsize,
                job.out + count * width * like.itemsize, width, rest, 1, 1,
            )  # fmt: skip
    elif job.kh == 2 and job.kw == 2:
        _forward_runs(job, like, table, tables, width, begin, end, 2, 2)
    else:
        _forward_runs(job, like, table, tables, width, begin, end, job.kh, job.kw)


@numba.njit(**INLINE)
def _backward(job, like, table):
    thread, threads = _team(job)
    for chunk in range(*_share(job.num_chunks, thread, threads)):
        _gradient_sums(job, like, table, chunk)
    _wait(job)
    _merge_sums(job, *_share(job.c, thread, threads))
    _wait(job)
    tables = _backward_tables(job, table)
    width, count, rest = _runs(job)
    begin, end = _share(count, thread, threads)
    if job.kh == 1 and job.kw == 1:
        _backward_runs(job, like, table, tables, width, begin, end, 1, 1)
        if thread == 0 and rest > 0:
            done = count * width * like.itemsize
            _backward_run(
                job, like, table, tables, job.y + done, job.grad + done, job.dy + done,
                width, rest, 1, 1,
            )  # fmt: skip
    else:
        if job.kh == 2 and job.kw == 2:
            _backward_runs(job, like, table, tables, width, begin, end, 2, 2)
        else:
            _backward_runs(job, like, table, tables, width, begin, end, job.kh, job.kw)
        for image in range(*_share(job.n, thread, threads)):
            _backward_outside(job, like, table, tables, image)


@numba.njit(**OPTIONS)
def _team(job):
    """Index of this thread, and how many there are."""
    if job.thread_num == 0:
        return 0, 1
    return np.int64(call(job.thread_num)), np.int64(call(job.num_threads))


@numba.njit(**OPTIONS)
def _wait(job):
    """Until every thread of the team is here."""
    if job.barrier != 0:
        call(job.barrier)


@numba.njit(**OPTIONS)
def _share(count, thread, threads):
    return thread * count // threads, (thread + 1) * count // threads


@numba.njit(**OPTIONS)
def _runs(job):
    """Length of the runs that are written, their number, and what is left over."""
    if job.kh == 1 and job.kw == 1:
        size = job.n * job.h * job.w * job.c
        return job.run, size // job.run, size % job.run
    return job.c, job.n * (job.h // job.kh) * (job.w // job.kw), 0


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
def _moments(job, like, table, chunk):
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
def _gradient_sums(job, like, table, chunk):
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
def _merge_moments(job, begin, end):
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
def _merge_sums(job, begin, end):
    parts = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)
    totals = parts[job.num_chunks]
    totals[:, begin:end] = 0.0
    for chunk in range(job.num_chunks):
        for k in range(2):
            for channel in range(begin, end):
                totals[k, channel] += parts[chunk, k, channel]


@numba.njit(**OPTIONS)
def _forward_tables(job, table):
    """Out = (y - high) * scale + rest: the mean is high + low, rest is -low * scale."""
    tables = np.empty((5, _runs(job)[0]), table.dtype)
    statistics = array(job.statistics, (2, job.c), FP64)
    for lane in range(tables.shape[1]):
        mean, scale = statistics[0, lane % job.c], statistics[1, lane % job.c]
        tables[0, lane] = mean
        tables[1, lane] = scale
        tables[2, lane] = -(mean - tables[0, lane]) * scale
    return tables


@numba.njit(**OPTIONS)
def _backward_tables(job, table):
    """The same, and dy = scale * grad + (y - high) * slope + offset."""
    tables = _forward_tables(job, table)
    totals = array(job.parts, (job.num_chunks + 1, 2, job.c), FP64)[job.num_chunks]
    statistics = array(job.statistics, (2, job.c), FP64)
    size = job.n * job.h * job.w
    for lane in range(tables.shape[1]):
        mean, scale = statistics[0, lane % job.c], statistics[1, lane % job.c]
        along = totals[1, lane % job.c] / size
        rest = -(mean - tables[0, lane]) * scale
        tables[3, lane] = -scale * scale * along
        tables[4, lane] = -scale * (totals[0, lane % job.c] / size + rest * along)
    return tables


@numba.njit(**INLINE)
def _forward_runs(job, like, table, tables, width, begin, end, kh, kw):
    """Write the runs from `begin` to `end`."""
    out_w, out_h = job.w // kw, job.h // kh
    if kh == 1 and kw == 1:
        out_w, out_h = max(end, 1), 1
    step = width * like.itemsize
    run = begin
    while run < end:
        row, column = run // out_w, run % out_w
        stop = min(end, run - column + out_w)
        image, height = row // out_h, row % out_h
        a_y = job.y + ((image * job.h + height * kh) * job.w + column * kw) * step
        for position in range(run, stop):
            _forward_run(
                job, like, table, tables, a_y, job.out + position * step, width, width, kh, kw
            )
            a_y += kw * step
        run = stop


@numba.njit(**INLINE)
def _forward_run(job, like, table, tables, a_y, a_out, width, size, kh, kw):
    """Write the first `size` numbers of a run."""
    lanes = 64 // table.itemsize
    whole = size - size % lanes
    for v in range(0, whole, lanes):
        _forward_vector(job, like, table, tables, a_y, a_out, width, v, lanes, kh, kw)
    if whole < size:
        _forward_vector(
            job, like, table, tables, a_y, a_out, width, whole, size - whole, kh, kw
        )  # fmt: skip


@numba.njit(**INLINE)
def _table(table, tables, index, v, count, zero):
    where = tables.ctypes.data + (index * tables.shape[1] + v) * table.itemsize
    return load_part(table, where, count, zero)


@numba.njit(**INLINE)
def _forward_vector(job, like, table, tables, a_y, a_out, width, v, count, kh, kw):
    zero = splat(like, 0.0)
    step = width * like.itemsize
    a_v = a_y + v * like.itemsize
    largest = load_part(like, a_v, count, zero)
    for i in range(kh):
        for j in range(kw):
            y = load_part(like, a_v + (i * job.w + j) * step, count, zero)
            largest = where_greater(y, largest, y, largest)
    high = _table(table, tables, 0, v, count, zero)
    scale = _table(table, tables, 1, v, count, zero)
    rest = _table(table, tables, 2, v, count, zero)
    floor = splat(like, job.floor)
    value = (largest - high) * scale + rest
    store_part(like, a_out + v * like.itemsize, count, where_greater(floor, value, floor, value))


@numba.njit(**INLINE)
def _backward_runs(job, like, table, tables, width, begin, end, kh, kw):
    """Write the gradient of the windows of the runs from `begin` to `end`."""
    out_w, out_h = job.w // kw, job.h // kh
    if kh == 1 and kw == 1:
        out_w, out_h = max(end, 1), 1
    step = width * like.itemsize
    run = begin
    while run < end:
        row, column = run // out_w, run % out_w
        stop = min(end, run - column + out_w)
        image, height = row // out_h, row % out_h
        offset = ((image * job.h + height * kh) * job.w + column * kw) * step
        for position in range(run, stop):
            _backward_run(
                job, like, table, tables, job.y + offset, job.grad + position * step,
                job.dy + offset, width, width, kh, kw,
            )  # fmt: skip
            offset += kw * step
        run = stop


@numba.njit(**INLINE)
def _backward_run(job, like, table, tables, a_y, a_grad, a_dy, width, size, kh, kw):
    lanes = 64 // table.itemsize
    whole = size - size % lanes
    for v in range(0, whole, lanes):
        _backward_vector(job, like, table, tables, a_y, a_grad, a_dy, width, v, lanes, kh, kw)
    if whole < size:
        _backward_vector(
            job, like, table, tables, a_y, a_grad, a_dy, width, whole, size - whole, kh, kw
        )  # fmt: skip


@numba.njit(**INLINE)
def _backward_vector(job, like, table, tables, a_y, a_grad, a_dy, width, v, count, kh, kw):
    """The gradient goes to the first of a window's largest numbers, in the order of its rows."""
    zero = splat(like, 0.0)
    step = width * like.itemsize
    a_v, a_dy_v = a_y + v * like.itemsize, a_dy + v * like.itemsize
    largest = load_part(like, a_v, count, zero)
    place = zero
    for i in range(kh):
        for j in range(kw):
            y = load_part(like, a_v + (i * job.w + j) * step, count, zero)
            place = where_greater(y, largest, splat(like, np.float64(i * kw + j)), place)
            largest = where_greater(y, largest, y, largest)
    high = _table(table, tables, 0, v, count, zero)
    scale = _table(table, tables, 1, v, count, zero)
    rest = _table(table, tables, 2, v, count, zero)
    slope = _table(table, tables, 3, v, count, zero)
    offset = _table(table, tables, 4, v, count, zero)
    grad = load_part(like, a_grad + v * like.itemsize, count, zero) * scale
    value = (largest - high) * scale + rest
    grad = where_greater(value, splat(like, job.floor), grad, zero)
    for i in range(kh):
        for j in range(kw):
            beside = (i * job.w + j) * step
            y = load_part(like, a_v + beside, count, zero)
            here = where_equal(place, splat(like, np.float64(i * kw + j)), grad, zero)
            store_part(like, a_dy_v + beside, count, here + ((y - high) * slope + offset))


@numba.njit(**INLINE)
def _backward_outside(job, like, table, tables, image):
    """Write the gradient of what no window reaches."""
    lanes = 64 // table.itemsize
    zero = splat(like, 0.0)
    reached_h, reached_w = job.h // job.kh * job.kh, job.w // job.kw * job.kw
    for height in range(job.h):
        for column in range(reached_w if height < reached_h else 0, job.w):
            for v in range(0, job.c, lanes):
                count = job.c - v
                where = (((image * job.h + height) * job.w + column) * job.c + v) * like.itemsize
                high = _table(table, tables, 0, v, count, zero)
                slope = _table(table, tables, 3, v, count, zero)
                offset = _table(table, tables, 4, v, count, zero)
                y = load_part(like, job.y + where, count, zero)
                store_part(like, job.dy + where, count, (y - high) * slope + offset)
