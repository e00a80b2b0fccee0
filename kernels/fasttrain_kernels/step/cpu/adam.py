"""Adam's step on a CPU: one pass, 28 bytes per fp32 parameter, with the sums of `reference.py`.

The loops are like those of `loops.py`, on the same tables and job. Sums are fp64 in every
lane. Legend: theta parameters, mean and square Adam's moments.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ...numba_runtime.elements import FP64, INLINE, INT32, INT64, OPTIONS, array, span
from ...numba_runtime.team import NUM_SPANS, member, team_size, wait, worker
from ...numba_runtime.vector_math import prefetch, root, total, widen
from ...numba_runtime.vectors import (
    load,
    load_as,
    load_part,
    load_part_as,
    splat,
    store,
    store_part,
)
from ..layout import Layout
from ..reference import write_copies_
from .loops import JOB, PLAIN, place_of
from .moves import AHEAD, lanes_of, products
from .rows import row_of
from .tables import tables_of


@numba.njit(**INLINE)
def _moments(grad, mean, square, factors):
    """Adam's new moments, and the direction that they give."""
    beta1, rest1, beta2, rest2, correction1, correction2, eps, _ = factors
    mean = beta1 * mean + rest1 * grad
    square = beta2 * square + rest2 * grad * grad
    return mean, square, correction1 * mean / (correction2 * root(square) + eps)


@numba.njit(**INLINE)
def _with_squares(sums, theta, direction, after):
    """Sums of theta * d, d^2 and of the new theta^2 with those of these vectors."""
    t, d, a = widen(theta), widen(direction), widen(after)
    return sums[0] + t * d, sums[1] + d * d, sums[2] + a * a


@numba.njit(**OPTIONS)
def _step_row(a_theta, a_grad, a_mean, a_square, like, like_grad, row, factors):
    """Step a row; its six sums."""
    zero, lanes, size = splat(like, 0.0), lanes_of(like), like.itemsize
    eta = factors[7]
    before = widen(zero), widen(zero), widen(zero)
    after = widen(zero), widen(zero), widen(zero)
    element = row[2]
    while element < row[3]:
        offset, count = span(row, element)
        for first in range(0, count // lanes * lanes, lanes):
            at = (offset + first) * size
            p_grad = a_grad + (offset + first) * like_grad.itemsize
            prefetch(a_theta + at + AHEAD)
            prefetch(a_mean + at + AHEAD)
            prefetch(a_square + at + AHEAD)
            prefetch(p_grad + AHEAD)
            t, g = load(like, a_theta + at), load_as(like, like_grad, p_grad)
            m, s, d = _moments(g, load(like, a_mean + at), load(like, a_square + at), factors)
            store(like, a_mean + at, m)
            store(like, a_square + at, s)
            store(like, a_theta + at, t - eta * d)
            before = products(before, t, g)
            # As it is stored.
            after = _with_squares(after, t, d, load(like, a_theta + at))
        rest = count % lanes
        if rest > 0:
            at = (offset + count - rest) * size
            p_grad = a_grad + (offset + count - rest) * like_grad.itemsize
            t = load_part(like, a_theta + at, rest, zero)
            g = load_part_as(like, like_grad, p_grad, rest, zero)
            m, s = (
                load_part(like, a_mean + at, rest, zero),
                load_part(like, a_square + at, rest, splat(like, 1.0)),
            )
            m, s, d = _moments(g, m, s, factors)
            store_part(like, a_mean + at, rest, m)
            store_part(like, a_square + at, rest, s)
            store_part(like, a_theta + at, rest, t - eta * d)
            before = products(before, t, g)
            after = _with_squares(after, t, d, load_part(like, a_theta + at, rest, zero))
        element += count
    return (
        (total(before[0]), total(before[1]), total(before[2])),
        (total(after[0]), total(after[1]), total(after[2])),
    )


@numba.njit(**OPTIONS)
def _step_stripe(job, like, like_grad, s):
    tensor, model, chunk, group, long, place = place_of(job, s)
    a_theta = array(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = array(job.grads, (job.num_tensors,), INT64)[tensor]
    a_mean = array(job.buffers, (2 * job.num_tensors,), INT64)[tensor]
    a_square = array(job.buffers, (2 * job.num_tensors,), INT64)[job.num_tensors + tensor]
    parts = array(job.parts, (6, job.num_chunks), FP64)
    sums = array(job.sums, (6, job.num_groups), FP64)
    corrections = array(job.corrections, (job.num_tensors, 2), FP64)[tensor]
    factors = (
        splat(like, job.beta1),
        splat(like, 1.0 - job.beta1),
        splat(like, job.beta2),
        splat(like, 1.0 - job.beta2),
        splat(like, corrections[0]),
        splat(like, corrections[1]),
        splat(like, job.eps),
        splat(like, array(job.eta, (job.num_models,), FP64)[model]),
    )
    for i in range(place[1]):
        before, after = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        if a_grad != 0:
            before, after = _step_row(
                a_theta, a_grad, a_mean, a_square, like, like_grad, row_of(place, i), factors
            )
        for k in range(3):
            parts[k, chunk + i], parts[3 + k, chunk + i] = before[k], after[k]
            if long < 0:
                sums[k, group + i], sums[3 + k, group + i] = before[k], after[k]


@numba.njit(**OPTIONS)
def work(address, like, like_grad):
    """What every thread of a team does."""
    job = array(address, (1,), JOB)[0]
    thread, threads = member(job)
    spans = array(job.spans, (NUM_SPANS + 1,), INT32)
    for s in range(
        spans[thread * NUM_SPANS // threads], spans[(thread + 1) * NUM_SPANS // threads]
    ):
        _step_stripe(job, like, like_grad, s)
    wait(job)
    if thread == 0:
        sums = array(job.sums, (6, job.num_groups), FP64)
        parts = array(job.parts, (6, job.num_chunks), FP64)
        for long in range(job.num_long):
            group, first, end = array(job.long_groups, (job.num_long, 3), INT32)[long]
            for k in range(6):
                found = 0.0
                for c in range(first, end):
                    found += parts[k, c]
                sums[k, group] = found


def _make_step(source: str, like: np.ndarray, like_grad: np.ndarray) -> Callable[[Any], None]:
    def step(address):
        _ = source
        work(address, like, like_grad)

    return step


def adam_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    moments: Sequence[Tensor | None],
    layout: Layout,
    eta: Tensor,  # (num_models,) fp64
    corrections: Tensor,  # (num_tensors, 2) fp64
    *,
    betas: tuple[float, float],
    eps: float,
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:  # (6, num_groups)
    """See `reference.adam_step_`."""
    tables = tables_of(layout)
    grads, addresses = tables.memory.step(thetas, grads, moments)
    eta = eta.to(torch.float64).contiguous()
    corrections = corrections.to(torch.float64).contiguous()
    if eta.shape != (layout.num_models,) or corrections.shape != (len(thetas), 2):
        raise ValueError(
            f"expected {layout.num_models} rates and {len(thetas)} pairs of corrections; got "
            f"{tuple(eta.shape)} and {tuple(corrections.shape)}"
        )
    job, sums = tables.job(PLAIN), eta.new_empty(6, layout.num_groups)
    job.sums, job.eta, job.corrections = (t.data_ptr() for t in (sums, eta, corrections))
    (job.beta1, job.beta2), job.eps = betas, eps
    tables.place(job, addresses)
    other = next((grad.dtype for grad in grads if grad is not None), thetas[0].dtype)
    worker(_make_step, thetas[0].dtype, other)(job, team_size(tables.size))
    write_copies_(thetas, copies)
    return sums
