"""Vector code of `cpu_loops.py`: products of small matrices, a transposition, exp and log.

Written as LLVM's instructions, so that a tile's sums stay in registers. All arguments but `like`
and vectors are int64: addresses, and strides in bytes.
"""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..numba_runtime.elements import intrinsic
from ..numba_runtime.vectors import INT32, Vector, splatted, vector_of

ROWS = 8
"""Rows of a tile: as many sums as a core's multiplications need to run without a pause."""

_INT64 = ir.IntType(64)
_CONTRACT = ("contract",)
_EXP_TERMS = {types.float32: 8, types.float64: 14}
_LOG_TERMS = {types.float32: 8, types.float64: 18}
_LEAST = {types.float32: -87.0, types.float64: -708.0}
_LN2 = {
    # The first part has zeros at its end, so that its products with whole numbers are exact.
    types.float32: (0.693359375, math.log(2) - 0.693359375),
    types.float64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}


@intrinsic
def broadcast(_, like, address):
    """A vector of the one number at an address."""
    vector = vector_of(like)

    def codegen(context, builder, signature, arguments):
        return _broadcast(builder, vector, arguments[1])

    return vector(like, types.int64), codegen


@intrinsic
def product(_, like, left, row, step, right, line, count, out, out_line):
    """Write the first of out = left @ right: `ROWS` rows of one vector, of `count` terms each.

    left[r, k] is at left + r * row + k * step, the vector right[k] at right + k * line.
    """
    vector = vector_of(like)

    def codegen(context, builder, signature, arguments):
        _, left, row, step, right, line, count, out, out_line = arguments
        rows = [builder.add(left, builder.mul(row, _INT64(r))) for r in range(ROWS)]
        before = builder.block
        body, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(body)
        builder.position_at_end(body)
        names = (_INT64, _INT64, _INT64, *(vector.ir,) * ROWS)
        phis = [builder.phi(kind) for kind in names]
        k, across, down, *sums = phis
        column = _load(builder, vector, builder.add(right, down))
        entries = (_broadcast(builder, vector, builder.add(start, across)) for start in rows)
        terms = (builder.fmul(entry, column, flags=_CONTRACT) for entry in entries)
        sums = [
            builder.fadd(total, term, flags=_CONTRACT)
            for total, term in zip(sums, terms, strict=True)
        ]
        following = [
            builder.add(k, _INT64(1)), builder.add(across, step), builder.add(down, line), *sums
        ]  # fmt: skip
        for phi, value in zip(phis, following, strict=True):
            phi.add_incoming(ir.Constant(phi.type, None), before)
            phi.add_incoming(value, body)
        builder.cbranch(builder.icmp_signed("<", following[0], count), body, after)
        builder.position_at_end(after)
        for r, value in enumerate(sums):
            _store(builder, vector, builder.add(out, builder.mul(out_line, _INT64(r))), value)
        return context.get_dummy_value()

    return types.none(like, *(types.int64,) * 8), codegen


@intrinsic
def transpose(_, like, source, line, target, target_line):
    """Write the transpose of a square of vectors."""
    vector = vector_of(like)
    lanes = vector.lanes

    def codegen(context, builder, signature, arguments):
        _, source, line, target, target_line = arguments
        rows = [
            _load(builder, vector, builder.add(source, builder.mul(line, _INT64(r))))
            for r in range(lanes)
        ]
        width = 1
        while width < lanes:
            # Squares of `width` on the diagonal stay, those beside it change places.
            upper = [i if not i & width else i + lanes - width for i in range(lanes)]
            lower = [i + width if not i & width else i + lanes for i in range(lanes)]
            for r in (r for r in range(lanes) if not r & width):
                pair = rows[r], rows[r + width]
                rows[r], rows[r + width] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(INT32, lanes), mask))
                    for mask in (upper, lower)
                )
            width *= 2
        for r, value in enumerate(rows):
            _store(builder, vector, builder.add(target, builder.mul(target_line, _INT64(r))), value)
        return context.get_dummy_value()

    return types.none(like, *(types.int64,) * 4), codegen


@intrinsic
def exp_negative(_, value):
    """exp of numbers that are not positive; below the least normal number, and of NaN, that."""

    def codegen(context, builder, signature, arguments):
        kind = value.number
        least = _constant(value, _LEAST[kind])
        x = builder.select(builder.fcmp_ordered(">", arguments[0], least), arguments[0], least)
        # x = whole * ln 2 + rest
        name = f"llvm.rint.v{value.lanes}{value.ir.element.intrinsic_name}"
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(value.ir, [value.ir]), name
        )
        whole = builder.call(rint, [builder.fmul(x, _constant(value, 1 / math.log(2)))])
        rest = x
        for part in _LN2[kind]:
            rest = _multiply_add(builder, whole, _constant(value, -part), rest)
        terms = [1 / math.factorial(n) for n in range(_EXP_TERMS[kind])]
        power = _polynomial(builder, value, terms, rest)
        # 2 ** whole, by its bits.
        bits, bias, shift = (32, 127, 23) if kind == types.float32 else (64, 1023, 52)
        integers = ir.VectorType(ir.IntType(bits), value.lanes)
        exponent = builder.fptosi(whole, integers)
        exponent = builder.add(exponent, ir.Constant(integers, [bias] * value.lanes))
        exponent = builder.shl(exponent, ir.Constant(integers, [shift] * value.lanes))
        return builder.fmul(power, builder.bitcast(exponent, value.ir))

    return value(value), codegen


@intrinsic
def log1p_unit(_, value):
    """log(1 + x) of numbers in [0, 1]: 2 artanh(x / (2 + x))."""

    def codegen(context, builder, signature, arguments):
        (x,) = arguments
        s = builder.fdiv(x, builder.fadd(x, _constant(value, 2.0)))
        terms = [2 / (2 * n + 1) for n in range(_LOG_TERMS[value.number])]
        series = _polynomial(builder, value, terms, builder.fmul(s, s))
        return builder.fmul(series, s)

    return value(value), codegen


def _polynomial(builder: ir.IRBuilder, vector: Vector, terms: list[float], x: Any) -> Any:
    result = _constant(vector, terms[-1])
    for term in reversed(terms[:-1]):
        result = _multiply_add(builder, result, x, _constant(vector, term))
    return result


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


def _constant(vector: Vector, number: float) -> ir.Constant:
    return ir.Constant(vector.ir, [number] * vector.lanes)


def _broadcast(builder: ir.IRBuilder, vector: Vector, address: Any) -> Any:
    number = vector.ir.element
    where = builder.inttoptr(address, number.as_pointer())
    value = builder.load(where, align=vector.number.bitwidth // 8)
    return splatted(builder, value, vector.lanes)


def _load(builder: ir.IRBuilder, vector: Vector, address: Any) -> Any:
    where = builder.inttoptr(address, vector.ir.as_pointer())
    return builder.load(where, align=vector.number.bitwidth // 8)


def _store(builder: ir.IRBuilder, vector: Vector, address: Any, value: Any) -> None:
    where = builder.inttoptr(address, vector.ir.as_pointer())
    builder.store(value, where, align=vector.number.bitwidth // 8)
