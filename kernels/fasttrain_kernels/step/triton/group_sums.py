"""Sums per group in Triton: ||theta_i||^2, <theta_i, g_i>, ||g_i||^2 without a step.

One pass over parameters and gradients, 8 bytes per fp32 parameter; `chunks.py` says how. The
second, small launch that adds up groups of several chunks is here for all kernels.

Legend: theta parameters, g gradients; a subscript i means group i.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .chunks import (
    chunk_addresses,
    finish_group,
    is_alone,
    range_sum,
    read,
    run_offsets,
    store_sums,
    vector_offsets,
    vector_pointer,
)
from .launch import DTYPES, LAUNCH, Blocks, accumulator, blocks_of, check, options


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
        a_theta, a_grad, _, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_grads, p_thetas, p_tensors, p_chunks, chunk,
            THETA, GRAD, VECTOR, False,
        )  # fmt: skip
        if wide:
            tt, tg, gg = _wide_sums(
                a_theta, a_grad, count, THETA, GRAD, ACC, VECTOR, BLOCK, HAS_GRAD
            )
        else:
            tt, tg, gg = _narrow_sums(
                a_theta, a_grad, count, begin, num_rows, run, THETA, GRAD, ACC, NARROW, HAS_GRAD
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
    SCALES: tl.constexpr,  # whether programs beyond num_long write the models' scales
):
    program = tl.program_id(0)
    if program < num_long:
        group = tl.load(p_long_groups + program)
        finish_group(p_partials, p_sums, p_first_chunk, group, num_groups, num_chunks, ACC)
    elif SCALES:
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
        SCALES=scale is not None,
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
