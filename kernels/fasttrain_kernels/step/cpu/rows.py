"""Loops over consecutive memory: sums of rows, and the ways in which parameters move.

Legend: theta parameters, grad gradients, a_ the address of a tensor. A place is
(row, rows, begin, end, num_rows, run): elements begin to end of some rows of a tensor, see
`layout.py`; of several rows only where they are whole and follow each other in memory.
"""

from typing import Any

import numba
import numpy as np

from ...numba_runtime.elements import (
    INLINE,
    LEAST,
    MOST,
    OPTIONS,
    fits,
    load,
    narrow,
    piece,
    span,
    widen,
)
from ...numba_runtime.vector_math import prefetch

BLOCK = 1024
"""Elements whose sums may be fp32: a vector's lanes share them, some dozen terms each."""

AHEAD = 128
"""Elements before which a block is asked for: while one is added up, caches do not look ahead."""

# Sums may be reordered, and so vectorised; NaN and infinity keep their meaning. Elsewhere the
# compiler would choose another order whenever it is run.
SUMS: dict[str, Any] = {**INLINE, "fastmath": {"reassoc", "contract", "nsz"}}


@numba.njit(**SUMS)
def _sum_block(theta, grad, like):
    """||theta||^2, <theta, g>, ||g||^2 of at most a block, in fp64 if fp32 has not the range."""
    zero = load(like, 0.0)
    theta_theta = theta_grad = grad_grad = zero
    for i in range(len(theta)):
        t = load(like, theta[i])
        g = load(like, grad[i])
        theta_theta += t * t
        theta_grad += t * g
        grad_grad += g * g
    if LEAST < theta_theta < MOST and LEAST < grad_grad < MOST:
        return np.float64(theta_theta), np.float64(theta_grad), np.float64(grad_grad)
    wide_theta = wide_both = wide_grad = 0.0
    for i in range(len(theta)):
        t_wide = widen(theta[i])
        g_wide = widen(grad[i])
        wide_theta += t_wide * t_wide
        wide_both += t_wide * g_wide
        wide_grad += g_wide * g_wide
    return wide_theta, wide_both, wide_grad


@numba.njit(**INLINE)
def sum_row(a_theta, a_grad, like, like_grad, place):
    """||theta||^2, <theta, g>, ||g||^2 of one row of a place."""
    theta_theta = theta_grad = grad_grad = 0.0
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        offset, _ = span(place, element)
        for first in range(0, len(theta), BLOCK):
            ahead = offset + first + AHEAD
            for line in range(0, min(BLOCK, len(theta) - first), 64 // like.itemsize):
                prefetch(a_theta + (ahead + line) * like.itemsize)
                prefetch(a_grad + (ahead + line) * like_grad.itemsize)
            part = _sum_block(theta[first : first + BLOCK], grad[first : first + BLOCK], like)
            theta_theta += part[0]
            theta_grad += part[1]
            grad_grad += part[2]
        element += len(theta)
    return theta_theta, theta_grad, grad_grad


@numba.njit(**INLINE)
def _combine_block(theta, grad, like, keep, eta):
    """theta <- keep * theta - eta * grad."""
    if fits(keep) and fits(eta):
        a, b = load(like, keep), load(like, eta)
        for i in range(len(theta)):
            theta[i] = narrow(like, a * load(like, theta[i]) - b * load(like, grad[i]))
    else:
        for i in range(len(theta)):
            theta[i] = narrow(like, keep * widen(theta[i]) - eta * widen(grad[i]))


@numba.njit(**OPTIONS)
def combine(a_theta, a_grad, like, like_grad, place, keep, eta):
    """theta <- keep * theta - eta * grad on a place."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        _combine_block(theta, grad, like, keep, eta)
        element += len(theta)


@numba.njit(**INLINE)
def _accelerate_block(theta, grad, buffer, like, factors):
    """See `accelerate`."""
    keep, decay, momentum, along, beside = factors
    if fits(keep) and fits(decay) and fits(along) and fits(beside):
        k, w, m = load(like, keep), load(like, decay), load(like, momentum)
        a, b = load(like, along), load(like, beside)
        for i in range(len(theta)):
            t = load(like, theta[i])
            d = load(like, grad[i]) + w * t
            v = m * load(like, buffer[i]) + d
            buffer[i] = narrow(like, v)
            theta[i] = narrow(like, k * t - a * d - b * v)
    else:
        for i in range(len(theta)):
            t_wide = widen(theta[i])
            d_wide = widen(grad[i]) + decay * t_wide
            v_wide = momentum * widen(buffer[i]) + d_wide
            buffer[i] = narrow(like, v_wide)
            theta[i] = narrow(like, keep * t_wide - along * d_wide - beside * v_wide)


@numba.njit(**OPTIONS)
def accelerate(a_theta, a_grad, a_buffer, like, like_grad, place, factors):
    """Move a place and its momentum buffer.

    d = g + decay * theta; v <- momentum * v + d; theta <- keep * theta - along * d - beside * v.
    """
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        buffer = piece(a_buffer, like, place, element)
        _accelerate_block(theta, grad, buffer, like, factors)
        element += len(theta)


@numba.njit(**OPTIONS)
def scale(a_theta, like, place, factor):
    """Multiply a place."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        if fits(factor):
            a = load(like, factor)
            for i in range(len(theta)):
                theta[i] = narrow(like, a * load(like, theta[i]))
        else:
            for i in range(len(theta)):
                theta[i] = narrow(like, factor * widen(theta[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def write(a_theta, a_output, like, like_output, place, factor):
    """Write a place, multiplied, elsewhere: what may not overlap is vectorised."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        output = piece(a_output, like_output, place, element)
        for i in range(len(theta)):
            output[i] = narrow(like_output, factor * widen(theta[i]))
        element += len(theta)


@numba.njit(**INLINE)
def row_of(place, i):
    """One row of a place."""
    return place[0] + i, 1, place[2], place[3], place[4], place[5]
