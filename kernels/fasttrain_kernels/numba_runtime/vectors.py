"""Vectors of 64 bytes of numbers inside numba's loops.

Runs of a few channels are too short for LLVM to vectorise by itself: its checks whether arrays
overlap would cost more than the loop; and a loop that also sums it vectorises only if it may
reorder all of its arithmetic. A `Vector` is 16 fp32 or 8 fp64 numbers, or as many as it was widened
from; in memory they may be bf16 as its bits, uint16. `like` is an array without elements that gives
the type to compute in, and the stored type where no other is given; addresses are int64 and need no
alignment.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import register_model

from .elements import intrinsic

_NUMBERS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INT16, INT32 = ir.IntType(16), ir.IntType(32)


class Vector(types.Type):
    """64 bytes of fp32 or fp64, or another number of lanes."""

    def __init__(self, number: types.Float, lanes: int | None = None) -> None:
        self.number = number
        self.lanes = lanes or 512 // number.bitwidth
        self.ir = ir.VectorType(_NUMBERS[number], self.lanes)
        super().__init__(f"Vector({number}, {self.lanes})")


_FP32, _FP64 = Vector(types.float32), Vector(types.float64)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.ir)


def vector_of(like: types.Array) -> Vector:
    """What elements of a stored type are computed in."""
    return _FP64 if like.dtype == types.float64 else _FP32


def _stored(like: types.Array, vector: Vector) -> ir.VectorType:
    """The vector as it lies in memory."""
    narrow = like.dtype == types.uint16
    return ir.VectorType(_INT16 if narrow else _NUMBERS[like.dtype], vector.lanes)


def _size(stored: types.Array) -> int:
    """Bytes of an element."""
    return stored.dtype.bitwidth // 8  # type: ignore[attr-defined]


def splatted(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    kind = ir.VectorType(value.type, lanes)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT32, 0))
    zeros = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), zeros)


def _first(builder: ir.IRBuilder, count: Any, lanes: int) -> Any:
    """Mask of the first `count` lanes."""
    kind = ir.VectorType(count.type, lanes)
    return builder.icmp_signed(
        "<", ir.Constant(kind, [*range(lanes)]), splatted(builder, count, lanes)
    )


def _masked(builder: ir.IRBuilder, name: str, kind: Any, result: Any, arguments: list[Any]) -> Any:
    """Call llvm.masked.load or llvm.masked.store."""
    full = f"llvm.masked.{name}.v{kind.count}{kind.element.intrinsic_name}.p0"
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, full), arguments)


def to_numbers(builder: ir.IRBuilder, value: Any, vector: Vector) -> Any:
    if value.type.element == _INT16:
        bits = ir.VectorType(INT32, vector.lanes)
        wide = builder.shl(builder.zext(value, bits), ir.Constant(bits, [16] * vector.lanes))
        value = builder.bitcast(wide, ir.VectorType(ir.FloatType(), vector.lanes))
    if value.type == vector.ir:
        return value
    wider = vector.number == types.float64
    return builder.fpext(value, vector.ir) if wider else builder.fptrunc(value, vector.ir)


def _to_stored(builder: ir.IRBuilder, value: Any, stored: ir.VectorType) -> Any:
    """Round to the nearest, ties to even; NaN stays NaN."""
    if stored.element != _INT16:
        return value
    kind = ir.VectorType(INT32, stored.count)

    def constant(number: int) -> ir.Constant:
        return ir.Constant(kind, [number] * stored.count)

    bits = builder.bitcast(value, kind)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.lshr(builder.add(builder.add(bits, constant(0x7FFF)), odd), constant(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, constant(0x7FC0), rounded), stored)


@intrinsic
def load(_, like, address):
    """The vector at an address."""
    return _loading(like, like, (like, types.int64))


@intrinsic
def load_as(_, like, stored, address):
    """The same of numbers that are stored in another type."""
    return _loading(like, stored, (like, stored, types.int64))


def _loading(like: types.Array, stored: types.Array, given: tuple[Any, ...]) -> Any:
    vector = vector_of(like)
    kind = _stored(stored, vector)

    def codegen(context, builder, signature, arguments):
        where = builder.inttoptr(arguments[-1], kind.as_pointer())
        value = builder.load(where, align=_size(stored))
        return to_numbers(builder, value, vector)

    return vector(*given), codegen


@intrinsic
def load_part(_, like, address, count, other):
    """The first `count` numbers at an address, and the rest of `other`."""
    return _loading_part(like, like, (like, types.int64, types.int64))


@intrinsic
def load_part_as(_, like, stored, address, count, other):
    """The same of numbers that are stored in another type."""
    return _loading_part(like, stored, (like, stored, types.int64, types.int64))


def _loading_part(like: types.Array, stored: types.Array, given: tuple[Any, ...]) -> Any:
    vector = vector_of(like)
    kind = _stored(stored, vector)

    def codegen(context, builder, signature, arguments):
        *_, address, count, other = arguments
        mask = _first(builder, count, vector.lanes)
        where = builder.inttoptr(address, kind.as_pointer())
        align = ir.Constant(INT32, _size(stored))
        zero = ir.Constant(kind, None)
        value = _masked(builder, "load", kind, kind, [where, align, mask, zero])
        return builder.select(mask, to_numbers(builder, value, vector), other)

    return vector(*given, vector), codegen


@intrinsic
def store(_, like, address, value):
    """Write a vector."""
    stored = _stored(like, value)

    def codegen(context, builder, signature, arguments):
        where = builder.inttoptr(arguments[1], stored.as_pointer())
        narrow = _to_stored(builder, arguments[2], stored)
        builder.store(narrow, where, align=like.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(like, types.int64, value), codegen


@intrinsic
def store_part(_, like, address, count, value):
    """Write the first `count` numbers of a vector."""
    stored = _stored(like, value)

    def codegen(context, builder, signature, arguments):
        mask = _first(builder, arguments[2], stored.count)
        where = builder.inttoptr(arguments[1], stored.as_pointer())
        align = ir.Constant(INT32, like.dtype.bitwidth // 8)
        narrow = _to_stored(builder, arguments[3], stored)
        _masked(builder, "store", stored, ir.VoidType(), [narrow, where, align, mask])
        return context.get_dummy_value()

    return types.none(like, types.int64, types.int64, value), codegen


@intrinsic
def add_to_fp64(_, address, value):
    """Add a vector to the fp64 numbers at an address."""
    wide = ir.VectorType(ir.DoubleType(), value.lanes)

    def codegen(context, builder, signature, arguments):
        where = builder.inttoptr(arguments[0], wide.as_pointer())
        number = arguments[1]
        if number.type != wide:
            number = builder.fpext(number, wide)
        builder.store(builder.fadd(builder.load(where, align=8), number), where, align=8)
        return context.get_dummy_value()

    return types.none(types.int64, value), codegen


@intrinsic
def splat(_, like, value):
    """A vector of one number."""
    vector = vector_of(like)

    def codegen(context, builder, signature, arguments):
        number = context.cast(builder, arguments[1], types.float64, vector.number)
        return splatted(builder, number, vector.lanes)

    return vector(like, types.float64), codegen
