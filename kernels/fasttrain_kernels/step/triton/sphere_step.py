"""One step on the sphere in Triton: all tensors, groups and models in one or two launches.

    theta <- rho * (theta - eta * d) / ||theta - eta * d||        (sources: `reference.py`)

| projection      | bytes per fp32 parameter      | launches                          |
|-----------------|-------------------------------|-----------------------------------|
| joint, exact    | 20; momentum 28, Nesterov 32  | 2                                 |
| joint, deferred | 12; momentum 20               | 2, the second one tiny            |
| one per group   | 12; momentum 20               | 1; 2 if a group exceeds one chunk |

bf16 gradients take off 2 for every time that they are read: twice by `exact` without momentum and
with Nesterov's, else once.

The joint norm needs every gradient before any write. `exact` therefore reads twice: the first pass
sums, the second one (`sphere_apply.py`) moves and projects. `deferred` writes unprojected
parameters, and to `scale` the factor that they lack. A sphere per group has its norm within the
registers of one program if the group is one chunk (up to 8,192 elements); longer groups take the
two passes of `exact`.

The squared norm of the moved parameters is summed as (theta / rho)^2 from the moved values
themselves, so neither a tiny or huge radius nor a gradient along theta costs digits.

Legend: theta parameters, g gradients, v momentum buffer, d direction of the step (g, or v, or
Nesterov's g + mu * v), eta raw learning rate, rho radius; a subscript i means group i.
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
    write,
    write_both,
)
from .group_sums import launch_finish
from .launch import accumulator, blocks_of, check, options
from .sphere_apply import sphere_apply_
from .sphere_group import group_wide


@triton.jit
def _step_kernel(
    p_thetas,  # (num_tensors,) addresses
    p_grads,
    p_buffers,
    p_copies,  # of bf16 copies, 0 for none; read where HAS_COPY
    p_tensors,  # (num_tensors, 3) num_rows, row_size, run
    p_chunks,  # (num_chunks, 4) tensor, row, begin, end
    p_group_of_chunk,
    p_first_chunk,  # (num_groups + 1,)
    p_blocks,  # (num_blocks, 3) first chunk, end chunk, model
    p_eta,  # (num_models,), or (num_groups,) if PER_GROUP
    p_radius,  # like p_eta
    p_elr,  # (num_models,) if EFFECTIVE: p_eta is written
    p_scale,  # (num_models,) if DEFERRED
    p_sums,  # (3, num_groups) out
    p_partials,  # (4, num_chunks) out: sums of the groups of several chunks
    p_moved,  # (num_blocks,) out: sum of (theta / rho)^2 after the step, unless PER_GROUP
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
    DEFERRED: tl.constexpr,
    PER_GROUP: tl.constexpr,
    EFFECTIVE: tl.constexpr,
    HAS_COPY: tl.constexpr,
):
    """The only pass of `deferred` and of groups of one chunk; the first pass of `exact`."""
    block = tl.program_id(0)
    p_block = p_blocks + 3 * block
    model = tl.load(p_block + 2)
    total = tl.zeros((), ACC)
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        group = tl.load(p_group_of_chunk + chunk)
        index = group if PER_GROUP else model
        radius = tl.load(p_radius + index)
        inverse = 1.0 / radius
        if EFFECTIVE:
            eta = radius * radius * tl.load(p_elr + model).to(ACC)
            # Every chunk of a sphere writes the same; the second pass reads it.
            tl.store(p_eta + index, eta)
        else:
            eta = tl.load(p_eta + index)
        scale = tl.load(p_scale + model) if DEFERRED else 1.0
        a_theta, a_grad, a_buffer, count, begin, num_rows, run, wide = chunk_addresses(
            p_thetas, p_grads, p_buffers, p_tensors, p_chunks, chunk,
            THETA, GRAD, VECTOR, HAS_BUFFER,
        )  # fmt: skip
        a_copy = a_theta
        if PER_GROUP and HAS_COPY:
            a_copy = copy_address(p_copies, p_thetas, p_chunks, chunk, a_theta, THETA)
            wide = wide & is_aligned(a_copy, tl.bfloat16, VECTOR)
        if wide:
            if PER_GROUP:
                tt, tg, gg, moved = group_wide(
                    a_theta, a_grad, a_buffer, a_copy, count, eta, p_radius + group,
                    p_first_chunk + group, THETA, GRAD, ACC, VECTOR, BLOCK, HAS_BUFFER, MOMENTUM,
                    NESTEROV, HAS_COPY,
                )  # fmt: skip
            else:
                tt, tg, gg, moved = _step_wide(
                    a_theta, a_grad, a_buffer, count, scale, eta, inverse,
                    THETA, GRAD, ACC, VECTOR, BLOCK, HAS_BUFFER, MOMENTUM, NESTEROV, DEFERRED,
                )  # fmt: skip
        else:
            tt, tg, gg, moved = _step_narrow(
                a_theta, a_grad, a_buffer, a_copy, count, begin, num_rows, run, scale, eta, inverse,
                p_first_chunk + group, THETA, GRAD, ACC, NARROW, HAS_BUFFER, MOMENTUM, NESTEROV,
                DEFERRED, PER_GROUP, HAS_COPY,
            )  # fmt: skip
        alone = is_alone(p_first_chunk + group)
        store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg)
        if PER_GROUP:
            tl.store(p_partials + 3 * num_chunks + chunk, moved)
        total += moved
    if not PER_GROUP:
        tl.store(p_moved + block, total)


@triton.jit
def _step_wide(
    a_theta, a_grad, a_buffer, count, scale, eta, inverse,
    THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    DEFERRED: tl.constexpr,
):  # fmt: skip
    """A chunk of whole vectors: its sums, and that of (theta / rho)^2 after the step."""
    p_theta = vector_pointer(a_theta, THETA, VECTOR)
    p_grad = vector_pointer(a_grad, GRAD, VECTOR)
    p_buffer = vector_pointer(a_buffer, THETA, VECTOR)
    tt = tl.zeros((), ACC)
    tg = tl.zeros((), ACC)
    gg = tl.zeros((), ACC)
    moved = tl.zeros((), ACC)
    for first in range(0, count, BLOCK):
        offset, mask = vector_offsets(first, count, BLOCK, VECTOR)
        theta = scale * read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += tl.sum(theta * theta)
        tg += tl.sum(theta * grad)
        gg += tl.sum(grad * grad)
        theta -= eta * advance(p_buffer, offset, mask, grad, HAS_BUFFER, MOMENTUM, NESTEROV)
        moved += tl.sum((theta * inverse) * (theta * inverse))
        if DEFERRED:
            write(p_theta, offset, mask, theta)
    return tt, tg, gg, moved


@triton.jit
def _step_narrow(
    a_theta, a_grad, a_buffer, a_copy, count, begin, num_rows, run, scale, eta, inverse,
    p_first_chunk, THETA: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr,
    NARROW: tl.constexpr, HAS_BUFFER: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    DEFERRED: tl.constexpr, PER_GROUP: tl.constexpr, HAS_COPY: tl.constexpr,
):  # fmt: skip
    """The same for any chunk, a few elements at a time."""
    p_theta = a_theta.to(tl.pointer_type(THETA))
    p_grad = a_grad.to(tl.pointer_type(GRAD))
    p_buffer = a_buffer.to(tl.pointer_type(THETA))
    tt = tl.zeros((NARROW,), ACC)
    tg = tl.zeros((NARROW,), ACC)
    gg = tl.zeros((NARROW,), ACC)
    moved = tl.zeros((NARROW,), ACC)
    alone = is_alone(p_first_chunk)
    for first in range(0, count, NARROW):
        offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
        theta = scale * read(p_theta, offset, mask, ACC)
        grad = read(p_grad, offset, mask, ACC)
        tt += theta * theta
        tg += theta * grad
        gg += grad * grad
        theta -= eta * advance(p_buffer, offset, mask, grad, HAS_BUFFER, MOMENTUM, NESTEROV)
        moved += (theta * inverse) * (theta * inverse)
        if DEFERRED:
            write(p_theta, offset, mask, theta)
        if PER_GROUP:
            if alone:
                write(p_theta, offset, mask, theta)
    norm_squared = tl.sum(moved)
    if PER_GROUP:
        if alone:
            factor = 1.0 / tl.sqrt(norm_squared)
            for first in range(0, count, NARROW):
                offset, mask = run_offsets(first, count, begin, num_rows, run, NARROW)
                theta = factor * read(p_theta, offset, mask, ACC)
                write_both(p_theta, a_copy, offset, mask, theta, HAS_COPY, 1)
    return tl.sum(tt), tl.sum(tg), tl.sum(gg), norm_squared


def sphere_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,  # (num_models,); (num_groups,) for scope "group"
    radius: Tensor,  # like eta
    scale: Tensor | None,  # (num_models,) for the deferred projection, else None
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    scope: str = "joint",
    elr: Tensor | None = None,  # (num_models,)
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:  # (3, num_groups) fp32, fp64 for fp64 parameters
    """See `reference.sphere_step_`.

    eta, radius and scale should have the dtype of the sums: another one costs a launch each. elr
    may have any. A tensor without an element has no chunk that would write its eta.
    """
    check(layout, thetas, grads, buffers, copies)
    blocks, dtype, device = blocks_of(layout), accumulator(thetas[0].dtype), layout.chunks.device
    num_blocks, num_long = len(blocks.blocks), len(blocks.long_groups)
    sums = torch.empty(3, layout.num_groups, dtype=dtype, device=device)
    partials = torch.empty(4, layout.num_chunks, dtype=dtype, device=device)
    moved = torch.empty(num_blocks, dtype=dtype, device=device)
    if not num_blocks:
        return sums.zero_()
    rates, radius = eta.to(dtype).contiguous(), radius.to(dtype).contiguous()
    factor = None if scale is None else scale.to(dtype).contiguous()
    addresses = tuple(blocks.table(some or thetas) for some in (thetas, grads, buffers, copies))
    places = (blocks.tensors, layout.chunks, layout.group_of_chunk, layout.first_chunk_of_group)
    special = options(blocks, thetas, grads, hold=scope == "group", nesterov=nesterov) | {
        "HAS_BUFFER": buffers is not None,
        "MOMENTUM": momentum,
        "NESTEROV": nesterov,
        "PER_GROUP": scope == "group",
        "HAS_COPY": copies is not None,
    }
    _step_kernel[(num_blocks,)](
        *addresses,
        *places,
        blocks.blocks,
        rates,
        radius,
        rates if elr is None else elr.contiguous(),
        factor,
        sums,
        partials,
        moved,
        layout.num_groups,
        layout.num_chunks,
        DEFERRED=scale is not None,
        EFFECTIVE=elr is not None,
        **special,
    )
    if scale is not None:
        launch_finish(blocks, layout, partials, sums, moved, factor)
        if factor is not scale:
            scale.copy_(factor)
    elif scope == "joint" or num_long:
        sphere_apply_(addresses, blocks, layout, rates, sums, partials, moved, special)
    if elr is not None and rates is not eta:
        eta.copy_(rates)
    return sums
