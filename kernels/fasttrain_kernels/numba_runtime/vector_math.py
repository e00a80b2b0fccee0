"""Arithmetic of the vectors of `vectors.py`, their sums, and choices between them."""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .elements import intrinsic
from .vectors import INT32, Vector, to_numbers


@intrinsic
def widen(_, value):
    """The numbers of a vector as fp64."""
    wide = Vector(types.float64, value.lanes)

    def codegen(context, builder, signature, arguments):
        return to_numbers(builder, arguments[0], wide)

    return wide(value), codegen


@intrinsic
def root(_, value):
    """Square roots."""

    def codegen(context, builder, signature, arguments):
        name = f"llvm.sqrt.v{value.lanes}{value.ir.element.intrinsic_name}"
        function = ir.FunctionType(value.ir, [value.ir])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, function, name), arguments
        )

    return value(value), codegen


@intrinsic
def total(_, value):
    """Sum of a vector's numbers, halves upon halves."""

    def codegen(context, builder, signature, arguments):
        (number,) = arguments
        lanes = value.lanes
        while lanes > 1:
            lanes //= 2
            halves = (
                builder.shuffle_vector(
                    number,
                    ir.Constant(number.type, ir.Undefined),
                    ir.Constant(ir.VectorType(INT32, lanes), [*range(first, first + lanes)]),
                )
                for first in (0, lanes)
            )
            number = builder.fadd(*halves)
        return builder.extract_element(number, ir.Constant(INT32, 0))

    return value.number(value), codegen


@intrinsic
def prefetch(_, address):
    """Ask for the line of an address, which need not be anyone's, in the first-level cache."""
    kind = ir.IntType(8).as_pointer()

    def codegen(context, builder, signature, arguments):
        function = ir.FunctionType(ir.VoidType(), [kind, INT32, INT32, INT32])
        # To read, to be kept, data.
        hints = [ir.Constant(INT32, hint) for hint in (0, 3, 1)]
        where = builder.inttoptr(arguments[0], kind)
        name = "llvm.prefetch.p0"
        builder.call(
            cgutils.get_or_insert_function(builder.module, function, name), [where, *hints]
        )
        return context.get_dummy_value()

    return types.none(types.int64), codegen


def _arithmetic(operation: Any, name: str) -> None:
    @intrinsic
    def compute(_, a, b):
        def codegen(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments, flags=("contract",))

        return a(a, b), codegen

    @overload(operation)
    def _overload(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: compute(a, b)
        return None


for _operation, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operation, _name)


def _choice(comparison: str) -> Any:
    @intrinsic
    def choose(_, a, b, yes, no):
        def codegen(context, builder, signature, arguments):
            a, b, yes, no = arguments
            return builder.select(builder.fcmp_ordered(comparison, a, b), yes, no)

        return yes(a, b, yes, no), codegen

    return choose


where_greater = _choice(">")
"""`yes` where a > b, else `no`; NaN is not greater."""
where_equal = _choice("==")
"""`yes` where a == b, else `no`."""
