"""Moves of a row that sum it on the way, in one loop of vectors: memory is waited for once.

Sums are fp64 in every lane, and have no range to leave. What is moved are the numbers of
`combine` and `accelerate` in `rows.py`, bit for bit.
"""

import numba

from ...numba_runtime.elements import INLINE, OPTIONS, fits, span
from ...numba_runtime.vector_math import prefetch, total, widen
from ...numba_runtime.vectors import (
    load,
    load_as,
    load_part,
    load_part_as,
    splat,
    store,
    store_part,
)
from .rows import accelerate, combine, sum_row

AHEAD = 2048
"""Bytes before which memory is asked for: by themselves caches look ahead within a page."""


@numba.njit(**OPTIONS)
def sum_and_combine(a_theta, a_grad, like, like_grad, row, keep, eta):
    """`sum_row` and `combine` of one row."""
    if not (fits(keep) and fits(eta)):
        sums = sum_row(a_theta, a_grad, like, like_grad, row)
        combine(a_theta, a_grad, like, like_grad, row, keep, eta)
        return sums
    a, b, zero = splat(like, keep), splat(like, eta), splat(like, 0.0)
    lanes = lanes_of(like)
    sums = widen(zero), widen(zero), widen(zero)
    element = row[2]
    while element < row[3]:
        offset, count = span(row, element)
        p_theta, p_grad = a_theta + offset * like.itemsize, a_grad + offset * like_grad.itemsize
        for _ in range(count // lanes):
            prefetch(p_theta + AHEAD)
            prefetch(p_grad + AHEAD)
            t, g = load(like, p_theta), load_as(like, like_grad, p_grad)
            store(like, p_theta, a * t - b * g)
            sums = products(sums, t, g)
            p_theta += lanes * like.itemsize
            p_grad += lanes * like_grad.itemsize
        rest = count % lanes
        if rest > 0:
            t = load_part(like, p_theta, rest, zero)
            g = load_part_as(like, like_grad, p_grad, rest, zero)
            store_part(like, p_theta, rest, a * t - b * g)
            sums = products(sums, t, g)
        element += count
    return total(sums[0]), total(sums[1]), total(sums[2])


@numba.njit(**OPTIONS)
def sum_and_accelerate(a_theta, a_grad, a_buffer, like, like_grad, row, factors, again):
    """`sum_row` and `accelerate` of one row, and, if asked for, ||theta||^2 `again` afterwards."""
    if not (fits(factors[0]) and fits(factors[1]) and fits(factors[3]) and fits(factors[4])):
        tt, tg, gg = sum_row(a_theta, a_grad, like, like_grad, row)
        accelerate(a_theta, a_grad, a_buffer, like, like_grad, row, factors)
        moved = sum_row(a_theta, a_theta, like, like, row)[0] if again else 0.0
        return tt, tg, gg, moved
    if again:
        return _accelerate_row(a_theta, a_grad, a_buffer, like, like_grad, row, factors, True)
    return _accelerate_row(a_theta, a_grad, a_buffer, like, like_grad, row, factors, False)


@numba.njit(**INLINE)
def _accelerate_row(a_theta, a_grad, a_buffer, like, like_grad, row, factors, again):
    """The same for factors that fit."""
    vectors = (
        splat(like, factors[0]),
        splat(like, factors[1]),
        splat(like, factors[2]),
        splat(like, factors[3]),
        splat(like, factors[4]),
    )
    zero, lanes = splat(like, 0.0), lanes_of(like)
    sums, moved = (widen(zero), widen(zero), widen(zero)), widen(zero)
    element = row[2]
    while element < row[3]:
        offset, count = span(row, element)
        p_theta, p_grad = a_theta + offset * like.itemsize, a_grad + offset * like_grad.itemsize
        p_buffer = a_buffer + offset * like.itemsize
        for _ in range(count // lanes):
            prefetch(p_theta + AHEAD)
            prefetch(p_grad + AHEAD)
            prefetch(p_buffer + AHEAD)
            t, g = load(like, p_theta), load_as(like, like_grad, p_grad)
            new, v = _accelerated(t, g, load(like, p_buffer), vectors)
            store(like, p_buffer, v)
            store(like, p_theta, new)
            sums = products(sums, t, g)
            if again:
                # As it is stored.
                after = widen(load(like, p_theta))
                moved = moved + after * after
            p_theta += lanes * like.itemsize
            p_buffer += lanes * like.itemsize
            p_grad += lanes * like_grad.itemsize
        rest = count % lanes
        if rest > 0:
            t = load_part(like, p_theta, rest, zero)
            g = load_part_as(like, like_grad, p_grad, rest, zero)
            new, v = _accelerated(t, g, load_part(like, p_buffer, rest, zero), vectors)
            store_part(like, p_buffer, rest, v)
            store_part(like, p_theta, rest, new)
            sums = products(sums, t, g)
            if again:
                after = widen(load_part(like, p_theta, rest, zero))
                moved = moved + after * after
        element += count
    return total(sums[0]), total(sums[1]), total(sums[2]), total(moved)


@numba.njit(**INLINE)
def _accelerated(theta, grad, buffer, factors):
    """New parameters and momentum, see `accelerate`."""
    keep, decay, momentum, along, beside = factors
    d = grad + decay * theta
    v = momentum * buffer + d
    return keep * theta - along * d - beside * v, v


@numba.njit(**INLINE)
def products(sums, theta, grad):
    """Sums of theta^2, theta * g and g^2 with those of these vectors."""
    t, g = widen(theta), widen(grad)
    return sums[0] + t * t, sums[1] + t * g, sums[2] + g * g


@numba.njit(**INLINE)
def lanes_of(like):
    """Numbers of a vector."""
    return 64 // max(like.itemsize, 4)
