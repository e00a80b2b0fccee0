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

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .groups import Layout

DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
"""What parameters and gradients may be stored in."""

# More than about this many blocks grow instead: it bounds the sum that the joint step repeats.
MAX_BLOCKS = 2048
MIN_BLOCK_ELEMENTS = 2048

# Address tables that a layout remembers; gradients may move from step to step.
MAX_ADDRESS_TABLES = 64


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
    return address % (VECTOR * DTYPE.primitive_bitwidth // 8) == 0


@triton.jit
def vector_pointer(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """Pointer that the compiler knows to be at a vector boundary."""
    num_bytes: tl.constexpr = VECTOR * DTYPE.primitive_bitwidth // 8
    # Rounding makes a new value, so that the hint cannot leak to where it does not hold.
    rounded = address // num_bytes * num_bytes
    return tl.multiple_of(rounded.to(tl.pointer_type(DTYPE)), num_bytes)


@triton.jit
def vector_offsets(num_elements, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """Offsets in a chunk of whole vectors, and which of them exist: (BLOCK,) each."""
    offset = tl.arange(0, BLOCK)
    return offset, offset < num_elements // VECTOR * VECTOR


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
    HAS_GRAD: tl.constexpr,
):
    p_block = p_blocks + 3 * tl.program_id(0)
    for chunk in range(tl.load(p_block), tl.load(p_block + 1)):
        tensor, count, start, begin, num_rows, run, whole = chunk_place(p_tensors, p_chunks, chunk)
        a_theta = address_of(p_thetas, tensor, start, THETA)
        a_grad = address_of(p_grads, tensor, start, GRAD) if HAS_GRAD else a_theta
        wide = whole & (count % VECTOR == 0) & is_aligned(a_theta, THETA, VECTOR)
        if wide & is_aligned(a_grad, GRAD, VECTOR):
            offset, mask = vector_offsets(count, BLOCK, VECTOR)
            theta = read(vector_pointer(a_theta, THETA, VECTOR), offset, mask, ACC)
            grad = tl.zeros_like(theta)
            if HAS_GRAD:
                grad = read(vector_pointer(a_grad, GRAD, VECTOR), offset, mask, ACC)
            tt, tg, gg = tl.sum(theta * theta), tl.sum(theta * grad), tl.sum(grad * grad)
        else:
            tt, tg, gg = narrow_sums(
                a_theta,
                a_grad,
                count,
                begin,
                num_rows,
                run,
                THETA,
                GRAD,
                ACC,
                BLOCK // 16,
                HAS_GRAD,
            )
        group = tl.load(p_group_of_chunk + chunk)
        alone = tl.load(p_first_chunk + group + 1) - tl.load(p_first_chunk + group) == 1
        store_sums(p_sums, p_partials, group, chunk, alone, num_groups, num_chunks, tt, tg, gg)


@triton.jit
def narrow_sums(
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


@dataclass(frozen=True, eq=False)
class Blocks:
    """A layout as the kernels take it."""

    tensors: Tensor
    """(num_tensors, 3) int32: num_rows, row_size, run"""
    blocks: Tensor
    """(num_blocks, 3) int32: first chunk, end chunk, model; in the order of the models"""
    first_block_of_model: Tensor
    """(num_models + 1,) int32"""
    long_groups: Tensor
    """groups of several chunks, or of none, int32"""
    block: int
    """elements that a program holds at once: a power of two, no less than any chunk"""
    num_warps: int
    addresses: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """address tables by their content, on the host and on the device"""

    def table(self, tensors: Sequence[Tensor]) -> Tensor:  # (num_tensors,) int64
        """Addresses of tensors, on their device; copied there when they are new, without waiting."""
        key = tuple(tensor.data_ptr() for tensor in tensors)
        if key not in self.addresses:
            if len(self.addresses) >= MAX_ADDRESS_TABLES:
                self.addresses.pop(next(iter(self.addresses)))
            host = torch.tensor(key, dtype=torch.int64, pin_memory=self.blocks.is_cuda)
            self.addresses[key] = host, host.to(self.blocks.device, non_blocking=True)
        return self.addresses[key][1]


_blocks_of: weakref.WeakKeyDictionary[Layout, Blocks] = weakref.WeakKeyDictionary()


def blocks_of(layout: Layout) -> Blocks:
    """The blocks of a layout; made once, which waits for the device."""
    if layout not in _blocks_of:
        _blocks_of[layout] = _make_blocks(layout)
    return _blocks_of[layout]


def check(layout: Layout, thetas: Sequence[Tensor], *others: Sequence[Tensor] | None) -> None:
    """Raise ValueError unless the kernels can take these tensors together."""
    for tensors in (thetas, *others):
        if tensors is None:
            continue
        found = {tensor.dtype for tensor in tensors}
        if len(found) != 1 or not found <= DTYPES.keys():
            raise ValueError(f"tensors of one call must share one of {[*DTYPES]}; got {found}")
        for theta, tensor in zip(thetas, tensors, strict=True):
            if tensor.device != layout.chunks.device or tensor.stride() != theta.stride():
                raise ValueError(
                    f"tensors must lie like their parameter, on {layout.chunks.device} with strides "
                    f"{theta.stride()}; got {tensor.device} and {tensor.stride()}"
                )


def accumulator(thetas: Sequence[Tensor]) -> torch.dtype:
    """Type of the sums: fp32, or fp64 for fp64 parameters."""
    return torch.float64 if thetas[0].dtype == torch.float64 else torch.float32


def options(
    blocks: Blocks, thetas: Sequence[Tensor], others: Sequence[Tensor] | None
) -> dict[str, Any]:
    """What every kernel over chunks is specialised on."""
    theta, other = thetas[0].dtype, (others or thetas)[0].dtype
    return {
        "THETA": DTYPES[theta],
        "GRAD": DTYPES[other],
        "ACC": DTYPES[accumulator(thetas)],
        "VECTOR": 16 // theta.itemsize,
        "BLOCK": blocks.block,
        "num_warps": blocks.num_warps,
        **LAUNCH,
    }


LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}


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
    blocks, dtype, device = blocks_of(layout), accumulator(thetas), layout.chunks.device
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


def _make_blocks(layout: Layout) -> Blocks:
    chunks = layout.chunks.cpu().numpy().astype(np.int64)
    tensor, row, size = chunks[:, 0], chunks[:, 1], chunks[:, 3] - chunks[:, 2]
    model = row * layout.num_models // np.maximum(np.array(layout.num_rows), 1)[tensor]
    limit = max(MIN_BLOCK_ELEMENTS, -(-int(size.sum()) // MAX_BLOCKS))
    # A block ends with its tensor or model, and where its elements pass a multiple of the limit.
    before = np.cumsum(size) - size
    segment = tensor * layout.num_models + model
    first_of_segment = np.searchsorted(segment, segment, side="left")
    part = (before - before[first_of_segment]) // limit
    first = np.flatnonzero(np.diff(segment, prepend=-1) | np.diff(part, prepend=-1))
    table = np.stack([first, np.append(first[1:], len(chunks))[: len(first)], model[first]], axis=1)
    table = table[np.argsort(table[:, 2], kind="stable")]
    lengths = np.diff(layout.first_chunk_of_group.cpu().numpy())
    longest = triton.next_power_of_2(int(size.max(initial=1)))
    block = min(max(longest, 2048), 8192)

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.int32)).to(layout.chunks.device)

    return Blocks(
        tensors=on_device(np.stack([layout.num_rows, layout.row_size, layout.run], axis=1)),
        blocks=on_device(table),
        first_block_of_model=on_device(
            np.searchsorted(table[:, 2], np.arange(layout.num_models + 1))
        ),
        long_groups=on_device(np.flatnonzero(lengths != 1)),
        block=block,
        num_warps=block // 512,
    )
