"""Sums per group in Triton, ||theta_i||^2, <theta_i, g_i>, ||g_i||^2, and what all kernels share.

A program works on one block: consecutive chunks of one tensor and one model (`groups.py` says what
a chunk is). It holds a chunk at a time in registers, reduces it, and writes the sums of the chunk;
a group of several chunks is added up by a second, small launch. Both stages add in a fixed order,
so equal inputs give equal bits, without atomics.

A chunk that is consecutive in memory, starts at a vector boundary and consists of whole vectors is
read and written in vectors: 128 bits of the parameters, so 64 of bf16 gradients beside fp32
parameters. Each chunk decides that for itself: others, such as the 27-element rows of a stem, go
element by element and slow nothing else down. Addresses come from tables, so the number of launches
does not depend on the number of tensors, groups or models.

Legend: theta parameters, g gradients; a subscript i means group i.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .blocks import DTYPES, LAUNCH, Blocks, accumulator, blocks_of, check, options
from .groups import Layout

@triton.jit
def chunk_place(p_tensors, p_chunks, chunk):
    """Tensor, elements and place of a chunk; a row in runs is counted from its own start."""
    p_chunk = p_chunks + 4 * chunk
    tensor, row = tl.load(p_chunk), tl.load(p_chunk + 1)
    begin, end = tl.load(p_chunk + 2), tl.load(p_chunk + 3)
    p_tensor = p_tensors + 3 * tensor
    num_rows, row_size, run = tl.load(p_tensor), tl.load(p_tensor + 1), tl.load(p_tensor + 2)
    whole = run == row_size
    start = row.to(tl.int64) * run + tl.where(whole, begin, 0)
    return tensor, end - begin, start, tl.where(whole, 0, begin), num_rows, run, whole


@triton.jit
def address_of(p_table, tensor, start, DTYPE: tl.constexpr):
    """Address in bytes of element `start` of a tensor."""
    return tl.load(p_table + tensor) + start * (DTYPE.primitive_bitwidth // 8)


@triton.jit
def is_aligned(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Whether an address is at a vector boundary."""
    return address & (VECTOR * DTYPE.primitive_bitwidth // 8 - 1) == 0


@triton.jit
def vector_pointer(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Pointer that the compiler knows to be at a vector boundary."""
    num_bytes: tl.constexpr = VECTOR * DTYPE.primitive_bitwidth // 8
    # Rounding makes a new value, so that the hint cannot leak to where it does not hold.
    rounded = address & -num_bytes
    return tl.multiple_of(rounded.to(tl.pointer_type(DTYPE)), num_bytes)


@triton.jit
def vector_offsets(first, num_elements, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """BLOCK offsets in a chunk of whole vectors, and which of them exist: (BLOCK,) each."""
    offset = first + tl.arange(0, BLOCK)
    return offset, offset < tl.multiple_of(num_elements & -VECTOR, VECTOR)


@triton.jit
def run_offsets(first, num_elements, begin, num_rows, run, NARROW: tl.constexpr):
    """Offsets of NARROW elements of any chunk, and which of them exist: (NARROW,) each."""
    element = first + tl.arange(0, NARROW)
    place = begin + element
    offset = (place // run).to(tl.int64) * (run.to(tl.int64) * num_rows) + place % run
    return offset, element < num_elements


@triton.jit
def read(p_values, offset, mask, ACC: tl.constexpr):
    """Values in the type of the sums; 0 where the mask is false."""
    return tl.load(p_values + offset, mask=mask, other=0.0).to(ACC)


@triton.jit
def write(p_values, offset, mask, values):
    """Store values in the type that the pointer has."""
    tl.store(p_values + offset, values.to(p_values.dtype.element_ty), mask=mask)


@triton.jit
def direction_of(grad, velocity, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr):
    """d = v, or Nesterov's g + mu * v."""
    if NESTEROV:
        direction = grad + MOMENTUM * velocity
    else:
        direction = velocity
    return direction


@triton.jit
def advance(
    p_buffer, offset, mask, grad, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
):  # fmt: skip
    """v <- mu * v + g, written; the direction of the step with v as it is stored."""
    if HAS_BUFFER:
        velocity = MOMENTUM * read(p_buffer, offset, mask, grad.dtype) + grad
        write(p_buffer, offset, mask, velocity)
        velocity = velocity.to(p_buffer.dtype.element_ty).to(grad.dtype)
        direction = direction_of(grad, velocity, MOMENTUM, NESTEROV)
    else:
        direction = grad
    return direction


@triton.jit
def is_alone(p_first_chunk):
    """Whether a group is one chunk."""
    return tl.load(p_first_chunk + 1) - tl.load(p_first_chunk) == 1


@triton.jit
def store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg):
    """Write a chunk's sums: to its group if it is alone there, else for the second stage."""
    if alone:
        tl.store(p_sums + group, tt)
        tl.store(p_sums + num_groups + group, tg)
        tl.store(p_sums + 2 * num_groups + group, gg)
    else:
        tl.store(p_partials + chunk, tt)
        tl.store(p_partials + num_chunks + chunk, tg)
        tl.store(p_partials + 2 * num_chunks + chunk, gg)


@triton.jit
def range_sum(p_values, first, last, ACC: tl.constexpr):
    """Sum of values[first:last], in an order that depends on nothing else."""
    total = tl.zeros((512,), ACC)
    for start in range(first, last, 512):
        index = start + tl.arange(0, 512)
        total += tl.load(p_values + index, mask=index < last, other=0.0)
    return tl.sum(total)


@triton.jit
def finish_group(
    p_partials, p_sums, p_first_chunk, group, num_groups, num_chunks, ACC: tl.constexpr
):
    """The sums of a group from those of its chunks."""
    first, last = tl.load(p_first_chunk + group), tl.load(p_first_chunk + group + 1)
    for part in tl.static_range(3):
        total = range_sum(p_partials + part * num_chunks, first, last, ACC)
        tl.store(p_sums + part * num_groups + group, total)


@triton.jit
def _sums_kernel(
    p_thetas,  # (num_tensors,) addresses
    p_grads,
    p_tensors,  # (num_tensors, 3) num_rows, row_size, run
    p_chunks,  # (num_chunks, 4) tensor, row, begin, end
    p_group_of_chunk,
    p_first_chunk,  # (num_groups + 1,)
    p_blocks,  # (num_blocks, 3) first chunk, end chunk, model
    p_sums,  # (3, num_groups) out
    p_partials,  # (3, num_chunks) out, of the groups of several chunks
    num_groups,
    num_chunks,
    THETA: tl.constexpr,
    GRAD: tl.constexpr,
    ACC: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    NARROW: tl.constexpr,
    HAS_GRAD: tl.constexpr,
):
    p_block = p_blocks + 3 * tl.program_id(0)
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        tensor, count, start, begin, num_rows, run, whole = chunk_place(p_tensors, p_chunks, chunk)
        a_theta = address_of(p_thetas, tensor, start, THETA)
        a_grad = address_of(p_grads, tensor, start, GRAD) if HAS_GRAD else a_theta
        wide = whole & (count % VECTOR == 0) & is_aligned(a_theta, THETA, VECTOR)
        if wide & is_aligned(a_grad, GRAD, VECTOR):
            tt, tg, gg = _wide_sums(
                a_theta, a_grad, count, THETA, GRAD, ACC, VECTOR, BLOCK, HAS_GRAD
            )
        else:
            tt, tg, gg = _narrow_sums(
                a_theta,
                a_grad,
                count,
                begin,
                num_rows,
                run,
                THETA,
                GRAD,
                ACC,
                NARROW,
                HAS_GRAD,
            )
        group = tl.load(p_group_of_chunk + chunk)
        alone = is_alone(p_first_chunk + group)
        store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg)


@triton.jit
def _wide_sums(
    a_theta, a_grad, count,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, HAS_GRAD: tl.constexpr,
):  # fmt: skip
    """The sums of a chunk of whole vectors."""
    p_theta = vector_pointer(a_theta, THETA, VECTOR)
    p_grad = vector_pointer(a_grad, GRAD, VECTOR)
    tt = tl.zeros((), ACC)
    tg = tl.zeros((), ACC)
    gg = tl.zeros((), ACC)
    for first in range(0, count, BLOCK):
        offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
        theta = read(p_theta, offset, mask, ACC)
        tt += tl.sum(theta * theta)
        if HAS_GRAD:
            grad = read(p_grad, offset, mask, ACC)
            tg += tl.sum(theta * grad)
            gg += tl.sum(grad * grad)
    return tt, tg, gg


@triton.jit
def _narrow_sums(
    a_theta, a_grad, count, begin, num_rows, run,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, NARROW: tl.constexpr,
    HAS_GRAD: tl.constexpr,
):  # fmt: skip
    """The sums of a chunk that is not made of whole vectors."""
    p_theta = a_theta.to(tl.pointer_type(THETA))
    p_grad = a_grad.to(tl.pointer_type(GRAD))
    tt = tl.zeros((NARROW,), ACC)
    tg = tl.zeros((NARROW,), ACC)
    gg = tl.zeros((NARROW,), ACC)
    for first in range(0, count, NARROW):
        offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
        theta = read(p_theta, offset, mask, ACC)
        tt += theta * theta
        if HAS_GRAD:
            grad = read(p_grad, offset, mask, ACC)
            tg += theta * grad
            gg += grad * grad
    return tl.sum(tt), tl.sum(tg), tl.sum(gg)


@triton.jit
def _finish_kernel(
    p_partials,
    p_sums,
    p_first_chunk,
    p_long_groups,  # (num_long,) groups of several chunks, or of none
    p_moved,  # (num_blocks,) sums of (theta / rho)^2 after the step
    p_first_block,  # (num_models + 1,)
    p_scale,  # (num_models,) out
    num_long,
    num_groups,
    num_chunks,
    ACC: tl.constexpr,
):
    program = tl.program_id(0)
    if program < num_long:
        group = tl.load(p_long_groups + program)
        finish_group(p_partials, p_sums, p_first_chunk, group, num_groups, num_chunks, ACC)
    else:
        model = program - num_long
        first, last = tl.load(p_first_block + model), tl.load(p_first_block + model + 1)
        tl.store(p_scale + model, 1.0 / tl.sqrt(range_sum(p_moved, first, last, ACC)))


def finish_sums(blocks: Blocks, layout: Layout, partials: Tensor, sums: Tensor) -> None:
    """Add up the groups of several chunks: one launch, or none if there is no such group."""
    if len(blocks.long_groups):
        launch_finish(blocks, layout, partials, sums, None, None)


def launch_finish(
    blocks: Blocks,
    layout: Layout,
    partials: Tensor,
    sums: Tensor,
    moved: Tensor | None,  # (num_blocks,)
    scale: Tensor | None,  # (num_models,)
) -> None:
    """The second stage: the groups of several chunks and, with `moved`, the models' scales."""
    num_long, num_models = len(blocks.long_groups), 0 if scale is None else layout.num_models
    _finish_kernel[(num_long + num_models,)](
        partials,
        sums,
        layout.first_chunk_of_group,
        blocks.long_groups,
        moved,
        blocks.first_block_of_model,
        scale,
        num_long,
        layout.num_groups,
        layout.num_chunks,
        ACC=DTYPES[sums.dtype],
        num_warps=4,
        **LAUNCH,
    )


def group_sums(
    thetas: Sequence[Tensor], grads: Sequence[Tensor] | None, layout: Layout
) -> Tensor:  # (3, num_groups) fp32, fp64 for fp64 parameters
    """See `reference.group_sums`: 8 bytes per fp32 parameter, 1 launch, 2 with long groups."""
    check(layout, thetas, grads)
    blocks, dtype, device = blocks_of(layout), accumulator(thetas[0].dtype), layout.chunks.device
    sums = torch.empty(3, layout.num_groups, dtype=dtype, device=device)
    partials = torch.empty(3, layout.num_chunks, dtype=dtype, device=device)
    if len(blocks.blocks):
        _sums_kernel[(len(blocks.blocks),)](
            blocks.table(thetas),
            blocks.table(grads or thetas),
            blocks.tensors,
            layout.chunks,
            layout.group_of_chunk,
            layout.first_chunk_of_group,
            blocks.blocks,
            sums,
            partials,
            layout.num_groups,
            layout.num_chunks,
            HAS_GRAD=grads is not None,
            **options(blocks, thetas, grads),
        )
    finish_sums(blocks, layout, partials, sums)
    return sums
