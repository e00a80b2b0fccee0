"""Writing the output of a fused normalisation, and the gradient of its input, run by run.

Windows of a run are side by side: where one begins in y and dy, so many bytes from their start, is
called `offset`, the place of its output and of the gradient of that `beside`. Legend:
`cpu_loops.py`.
"""

from typing import Any

import numba
import numpy as np

from ..numba_runtime.elements import INLINE
from ..numba_runtime.vector_math import where_equal, where_greater
from ..numba_runtime.vectors import load_part, splat, store_part


@numba.njit(**INLINE)
def _table(table, tables, index, v, count, zero):
    where = tables.ctypes.data + (index * tables.shape[1] + v) * table.itemsize
    return load_part(table, where, count, zero)


@numba.njit(**INLINE)
def _output(job, like, table, tables, offset, beside, width, v, count, kh, kw):
    """Write what comes out of `count` windows."""
    zero = splat(like, 0.0)
    step = width * like.itemsize
    a_v = job.y + offset + v * like.itemsize
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
    value = where_greater(floor, value, floor, value)
    store_part(like, job.out + beside + v * like.itemsize, count, value)


@numba.njit(**INLINE)
def _gradient(job, like, table, tables, offset, beside, width, v, count, kh, kw):
    """Write the gradient of `count` windows.

    It goes to the first of a window's largest numbers, in the order of its rows.
    """
    zero = splat(like, 0.0)
    step = width * like.itemsize
    a_v, a_dy_v = (job.y + offset + v * like.itemsize, job.dy + offset + v * like.itemsize)
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
    shift = _table(table, tables, 4, v, count, zero)
    grad = load_part(like, job.grad + beside + v * like.itemsize, count, zero) * scale
    value = (largest - high) * scale + rest
    grad = where_greater(value, splat(like, job.floor), grad, zero)
    for i in range(kh):
        for j in range(kw):
            further = (i * job.w + j) * step
            y = load_part(like, a_v + further, count, zero)
            here = where_equal(place, splat(like, np.float64(i * kw + j)), grad, zero)
            store_part(like, a_dy_v + further, count, here + ((y - high) * slope + shift))


def _over_runs(write: Any) -> tuple[Any, Any]:
    """Functions that `write` a whole run, or all runs from `begin` to `end`."""

    @numba.njit(**INLINE)
    def over_run(job, like, table, tables, offset, beside, width, size, kh, kw):
        """The first `size` numbers of a run."""
        lanes = 64 // table.itemsize
        whole = size - size % lanes
        for v in range(0, whole, lanes):
            write(job, like, table, tables, offset, beside, width, v, lanes, kh, kw)
        if whole < size:
            write(job, like, table, tables, offset, beside, width, whole, size - whole, kh, kw)

    @numba.njit(**INLINE)
    def over_runs(job, like, table, tables, width, begin, end, kh, kw):
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
                over_run(job, like, table, tables, offset, position * step, width, width, kh, kw)
                offset += kw * step
            run = stop

    return over_run, over_runs


write_output, write_outputs = _over_runs(_output)
write_gradient, write_gradients = _over_runs(_gradient)


@numba.njit(**INLINE)
def write_gradient_outside(job, like, table, tables, image):
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
