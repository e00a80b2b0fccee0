"""Multiplying every group in Triton, in place or into copies: one launch.

8 bytes per fp32 parameter, 6 into a bf16 copy; `chunks.py` says how.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .chunks import chunk_addresses, read, run_offsets, vector_offsets, vector_pointer, write
from .launch import accumulator, blocks_of, check, options


@triton.jit
def _scale_kernel(
    p_thetas,
    p_outputs,
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
):
    p_block = p_blocks + 3 * tl.program_id(0)
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        factor = tl.load(p_factor + tl.load(p_group_of_chunk + chunk))
        a_theta, a_output, _, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_outputs, p_thetas, p_tensors, p_chunks, chunk,
            THETA, GRAD, VECTOR, False,
        )  # fmt: skip
        if wide:
            p_theta = vector_pointer(a_theta, THETA, VECTOR)
            p_output = vector_pointer(a_output, GRAD, VECTOR)
            for first in range(0, count, BLOCK):
                offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
                write(p_output, offset, mask, factor * read(p_theta, offset, mask, ACC))
        else:
            p_theta = a_theta.to(tl.pointer_type(THETA))
            p_output = a_output.to(tl.pointer_type(GRAD))
            for first in range(0, count, NARROW):
                offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
                write(p_output, offset, mask, factor * read(p_theta, offset, mask, ACC))


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,  # (num_groups,)
    outputs: Sequence[Tensor] | None = None,
) -> None:
    """See `reference.scale_`."""
    check(layout, thetas, outputs)
    blocks = blocks_of(layout)
    if len(blocks.blocks):
        _scale_kernel[(len(blocks.blocks),)](
            blocks.table(thetas),
            blocks.table(outputs or thetas),
            blocks.tensors,
            layout.chunks,
            layout.group_of_chunk,
            blocks.blocks,
            factor.to(accumulator(thetas[0].dtype)).contiguous(),
            **options(blocks, thetas, outputs),
        )
