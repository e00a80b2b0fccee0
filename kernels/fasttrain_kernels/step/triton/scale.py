"""Multiplying every group in Triton, in place or into outputs: one launch.

8 bytes per fp32 parameter, 6 into bf16 outputs, 10 in place with a bf16 copy; `chunks.py` says how.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .chunks import (
    chunk_addresses,
    copy_address,
    is_aligned,
    read,
    run_offsets,
    vector_offsets,
    vector_pointer,
    write_both,
)
from .launch import accumulator, blocks_of, check, options


@triton.jit
def _scale_kernel(
    p_thetas,
    p_outputs,
    p_copies,  # of bf16 copies, 0 for none; read where HAS_COPY
    p_tensors,
    p_chunks,
    p_group_of_chunk,
    p_blocks,
    p_factor,  # (num_groups,)
    THETA: tl.constexpr,
    GRAD: tl.constexpr,  # of the outputs
    ACC: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    NARROW: tl.constexpr,
    HAS_COPY: tl.constexpr,
):
    p_block = p_blocks + 3 * tl.program_id(0)
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        factor = tl.load(p_factor + tl.load(p_group_of_chunk + chunk))
        a_theta, a_output, _, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_outputs, p_thetas, p_tensors, p_chunks, chunk,
            THETA, GRAD, VECTOR, False,
        )  # fmt: skip
        a_copy = a_theta
        if HAS_COPY:
            a_copy = copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA)
            wide = wide & is_aligned(a_copy, tl.bfloat16, VECTOR)
        if wide:
            p_theta = vector_pointer(a_theta, THETA, VECTOR)
            p_output = vector_pointer(a_output, GRAD, VECTOR)
            for first in range(0, count, BLOCK):
                offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
                theta = factor * read(p_theta, offset, mask, ACC)
                write_both(p_output, a_copy, offset, mask, theta, HAS_COPY, VECTOR)
        else:
            p_theta = a_theta.to(tl.pointer_type(THETA))
            p_output = a_output.to(tl.pointer_type(GRAD))
            for first in range(0, count, NARROW):
                offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
                theta = factor * read(p_theta, offset, mask, ACC)
                write_both(p_output, a_copy, offset, mask, theta, HAS_COPY, 1)


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,  # (num_groups,)
    outputs: Sequence[Tensor] | None = None,
    copies: Sequence[Tensor | None] | None = None,
) -> None:
    """See `reference.scale_`."""
    check(layout, thetas, outputs, copies)
    blocks = blocks_of(layout)
    if len(blocks.blocks):
        _scale_kernel[(len(blocks.blocks),)](
            blocks.table(thetas),
            blocks.table(outputs or thetas),
            blocks.table(copies or thetas),
            blocks.tensors,
            layout.chunks,
            layout.group_of_chunk,
            blocks.blocks,
            factor.to(accumulator(thetas[0].dtype)).contiguous(),
            HAS_COPY=copies is not None,
            **options(blocks, thetas, outputs),
        )
