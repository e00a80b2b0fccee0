"""The loops of `cpu.py`, compiled by numba: normalise, ReLU, max-pool, and their gradient.

Legend: y input and dy its gradient, (N, H, W, C) in memory; out output and grad its gradient,
(N, H // KH, W // KW, C). A row is C numbers; a run is a row, or for what needs no windows so many
rows that they are whole pairs of vectors. Tables have one number for every number of a run, of the
type computed in. `like` and `table` are arrays without elements of the stored and that type;
addresses, `a_`, are int64.

Each thread of a team runs `work` on the same `Job`, and waits for the others between its passes:
sums of chunks (`cpu_sums.py`), their merging, and writing (`cpu_writes.py`).
"""

import ctypes

import numba
import numpy as np

from ..numba_runtime.elements import FP64, INLINE, INT64, OPTIONS, array
from ..numba_runtime.team import fields, member, share, wait
from .cpu_sums import gradient_sums, merge_moments, merge_sums, moments
from .cpu_writes import (
    write_gradient,
    write_gradient_outside,
    write_gradients,
    write_output,
    write_outputs,
)


class Job(ctypes.Structure):
    """What a worker is called with."""

    _fields_ = fields(
        (
            *("n", "h", "w", "c", "kh", "kw", "run"),
            # Rows that sums are taken over, and of a chunk.
            *("rows", "chunk_rows", "num_chunks"),
            # Addresses; grad and dy are 0 forward.
            *("y", "out", "grad", "dy"),
            # fp64 (2, C): mean and 1 / standard deviation; (num_chunks + 1, 2, C).
            *("statistics", "parts"),
            # Running statistics; address 0 where they are not tracked.
            *("running_mean", "running_var", "running_is_fp64", "num_batches"),
        ),
        # What comes out at least; a momentum below 0 asks for cumulative means.
        ("floor", "eps", "momentum"),
    )


JOB = np.empty(0, np.dtype(Job))


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
    thread, threads = member(job)
    if thread == 0 and job.num_batches != 0:
        array(job.num_batches, (1,), INT64)[0] += 1
    for chunk in range(*share(job.num_chunks, thread, threads)):
        moments(job, like, table, chunk)
    wait(job)
    merge_moments(job, *share(job.c, thread, threads))
    wait(job)
    tables = _forward_tables(job, table)
    width, count, rest = _runs(job)
    begin, end = share(count, thread, threads)
    if job.kh == 1 and job.kw == 1:
        write_outputs(job, like, table, tables, width, begin, end, 1, 1)
        if thread == 0 and rest > 0:
            done = count * width * like.itemsize
            write_output(job, like, table, tables, done, done, width, rest, 1, 1)
    elif job.kh == 2 and job.kw == 2:
        write_outputs(job, like, table, tables, width, begin, end, 2, 2)
    else:
        write_outputs(job, like, table, tables, width, begin, end, job.kh, job.kw)


@numba.njit(**INLINE)
def _backward(job, like, table):
    thread, threads = member(job)
    for chunk in range(*share(job.num_chunks, thread, threads)):
        gradient_sums(job, like, table, chunk)
    wait(job)
    merge_sums(job, *share(job.c, thread, threads))
    wait(job)
    tables = _backward_tables(job, table)
    width, count, rest = _runs(job)
    begin, end = share(count, thread, threads)
    if job.kh == 1 and job.kw == 1:
        write_gradients(job, like, table, tables, width, begin, end, 1, 1)
        if thread == 0 and rest > 0:
            done = count * width * like.itemsize
            write_gradient(job, like, table, tables, done, done, width, rest, 1, 1)
    else:
        if job.kh == 2 and job.kw == 2:
            write_gradients(job, like, table, tables, width, begin, end, 2, 2)
        else:
            write_gradients(job, like, table, tables, width, begin, end, job.kh, job.kw)
        for image in range(*share(job.n, thread, threads)):
            write_gradient_outside(job, like, table, tables, image)


@numba.njit(**OPTIONS)
def _runs(job):
    """Length of the runs that are written, their number, and what is left over."""
    if job.kh == 1 and job.kw == 1:
        size = job.n * job.h * job.w * job.c
        return job.run, size // job.run, size % job.run
    return job.c, job.n * (job.h // job.kh) * (job.w // job.kw), 0


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
