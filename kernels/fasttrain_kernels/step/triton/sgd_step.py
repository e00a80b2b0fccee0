"""One step of plain SGD in Triton: all tensors and models in one launch, with the groups' sums.

    d = g + lambda * theta        v <- mu * v + d        theta <- theta - eta * v

as `torch.optim.SGD` takes it without dampening (Nesterov: theta - eta * (d + mu * v)); 12 bytes per
fp32 parameter, 20 with momentum, 2 off with bf16 gradients. A second small launch adds up groups of
several chunks, where there are any. The sums are those of theta and g, without the weight decay.

Legend: theta parameters, g gradients, lambda weight decay, mu momentum, v momentum buffer, eta
learning rate.
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
    advance,
    chunk_addresses,
    copy_address,
    is_aligned,
    is_alone,
    read,
    run_offsets,
    store_sums,
    vector_offsets,
    vector_pointer,
    write_both,
)
from .group_sums import finish_sums
from .launch import accumulator, blocks_of, check, options


@triton.jit
def _sgd_kernel(
    p_thetas,  # (num_tensors,) addresses
    p_grads,
    p_buffers,
    p_copies,  # of bf16 copies, 0 for none; read where HAS_COPY
    p_tensors,  # (num_tensors, 3) num_rows, row_size, run
    p_chunks,  # (num_chunks, 4) tensor, row, begin, end
    p_group_of_chunk,
    p_first_chunk,  # (num_groups + 1,)
    p_blocks,  # (num_blocks, 3) first chunk, end chunk, model
    p_eta,  # (num_models,)
    p_decay,  # (num_models,), read where DECAYS
    p_sums,  # (3, num_groups) out
    p_partials,  # (3, num_chunks) out: sums of the groups of several chunks
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
    WEIGHT_DECAY: tl.constexpr,
    DECAYS: tl.constexpr,
    HAS_COPY: tl.constexpr,
):
    p_block = p_blocks + 3 * tl.program_id(0)
    eta = tl.load(p_eta + tl.load(p_block + 2))
    decay = tl.load(p_decay + tl.load(p_block + 2))
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        a_theta, a_grad, a_buffer, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_grads, p_buffers, p_tensors, p_chunks, chunk,
            THETA, GRAD, VECTOR, HAS_BUFFER,
        )  # fmt: skip
        # A parameter without a gradient has the address 0: it is not moved.
        count = tl.where(tl.load(p_grads + tl.load(p_chunks + 4 * chunk)) == 0, 0, count)
        a_copy = a_theta
        if HAS_COPY:
            a_copy = copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA)
            wide = wide & is_aligned(a_copy, tl.bfloat16, VECTOR)
        if wide:
            tt, tg, gg = _sgd_wide(
                a_theta, a_grad, a_buffer, a_copy, count, eta, decay, THETA, GRAD, ACC, VECTOR,
                BLOCK, HAS_BUFFER, MOMENTUM, NESTEROV, WEIGHT_DECAY, DECAYS, HAS_COPY,
            )  # fmt: skip
        else:
            tt, tg, gg = _sgd_narrow(
                a_theta, a_grad, a_buffer, a_copy, count, begin, num_rows, run, eta, decay, THETA,
                GRAD, ACC, NARROW, HAS_BUFFER, MOMENTUM, NESTEROV, WEIGHT_DECAY, DECAYS, HAS_COPY,
            )  # fmt: skip
        group = tl.load(p_group_of_chunk + chunk)
        alone = is_alone(p_first_chunk + group)
        store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg)


@triton.jit
def _sgd_wide(
    a_theta, a_grad, a_buffer, a_copy, count, eta, decay,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    WEIGHT_DECAY: tl.constexpr, DECAYS: tl.constexpr, HAS_COPY: tl.constexpr,
):  # fmt: skip
    """Step a chunk of whole vectors; its sums before the step."""
    p_theta = vector_pointer(a_theta, THETA, VECTOR)
    p_grad = vector_pointer(a_grad, GRAD, VECTOR)
    p_buffer = vector_pointer(a_buffer, THETA, VECTOR)
    tt = tl.zeros((), ACC)
    tg = tl.zeros((), ACC)
    gg = tl.zeros((), ACC)
    for first in range(0, count, BLOCK):
        offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
        theta = read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += tl.sum(theta * theta)
        tg += tl.sum(theta * grad)
        gg += tl.sum(grad * grad)
        grad += (decay if DECAYS else WEIGHT_DECAY) * theta
        theta -= eta * advance(p_buffer, offset, mask, grad, HAS_BUFFER, MOMENTUM, NESTEROV)
        write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, VECTOR)
    return tt, tg, gg


@triton.jit
def _sgd_narrow(
    a_theta, a_grad, a_buffer, a_copy, count, begin, num_rows, run, eta, decay,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, NARROW: tl.constexpr,
    HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    WEIGHT_DECAY: tl.constexpr, DECAYS: tl.constexpr, HAS_COPY: tl.constexpr,
):  # fmt: skip
    """The same for any chunk, a few elements at a time."""
    p_theta = a_theta.to(tl.pointer_type(THETA))
    p_grad = a_grad.to(tl.pointer_type(GRAD))
    p_buffer = a_buffer.to(tl.pointer_type(THETA))
    tt = tl.zeros((NARROW,), ACC)
    tg = tl.zeros((NARROW,), ACC)
    gg = tl.zeros((NARROW,), ACC)
    for first in range(0, count, NARROW):
        offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
        theta = read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += theta * theta
        tg += theta * grad
        gg += grad * grad
        grad += (decay if DECAYS else WEIGHT_DECAY) * theta
        theta -= eta * advance(p_buffer, offset, mask, grad, HAS_BUFFER, MOMENTUM, NESTEROV)
        write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, 1)
    return tl.sum(tt), tl.sum(tg), tl.sum(gg)


def sgd_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,  # (num_models,)
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Tensor = 0.0,  # a tensor: (num_models,)
    track: bool = True,
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:  # (3, num_groups) fp32, fp64 for fp64 parameters
    """See `reference.sgd_step_`; eta should have the dtype of the sums: another costs a launch.

    Memory is what bounds it: the sums of a chunk are taken whether or not they are asked for, those
    of several chunks are added up if they are.
    """
    check(layout, thetas, grads, buffers, copies)
    decays = weight_decay if isinstance(weight_decay, Tensor) else None
    blocks, dtype, device = blocks_of(layout), accumulator(thetas[0].dtype), layout.chunks.device
    sums = torch.empty(3, layout.num_groups, dtype=dtype, device=device)
    partials = torch.empty(3, layout.num_chunks, dtype=dtype, device=device)
    eta = eta.to(dtype).contiguous()
    if len(blocks.blocks):
        _sgd_kernel[(len(blocks.blocks),)](
            blocks.table(thetas),
            blocks.table(grads),
            blocks.table(thetas if buffers is None else buffers),
            blocks.table(thetas if copies is None else copies),
            blocks.tensors,
            layout.chunks,
            layout.group_of_chunk,
            layout.first_chunk_of_group,
            blocks.blocks,
            eta,
            eta if decays is None else decays.to(dtype).contiguous(),
            sums,
            partials,
            layout.num_groups,
            layout.num_chunks,
            HAS_BUFFER=buffers is not None,
            MOMENTUM=momentum,
            NESTEROV=nesterov,
            WEIGHT_DECAY=weight_decay if decays is None else 0.0,
            DECAYS=decays is not None,
            HAS_COPY=copies is not None,
            **options(blocks, thetas, grads),
        )
    if track:
        finish_sums(blocks, layout, partials, sums)
    return sums
