"""The products of `cpu_loops.py`, tile by tile, and the transposition between them.

Strides called `line` are in bytes, others in elements.
"""

import numba

from ..numba_runtime.elements import OPTIONS
from .cpu_vectors import ROWS, product, transpose


@numba.njit(**OPTIONS)
def forward(like, theta, stride, num_inputs, outputs, a, y, line, count):
    """y[o, b] = sum over i of theta[o, i] a[i, b]."""
    size = like.itemsize
    for c in range(0, count * size, 64):
        for o in range(0, outputs, ROWS):
            product(
                like, theta + o * stride * size, stride * size, size,
                a + c, line, num_inputs, y + o * line + c, line,
            )  # fmt: skip


@numba.njit(**OPTIONS)
def back(like, theta, stride, width, g, d, line, count):
    """d[i, b] = sum over o of theta[o, i] g[o, b]."""
    size = like.itemsize
    for c in range(0, count * size, 64):
        for i in range(0, stride, ROWS):
            product(
                like, theta + i * size, size, stride * size,
                g + c, line, width, d + i * line + c, line,
            )  # fmt: skip


@numba.njit(**OPTIONS)
def gradient(like, g, line, count, a, stride, outputs, grad):
    """grad[o, i] = sum over b of g[o, b] a[b, i]."""
    size = like.itemsize
    for o in range(0, outputs, ROWS):
        for i in range(0, stride * size, 64):
            product(
                like, g + o * line, line, size,
                a + i, stride * size, count, grad + o * stride * size + i, stride * size,
            )  # fmt: skip


@numba.njit(**OPTIONS)
def turn(like, source, columns, target, stride, rows):
    """Transpose (rows, columns) to (columns, rows), in squares of vectors."""
    size = like.itemsize
    lanes = 64 // size
    for r in range(0, rows, lanes):
        for c in range(0, columns, lanes):
            transpose(
                like, source + (r * columns + c) * size, columns * size,
                target + (c * stride + r) * size, stride * size,
            )  # fmt: skip
