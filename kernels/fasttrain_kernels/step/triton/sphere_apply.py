"""The second pass of a sphere step in Triton: move and project, with sums of the first pass.

    theta <- rho * (theta - eta * d) / ||theta - eta * d||

It runs backwards, because what the first pass (`sphere_step.py`) read last is still in the cache.
Each program adds up the norms of its model's blocks, or of its group's chunks, for itself: at most
about `blocks.MAX_BLOCKS` numbers. The last programs finish the sums of groups of several chunks.

Legend: theta parameters, g gradients, v momentum buffer, d direction of the step (g, or v, or
Nesterov's g + mu * v), eta raw learning rate, rho radius.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .chunks import (
    chunk_addresses,
    copy_address,
    direction_of,
    finish_group,
    is_aligned,
    range_sum,
    read,
    run_offsets,
    vector_offsets,
    vector_pointer,
    write_both,
)
from .launch import Blocks


@triton.jit
def _apply_kernel(
    p_thetas,
    p_grads,
    p_buffers,
    p_copies,  # of bf16 copies, 0 for none; read where HAS_COPY
    p_tensors,
    p_chunks,
    p_group_of_chunk,
    p_first_chunk,
    p_blocks,
    p_first_block,  # (num_models + 1,) first block of every model
    p_long_groups,  # groups of several chunks
    p_eta,
    p_sums,
    p_partials,
    p_moved,
    num_blocks,
    num_groups,
    num_chunks,
    THETA: tl.constexpr,
    GRAD: tl.constexpr,
    ACC: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    NARROW: tl.constexpr,
    HAS_BUFFER: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    PER_GROUP: tl.constexpr,
    HAS_COPY: tl.constexpr,
):
    """The second pass: moves and projects; the last programs finish the sums of long groups."""
    program = tl.program_id(0)
    if program >= num_blocks:
        group = tl.load(p_long_groups + program - num_blocks)
        finish_group(p_partials, p_sums, p_first_chunk, group, num_groups, num_chunks, ACC)
    else:
        p_block = p_blocks + 3 * (num_blocks - 1 - program)
        model = tl.load(p_block + 2)
        factor = tl.zeros((), ACC)
        if not PER_GROUP:
            first, last = tl.load(p_first_block + model), tl.load(p_first_block + model + 1)
            factor = 1.0 / tl.sqrt(range_sum(p_moved, first, last, ACC))
        for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
            index = model
            todo = True
            if PER_GROUP:
                index = tl.load(p_group_of_chunk + chunk)
                first, last = tl.load(p_first_chunk + index), tl.load(p_first_chunk + index + 1)
                todo = last - first > 1
                if todo:
                    moved = range_sum(p_partials + 3 * num_chunks, first, last, ACC)
                    factor = 1.0 / tl.sqrt(moved)
            if todo:
                _apply_chunk(
                    p_thetas, p_grads, p_buffers, p_copies, p_tensors, p_chunks, chunk,
                    tl.load(p_eta + index), factor, THETA, GRAD, ACC, VECTOR, BLOCK, NARROW,
                    HAS_BUFFER, MOMENTUM, NESTEROV, HAS_COPY,
                )  # fmt: skip


@triton.jit
def _apply_chunk(
    p_thetas, p_grads, p_buffers, p_copies, p_tensors, p_chunks, chunk, eta, factor,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, NARROW: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr, HAS_COPY: tl.constexpr,
):  # fmt: skip
    """theta <- factor * (theta - eta * d) for one chunk; v was written by the first pass."""
    a_theta, a_grad, a_buffer, count, begin, num_rows, run, wide = chunk_addresses(
        p_thetas, p_grads, p_buffers, p_tensors, p_chunks, chunk,
        THETA, GRAD, VECTOR, HAS_BUFFER,
    )  # fmt: skip
    a_copy = a_theta
    if HAS_COPY:
        a_copy = copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA)
        wide = wide & is_aligned(a_copy, tl.bfloat16, VECTOR)
    if wide:
        p_theta = vector_pointer(a_theta, THETA, VECTOR)
        p_grad = vector_pointer(a_grad, GRAD, VECTOR)
        p_buffer = vector_pointer(a_buffer, THETA, VECTOR)
        for first in range(0, count, BLOCK):
            offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
            _apply_elements(
                p_theta, p_grad, p_buffer, a_copy, offset, mask, eta, factor,
                ACC, HAS_BUFFER, MOMENTUM, NESTEROV, HAS_COPY, VECTOR,
            )  # fmt: skip
    else:
        p_theta = a_theta.to(tl.pointer_type(THETA))
        p_grad = a_grad.to(tl.pointer_type(GRAD))
        p_buffer = a_buffer.to(tl.pointer_type(THETA))
        for first in range(0, count, NARROW):
            offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
            _apply_elements(
                p_theta, p_grad, p_buffer, a_copy, offset, mask, eta, factor,
                ACC, HAS_BUFFER, MOMENTUM, NESTEROV, HAS_COPY, 1,
            )  # fmt: skip


@triton.jit
def _apply_elements(
    p_theta, p_grad, p_buffer, a_copy, offset, mask, eta, factor,
    ACC: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    HAS_COPY: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    theta = read(p_theta, offset, mask, ACC)
    if HAS_BUFFER:
        velocity = read(p_buffer, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC) if NESTEROV else velocity
        direction = direction_of(grad, velocity, MOMENTUM, NESTEROV)
    else:
        direction = read(p_grad, offset, mask, ACC)
    moved = factor * (theta - eta * direction)
    write_both(p_theta, a_copy, offset, mask, moved, HAS_COPY, VECTOR)


def sphere_apply_(
    addresses: tuple[Tensor, ...],  # (num_tensors,) each: parameters, gradients, buffers, copies
    blocks: Blocks,
    layout: Layout,
    eta: Tensor,  # (num_models,); (num_groups,) with a sphere per group
    sums: Tensor,  # (3, num_groups) out, of the groups of several chunks
    partials: Tensor,  # (4, num_chunks)
    moved: Tensor,  # (num_blocks,)
    special: dict[str, Any],
) -> None:
    """Launch the pass, with the specialisation of the first one."""
    num_blocks, num_long = len(blocks.blocks), len(blocks.long_groups)
    _apply_kernel[(num_blocks + num_long,)](
        *addresses,
        blocks.tensors,
        layout.chunks,
        layout.group_of_chunk,
        layout.first_chunk_of_group,
        blocks.blocks,
        blocks.first_block_of_model,
        blocks.long_groups,
        eta,
        sums,
        partials,
        moved,
        num_blocks,
        layout.num_groups,
        layout.num_chunks,
        **special,
    )
