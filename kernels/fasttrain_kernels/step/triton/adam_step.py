"""Adam's step in Triton: all tensors and models in one launch, with the groups' sums.

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)        theta <- theta - eta d

28 bytes per fp32 parameter, 2 off with bf16 gradients; a second small launch adds up the groups.
The projection onto spheres is `scale.py`'s, 8 bytes more. See `reference.adam_step_` for the sums.

Legend: theta parameters, g gradients, m and v moments, eta learning rate, d direction.
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
    copy_address,
    is_aligned,
    range_sum,
    read,
    run_offsets,
    vector_offsets,
    vector_pointer,
    write,
    write_both,
)
from .launch import DTYPES, LAUNCH, accumulator, blocks_of, check, options


@triton.jit
def _adam_kernel(
    p_thetas,  # (num_tensors,) addresses
    p_grads,
    p_buffers,  # (2 * num_tensors,) addresses, of first moments and of second ones
    p_copies,  # of bf16 copies, 0 for none; None unless HAS_COPY
    p_tensors,  # (num_tensors, 3) num_rows, row_size, run
    p_chunks,  # (num_chunks, 4) tensor, row, begin, end
    p_blocks,  # (num_blocks, 3) first chunk, end chunk, model
    p_eta,  # (num_models,)
    p_corrections,  # (num_tensors, 2)
    p_partials,  # (6, num_chunks) out: sums of the chunks
    num_tensors,
    num_chunks,
    THETA: tl.constexpr,
    GRAD: tl.constexpr,
    ACC: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    NARROW: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPS: tl.constexpr,
    HAS_COPY: tl.constexpr,
):
    p_block = p_blocks + 3 * tl.program_id(0)
    eta = tl.load(p_eta + tl.load(p_block + 2))
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        a_theta, a_grad, a_mean, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_grads, p_buffers, p_tensors, p_chunks, chunk, THETA, GRAD, VECTOR, True,
        )  # fmt: skip
        tensor = tl.load(p_chunks + 4 * chunk)
        first, second = tl.load(p_buffers + tensor), tl.load(p_buffers + num_tensors + tensor)
        # Moments lie like their parameter, each from its own start.
        a_square = a_mean - first + second
        wide = wide & is_aligned(a_square, THETA, VECTOR)
        a_copy = a_theta
        if HAS_COPY:
            a_copy = copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA)
            wide = wide & is_aligned(a_copy, tl.bfloat16, VECTOR)
        # A parameter without a gradient has the address 0: it is not moved.
        count = tl.where(tl.load(p_grads + tensor) == 0, 0, count)
        c1, c2 = tl.load(p_corrections + 2 * tensor), tl.load(p_corrections + 2 * tensor + 1)
        if wide:
            tt, tg, gg, td, dd, moved = _adam_wide(
                a_theta, a_grad, a_mean, a_square, a_copy, count, eta, c1, c2, THETA, GRAD, ACC,
                VECTOR, BLOCK, BETA1, BETA2, EPS, HAS_COPY,
            )  # fmt: skip
        else:
            tt, tg, gg, td, dd, moved = _adam_narrow(
                a_theta, a_grad, a_mean, a_square, a_copy, count, begin, num_rows, run, eta, c1, c2,
                THETA, GRAD, ACC, NARROW, BETA1, BETA2, EPS, HAS_COPY,
            )  # fmt: skip
        p_sums = p_partials + chunk
        tl.store(p_sums, tt)
        tl.store(p_sums + num_chunks, tg)
        tl.store(p_sums + 2 * num_chunks, gg)
        tl.store(p_sums + 3 * num_chunks, td)
        tl.store(p_sums + 4 * num_chunks, dd)
        tl.store(p_sums + 5 * num_chunks, moved)


@triton.jit
def _direction(
    p_mean, p_square, offset, mask, grad, c1, c2,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Both moments, written; the direction that they give."""
    mean = BETA1 * read(p_mean, offset, mask, grad.dtype) + (1.0 - BETA1) * grad
    square = BETA2 * read(p_square, offset, mask, grad.dtype) + (1.0 - BETA2) * grad * grad
    write(p_mean, offset, mask, mean)
    write(p_square, offset, mask, square)
    return c1 * mean / (c2 * tl.sqrt(square) + EPS)


@triton.jit
def _adam_wide(
    a_theta, a_grad, a_mean, a_square, a_copy, count, eta, c1, c2,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    HAS_COPY: tl.constexpr,
):  # fmt: skip
    """Step a chunk of whole vectors; its sums."""
    p_theta = vector_pointer(a_theta, THETA, VECTOR)
    p_grad = vector_pointer(a_grad, GRAD, VECTOR)
    p_mean = vector_pointer(a_mean, THETA, VECTOR)
    p_square = vector_pointer(a_square, THETA, VECTOR)
    tt = tl.zeros((), ACC)
    tg = tl.zeros((), ACC)
    gg = tl.zeros((), ACC)
    td = tl.zeros((), ACC)
    dd = tl.zeros((), ACC)
    moved = tl.zeros((), ACC)
    for first in range(0, count, BLOCK):
        offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
        theta = read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += tl.sum(theta * theta)
        tg += tl.sum(theta * grad)
        gg += tl.sum(grad * grad)
        d = _direction(p_mean, p_square, offset, mask, grad, c1, c2, BETA1, BETA2, EPS)
        td += tl.sum(theta * d)
        dd += tl.sum(d * d)
        theta -= eta * d
        moved += tl.sum(theta * theta)
        write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, VECTOR)
    return tt, tg, gg, td, dd, moved


@triton.jit
def _adam_narrow(
    a_theta, a_grad, a_mean, a_square, a_copy, count, begin, num_rows, run, eta, c1, c2,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, NARROW: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, HAS_COPY: tl.constexpr,
):  # fmt: skip
    """The same for any chunk, a few elements at a time."""
    p_theta = a_theta.to(tl.pointer_type(THETA))
    p_grad = a_grad.to(tl.pointer_type(GRAD))
    p_mean = a_mean.to(tl.pointer_type(THETA))
    p_square = a_square.to(tl.pointer_type(THETA))
    tt = tl.zeros((), ACC)
    tg = tl.zeros((), ACC)
    gg = tl.zeros((), ACC)
    td = tl.zeros((), ACC)
    dd = tl.zeros((), ACC)
    moved = tl.zeros((), ACC)
    for first in range(0, count, NARROW):
        offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
        theta = read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += tl.sum(theta * theta)
        tg += tl.sum(theta * grad)
        gg += tl.sum(grad * grad)
        d = _direction(p_mean, p_square, offset, mask, grad, c1, c2, BETA1, BETA2, EPS)
        td += tl.sum(theta * d)
        dd += tl.sum(d * d)
        theta -= eta * d
        moved += tl.sum(theta * theta)
        write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, 1)
    return tt, tg, gg, td, dd, moved


@triton.jit
def _groups_kernel(p_partials, p_sums, p_first_chunk, num_groups, num_chunks, ACC: tl.constexpr):
    """The sums of a group from those of its chunks."""
    group = tl.program_id(0)
    first, last = tl.load(p_first_chunk + group), tl.load(p_first_chunk + group + 1)
    for part in tl.static_range(6):
        total = range_sum(p_partials + part * num_chunks, first, last, ACC)
        tl.store(p_sums + part * num_groups + group, total)


def adam_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    moments: Sequence[Tensor | None],  # first moments of all tensors, then second ones
    layout: Layout,
    eta: Tensor,  # (num_models,)
    corrections: Tensor,  # (num_tensors, 2)
    *,
    betas: tuple[float, float],
    eps: float,
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:  # (6, num_groups) fp32, fp64 for fp64 parameters
    """See `reference.adam_step_`; the corrections are copied to the device, without waiting."""
    num_tensors = len(thetas)
    check(layout, thetas, grads, moments[:num_tensors], moments[num_tensors:], copies)
    blocks, dtype, device = blocks_of(layout), accumulator(thetas[0].dtype), layout.chunks.device
    sums = torch.empty(6, layout.num_groups, dtype=dtype, device=device)
    partials = torch.empty(6, layout.num_chunks, dtype=dtype, device=device)
    if len(blocks.blocks):
        _adam_kernel[(len(blocks.blocks),)](
            blocks.table(thetas),
            blocks.table(grads),
            blocks.table(moments),
            None if copies is None else blocks.table(copies),
            blocks.tensors,
            layout.chunks,
            blocks.blocks,
            eta.to(dtype).contiguous(),
            corrections.to(device, dtype, non_blocking=True).contiguous(),
            partials,
            num_tensors,
            layout.num_chunks,
            BETA1=betas[0],
            BETA2=betas[1],
            EPS=eps,
            HAS_COPY=copies is not None,
            **options(blocks, thetas, grads, moments=True),
        )
    _groups_kernel[(layout.num_groups,)](
        partials,
        sums,
        layout.first_chunk_of_group,
        layout.num_groups,
        layout.num_chunks,
        ACC=DTYPES[dtype],
        num_warps=4,
        **LAUNCH,
    )
    return sums
