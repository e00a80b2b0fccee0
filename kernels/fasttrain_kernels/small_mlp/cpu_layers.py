"""Layer norm, ReLU and the step of `cpu_loops.py`, whose legend is theirs.

Arguments but `like` and plain numbers are addresses; `line` is the bytes from one feature's samples
to the next feature's.
"""

import numba
import numpy as np

from ..numba_runtime.elements import INLINE, LEAST, MOST, OPTIONS
from ..numba_runtime.vector_math import root, total, where_greater, widen
from ..numba_runtime.vectors import load, splat, store
from .cpu_vectors import broadcast


@numba.njit(**INLINE)
def _sum(like, first, line, count):
    """Sum of `count` vectors, in four sums."""
    s0 = s1 = s2 = s3 = splat(like, 0.0)
    whole = count - count % 4
    for f in range(0, whole, 4):
        at = first + f * line
        s0, s1 = s0 + load(like, at), s1 + load(like, at + line)
        s2, s3 = s2 + load(like, at + 2 * line), s3 + load(like, at + 3 * line)
    for f in range(whole, count):
        s0 = s0 + load(like, first + f * line)
    return (s0 + s1) + (s2 + s3)


@numba.njit(**INLINE)
def _sum_squares(like, first, line, count, mean):
    """The same of squared deviations."""
    s0 = s1 = s2 = s3 = splat(like, 0.0)
    whole = count - count % 4
    for f in range(0, whole, 4):
        at = first + f * line
        x0, x1 = load(like, at) - mean, load(like, at + line) - mean
        x2, x3 = load(like, at + 2 * line) - mean, load(like, at + 3 * line) - mean
        s0, s1, s2, s3 = s0 + x0 * x0, s1 + x1 * x1, s2 + x2 * x2, s3 + x3 * x3
    for f in range(whole, count):
        x0 = load(like, first + f * line) - mean
        s0 = s0 + x0 * x0
    return (s0 + s1) + (s2 + s3)


@numba.njit(**OPTIONS)
def normalise(like, width, line, eps, y, a, scale):
    """Layer norm in place, and ReLU, of one vector of samples."""
    zero, share = splat(like, 0.0), splat(like, 1.0 / width)
    mean = _sum(like, y, line, width) * share
    variance = _sum_squares(like, y, line, width, mean) * share
    inverse = splat(like, 1.0) / root(variance + splat(like, eps))
    store(like, scale, inverse)
    for f in range(0, width * line, line):
        x = (load(like, y + f) - mean) * inverse
        store(like, y + f, x)
        # NaN stays.
        store(like, a + f, where_greater(zero, x, zero, x))


@numba.njit(**OPTIONS)
def unnormalise(like, width, line, x, scale, d, g):
    """The gradient of a product from that of its layer's output, `d`, which is overwritten."""
    zero, share = splat(like, 0.0), splat(like, 1.0 / width)
    s0 = s1 = t0 = t1 = zero
    for f in range(0, (width - width % 2) * line, 2 * line):
        x0, x1 = load(like, x + f), load(like, x + f + line)
        d0 = where_greater(x0, zero, load(like, d + f), zero)
        d1 = where_greater(x1, zero, load(like, d + f + line), zero)
        store(like, d + f, d0)
        store(like, d + f + line, d1)
        s0, s1, t0, t1 = s0 + d0, s1 + d1, t0 + d0 * x0, t1 + d1 * x1
    if width % 2 == 1:
        f = (width - 1) * line
        x0 = load(like, x + f)
        d0 = where_greater(x0, zero, load(like, d + f), zero)
        store(like, d + f, d0)
        s0, t0 = s0 + d0, t0 + d0 * x0
    mean, along, inverse = (s0 + s1) * share, (t0 + t1) * share, load(like, scale)
    for f in range(0, width * line, line):
        centred = load(like, d + f) - mean
        store(like, g + f, (centred - load(like, x + f) * along) * inverse)


@numba.njit(**INLINE)
def spread(like, width, line, head, losses, d):
    """The gradient of the last layer's output from those of the logits."""
    of_logit = load(like, losses)
    for f in range(width):
        store(like, d + f * line, broadcast(like, head + f * like.itemsize) * of_logit)


@numba.njit(**OPTIONS)
def move(like, theta, grad, size, eta):
    """Move weights; sums of their squares before, of the gradient's, and of theirs after."""
    rate = splat(like, eta)
    t0 = t1 = g0 = g1 = m0 = m1 = splat(like, 0.0)
    for v in range(0, size, 128):
        a, b = load(like, theta + v), load(like, theta + v + 64)
        p, q = load(like, grad + v), load(like, grad + v + 64)
        t0, t1, g0, g1 = t0 + a * a, t1 + b * b, g0 + p * p, g1 + q * q
        a, b = a - rate * p, b - rate * q
        store(like, theta + v, a)
        store(like, theta + v + 64, b)
        m0, m1 = m0 + a * a, m1 + b * b
    grads, moved = np.float64(total(g0 + g1)), np.float64(total(m0 + m1))
    # Where fp32 has not the range.
    if not LEAST < grads < MOST:
        grads = _squares(like, grad, size)
    if not LEAST < moved < MOST:
        moved = _squares(like, theta, size)
    return np.float64(total(t0 + t1)), grads, moved


@numba.njit(**OPTIONS)
def _squares(like, first, size):
    """Sum of squares in fp64."""
    s = widen(splat(like, 0.0))
    for v in range(0, size, 64):
        value = widen(load(like, first + v))
        s = s + value * value
    return total(s)


@numba.njit(**INLINE)
def project(like, theta, size, factor):
    scale = splat(like, factor)
    for v in range(0, size, 64):
        store(like, theta + v, load(like, theta + v) * scale)
