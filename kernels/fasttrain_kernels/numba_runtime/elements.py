"""Stored elements and raw memory inside numba's loops.

An element is fp64, fp32, or bf16 as its bits, uint16. `like` is an array without elements that
gives the stored type. Addresses are int64.
"""

from typing import Any

import numba
import numpy as np
from numba import extending, types
from numba.core import cgutils
from numba.extending import overload

# A function with BASE takes over its caller's fastmath: one in which every operation is to round by
# itself, as in torch, sets that to False.
# Parts are called by other parts alone: without the entries for Python and C, which hold the code
# of a part once more each, a fifth less is compiled.
BASE: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
OPTIONS: dict[str, Any] = {**BASE, "fastmath": {"contract"}}
# What takes `like` becomes part of its caller: constants make loops straight, and without arrays
# that somebody might own no references are counted in them.
INLINE: dict[str, Any] = {**OPTIONS, "forceinline": True}

INT32, INT64, FP32, FP64 = (np.empty(0, t) for t in (np.int32, np.int64, np.float32, np.float64))

LEAST, MOST = 1e-25, 1e25
"""Where fp32 sums of squares, and factors, are safe from its range; elsewhere fp64 is used."""


def intrinsic(function: Any) -> Any:
    """numba's decorator: the first argument, the typing context, is not the caller's."""
    return extending.intrinsic(function)


@intrinsic
def _pointer(_, address):
    """An address as a pointer, for `numba.carray`."""

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


def widen(stored):
    """A stored element as fp64."""
    raise NotImplementedError


@overload(widen)
def _overload_widen(stored):
    if stored == types.uint16:
        return lambda stored: np.float64(_float_of_bits(np.uint32(stored) << np.uint32(16)))
    return lambda stored: np.float64(stored)


def load(like, stored):
    """A number or stored element in the type to compute in: fp64 for fp64 elements, else fp32."""
    raise NotImplementedError


@overload(load)
def _overload_load(like, stored):
    if like.dtype == types.float64:
        return lambda like, stored: widen(stored)
    if stored == types.uint16:
        return lambda like, stored: _float_of_bits(np.uint32(stored) << np.uint32(16))
    return lambda like, stored: np.float32(stored)


def narrow(like, value):
    """A value as an element of `like`, rounded to the nearest, ties to even."""
    raise NotImplementedError


@overload(narrow)
def _overload_narrow(like, value):
    if like.dtype == types.uint16:

        def to_bf16(like, value):
            bits = _bits_of_float(np.float32(value))
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> (
                np.uint32(16)
            )
            is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            return np.uint16(0x7FC0) if is_nan else np.uint16(rounded)

        return to_bf16
    if like.dtype == types.float32:
        return lambda like, value: np.float32(value)
    return lambda like, value: value


@numba.njit(**INLINE)
def fits(value):
    """Whether fp32 holds a factor without losing digits to its range."""
    return value == 0.0 or LEAST < abs(value) < MOST


@numba.njit(**INLINE)
def array(address, shape, like) -> Any:
    """The array at an address."""
    return numba.carray(_pointer(address), shape, like.dtype)  # type: ignore


@numba.njit(**INLINE)
def span(place, element):
    """What of a place is consecutive in memory from one of its elements on: offset and length."""
    row, rows, begin, end, num_rows, run = place
    if end <= run:
        return row * run + element, (rows - 1) * run + end - element
    run_index = element // run
    inside = element - run_index * run
    return run_index * run * num_rows + row * run + inside, min(run - inside, end - element)


@numba.njit(**INLINE)
def piece(address, like, place, element) -> Any:
    """The same as an array."""
    offset, count = span(place, element)
    return array(address + offset * like.itemsize, (count,), like)
