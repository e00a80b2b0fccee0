"""The loops of `cpu.py`, compiled by numba: chunks of elements, added up in order.

One file, since numba's cache on disk notices changes of a function's own file only. bf16 elements
are uint16. Arguments named `a_` are addresses, `p_` arrays of them, one per tensor; `like` is an
array without elements that gives the stored type.
"""

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

BLOCK = 1024
"""Elements whose sums may be fp32: a vector's lanes share them, some dozen terms each."""

LEAST, MOST = 1e-25, 1e25
"""Where fp32 sums of squares, and factors, are safe from its range; elsewhere fp64 is used."""

# Sums may be reordered (and so vectorised), but NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": FAST}

# Only `prange` runs in threads: numba would spread every little array operation too.
ONLY_PRANGE = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
PARALLEL: dict[str, Any] = {**OPTIONS, "parallel": {**ONLY_PRANGE, "prange": True}}

EXACT, DEFERRED, PER_GROUP, PLAIN = range(4)


@intrinsic
def _pointer(_, address):
    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


def _bitcast(source, target):
    @intrinsic
    def cast(_, value):
        def codegen(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return cast


_float_of_bits = _bitcast(types.uint32, types.float32)
_bits_of_float = _bitcast(types.float32, types.uint32)


def _widen(stored):
    """A stored element as fp64."""
    raise NotImplementedError


@overload(_widen)
def _overload_widen(stored):
    if stored == types.uint16:
        return lambda stored: np.float64(
            _float_of_bits(np.uint32(stored) << np.uint32(16))  # type: ignore
        )
    return lambda stored: np.float64(stored)


def _load(like, stored):
    """A number or stored element in the type to compute in: fp64 for fp64 elements, else fp32."""
    raise NotImplementedError


@overload(_load)
def _overload_load(like, stored):
    if like.dtype == types.float64:
        return lambda like, stored: _widen(stored)
    if stored == types.uint16:
        return lambda like, stored: _float_of_bits(  # type: ignore
            np.uint32(stored) << np.uint32(16)
        )
    return lambda like, stored: np.float32(stored)


def _narrow(like, value):
    """A value as an element of `like`, rounded to the nearest, ties to even."""
    raise NotImplementedError


@overload(_narrow)
def _overload_narrow(like, value):
    if like.dtype == types.uint16:

        def to_bf16(like, value):
            bits = _bits_of_float(np.float32(value))  # type: ignore
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> (
                np.uint32(16)
            )
            is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            return np.uint16(0x7FC0) if is_nan else np.uint16(rounded)

        return to_bf16
    if like.dtype == types.float32:
        return lambda like, value: np.float32(value)
    return lambda like, value: value


@numba.njit(**OPTIONS)
def _piece(address, like, row, element, end, num_rows, run):
    """The elements from `element` to the end of the row or of its run, whichever is nearer."""
    run_index = element // run
    inside = element - run_index * run
    count = min(run - inside, end - element)
    offset = run_index * run * num_rows + row * run + inside
    pointer = _pointer(address + offset * like.itemsize)  # type: ignore
    return numba.carray(pointer, (count,), like.dtype)  # type: ignore


@numba.njit(**OPTIONS)
def _fits(value):
    """Whether fp32 holds a factor without losing digits to its range."""
    return value == 0.0 or LEAST < abs(value) < MOST


@numba.njit(**OPTIONS)
def _sums(theta, grad, like):
    """||theta||^2, <theta, g>, ||g||^2 of at most a block, in fp64 if fp32 has not the range."""
    zero = _load(like, 0.0)
    theta_theta = theta_grad = grad_grad = zero
    for i in range(len(theta)):
        t = _load(like, theta[i])
        g = _load(like, grad[i])
        theta_theta += t * t
        theta_grad += t * g
        grad_grad += g * g
    if LEAST < theta_theta < MOST and LEAST < grad_grad < MOST:
        return np.float64(theta_theta), np.float64(theta_grad), np.float64(grad_grad)
    wide_theta = wide_both = wide_grad = 0.0
    for i in range(len(theta)):
        t_wide = _widen(theta[i])
        g_wide = _widen(grad[i])
        wide_theta += t_wide * t_wide
        wide_both += t_wide * g_wide
        wide_grad += g_wide * g_wide
    return wide_theta, wide_both, wide_grad


@numba.njit(**OPTIONS)
def _combine(theta, grad, like, keep, eta):
    """theta <- keep * theta - eta * grad."""
    if _fits(keep) and _fits(eta):
        a, b = _load(like, keep), _load(like, eta)
        for i in range(len(theta)):
            theta[i] = _narrow(like, a * _load(like, theta[i]) - b * _load(like, grad[i]))
    else:
        for i in range(len(theta)):
            theta[i] = _narrow(like, keep * _widen(theta[i]) - eta * _widen(grad[i]))


@numba.njit(**OPTIONS)
def _advance(
    a_theta, a_grad, like, like_grad, row, begin, end, num_rows, run, scale, eta, weight_decay
):
    """Move one chunk; ||theta||^2, <theta, g>, ||g||^2 before, and ||theta||^2 after."""
    theta_theta = theta_grad = grad_grad = 0.0
    # What is left of theta, rounded as it will be applied.
    keep = scale * (1.0 - eta * weight_decay)
    if _fits(keep) and _fits(eta):
        keep, eta = np.float64(_load(like, keep)), np.float64(_load(like, eta))
    element = begin
    while element < end:
        theta = _piece(a_theta, like, row, element, end, num_rows, run)
        grad = _piece(a_grad, like_grad, row, element, end, num_rows, run)
        # A block stays in the first-level cache between the two loops.
        for first in range(0, len(theta), BLOCK):
            t, g = theta[first : first + BLOCK], grad[first : first + BLOCK]
            sums = _sums(t, g, like)
            theta_theta += sums[0]
            theta_grad += sums[1]
            grad_grad += sums[2]
            _combine(t, g, like, keep, eta)
        element += len(theta)
    moved = keep * keep * theta_theta - 2 * keep * eta * theta_grad + eta * eta * grad_grad
    return scale * scale * theta_theta, scale * theta_grad, grad_grad, moved


@numba.njit(**OPTIONS)
def _advance_with_momentum(
    a_theta, a_grad, a_buffer, like, like_grad, row, begin, end, num_rows, run,
    scale, eta, momentum, nesterov, weight_decay,
):  # fmt: skip
    """The same with a momentum buffer, which is moved too."""
    theta_theta = theta_grad = grad_grad = moved = 0.0
    # The step is eta * (along * direction + beside * velocity).
    along = 1.0 if nesterov else 0.0
    beside = momentum if nesterov else 1.0
    element = begin
    while element < end:
        theta = _piece(a_theta, like, row, element, end, num_rows, run)
        grad = _piece(a_grad, like_grad, row, element, end, num_rows, run)
        buffer = _piece(a_buffer, like, row, element, end, num_rows, run)
        for i in range(len(theta)):
            t = scale * _widen(theta[i])
            g = _widen(grad[i])
            d = g + weight_decay * t
            v = momentum * _widen(buffer[i]) + d
            new = t - eta * (along * d + beside * v)
            buffer[i] = _narrow(like, v)
            theta[i] = _narrow(like, new)
            theta_theta += t * t
            theta_grad += t * g
            grad_grad += g * g
            moved += new * new
        element += len(theta)
    return theta_theta, theta_grad, grad_grad, moved


@numba.njit(**OPTIONS)
def _scale_chunk(a_theta, like, row, begin, end, num_rows, run, factor):
    """Multiply one chunk in place."""
    element = begin
    while element < end:
        theta = _piece(a_theta, like, row, element, end, num_rows, run)
        if _fits(factor):
            narrow = _load(like, factor)
            for i in range(len(theta)):
                theta[i] = _narrow(like, narrow * _load(like, theta[i]))
        else:
            for i in range(len(theta)):
                theta[i] = _narrow(like, factor * _widen(theta[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def _write_chunk(a_theta, a_output, like, like_output, row, begin, end, num_rows, run, factor):
    """Write one chunk, multiplied, elsewhere: what may not overlap is vectorised."""
    element = begin
    while element < end:
        theta = _piece(a_theta, like, row, element, end, num_rows, run)
        output = _piece(a_output, like_output, row, element, end, num_rows, run)
        for i in range(len(theta)):
            output[i] = _narrow(like_output, factor * _widen(theta[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def _sum_chunk(a_theta, a_grad, like, like_grad, row, begin, end, num_rows, run):
    theta_theta = theta_grad = grad_grad = 0.0
    element = begin
    while element < end:
        theta = _piece(a_theta, like, row, element, end, num_rows, run)
        grad = _piece(a_grad, like_grad, row, element, end, num_rows, run)
        for first in range(0, len(theta), BLOCK):
            sums = _sums(theta[first : first + BLOCK], grad[first : first + BLOCK], like)
            theta_theta += sums[0]
            theta_grad += sums[1]
            grad_grad += sums[2]
        element += len(theta)
    return theta_theta, theta_grad, grad_grad


@numba.njit(**OPTIONS)
def _finish(mode, parts, first_chunk_of_group, model_of_group, radius, scale, factor, sums):
    """Add up the chunks; new `scale`, or the `factor` of groups that the first pass left."""
    moved = np.zeros(len(scale))
    any_left = mode == EXACT
    for group in range(len(factor)):
        first, last = first_chunk_of_group[group], first_chunk_of_group[group + 1]
        theta_theta = theta_grad = grad_grad = after = 0.0
        for c in range(first, last):
            theta_theta += parts[c, 0]
            theta_grad += parts[c, 1]
            grad_grad += parts[c, 2]
            after += parts[c, 3]
        sums[0, group], sums[1, group], sums[2, group] = theta_theta, theta_grad, grad_grad
        moved[model_of_group[group]] += after
        if mode == PER_GROUP and last - first > 1:
            factor[group] = radius[group] / np.sqrt(after)
            any_left = True
    if mode == EXACT:
        for group in range(len(factor)):
            model = model_of_group[group]
            factor[group] = radius[model] / np.sqrt(moved[model])
    if mode == DEFERRED:
        for model in range(len(scale)):
            scale[model] = radius[model] / np.sqrt(moved[model])
    return any_left


@numba.njit(**PARALLEL)
def step_kernel(
    mode, p_theta, p_grad, p_buffer, like, like_grad,
    chunks, spans, group_of_chunk, first_chunk_of_group, model_of_group, num_rows, run,
    eta, radius, scale, has_buffer, momentum, nesterov, weight_decay, sums,
):  # fmt: skip
    parts = np.empty((len(chunks), 4))
    factor = np.empty(len(first_chunk_of_group) - 1)
    for span in numba.prange(len(spans) - 1):
        for c in range(spans[span], spans[span + 1]):
            tensor, row, begin, end = chunks[c]
            group = group_of_chunk[c]
            model = model_of_group[group]
            rate = eta[group] if mode == PER_GROUP else eta[model]
            if has_buffer:
                parts[c] = _advance_with_momentum(
                    p_theta[tensor], p_grad[tensor], p_buffer[tensor], like, like_grad,
                    row, begin, end, num_rows[tensor], run[tensor],
                    scale[model], rate, momentum, nesterov, weight_decay,
                )  # fmt: skip
            else:
                parts[c] = _advance(
                    p_theta[tensor], p_grad[tensor], like, like_grad,
                    row, begin, end, num_rows[tensor], run[tensor],
                    scale[model], rate, weight_decay,
                )  # fmt: skip
            alone = first_chunk_of_group[group + 1] - first_chunk_of_group[group] == 1
            if mode == PER_GROUP and alone:
                # The group is still in the cache: writing it again moves no memory.
                _scale_chunk(
                    p_theta[tensor], like, row, begin, end, num_rows[tensor], run[tensor],
                    radius[group] / np.sqrt(parts[c, 3]),
                )  # fmt: skip
    any_left = _finish(
        mode, parts, first_chunk_of_group, model_of_group, radius, scale, factor, sums
    )
    if any_left:
        for span in numba.prange(len(spans) - 1):
            for c in range(spans[span], spans[span + 1]):
                group = group_of_chunk[c]
                alone = first_chunk_of_group[group + 1] - first_chunk_of_group[group] == 1
                if mode == EXACT or not alone:
                    tensor, row, begin, end = chunks[c]
                    _scale_chunk(
                        p_theta[tensor], like, row, begin, end, num_rows[tensor], run[tensor],
                        factor[group],
                    )  # fmt: skip


@numba.njit(**PARALLEL)
def sums_kernel(
    p_theta, p_grad, like, like_grad,
    chunks, spans, group_of_chunk, first_chunk_of_group, model_of_group, num_rows, run,
    sums,
):  # fmt: skip
    parts = np.empty((len(chunks), 3))
    for span in numba.prange(len(spans) - 1):
        for c in range(spans[span], spans[span + 1]):
            tensor, row, begin, end = chunks[c]
            parts[c] = _sum_chunk(
                p_theta[tensor], p_grad[tensor], like, like_grad, row, begin, end,
                num_rows[tensor], run[tensor],
            )  # fmt: skip
    for c in range(len(chunks)):
        for k in range(3):
            sums[k, group_of_chunk[c]] += parts[c, k]


@numba.njit(**PARALLEL)
def scale_kernel(
    p_theta, p_output, like, like_output,
    chunks, spans, group_of_chunk, first_chunk_of_group, model_of_group, num_rows, run,
    factor,
):  # fmt: skip
    for span in numba.prange(len(spans) - 1):
        for c in range(spans[span], spans[span + 1]):
            tensor, row, begin, end = chunks[c]
            if p_theta[tensor] == p_output[tensor]:
                _scale_chunk(
                    p_theta[tensor], like, row, begin, end, num_rows[tensor], run[tensor],
                    factor[group_of_chunk[c]],
                )  # fmt: skip
            else:
                _write_chunk(
                    p_theta[tensor], p_output[tensor], like, like_output, row, begin, end,
                    num_rows[tensor], run[tensor], factor[group_of_chunk[c]],
                )  # fmt: skip
