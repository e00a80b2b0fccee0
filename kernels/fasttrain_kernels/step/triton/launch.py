"""What the Triton kernels are launched with: blocks of chunks, address tables, compile options.

A block is what one program works on: consecutive chunks of one tensor and one model, about
`MIN_BLOCK_ELEMENTS` elements, more where that would make too many blocks. Blocks come in the order
of the models, so that the blocks of a model are consecutive.
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

from ..layout import Layout, lie_alike

DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
"""What parameters and gradients may be stored in."""

LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}
"""Compile options of every kernel."""

MIN_BLOCK_ELEMENTS = 2048
# Beyond about this many, blocks grow instead: it bounds the sum that every program of the joint
# exact step repeats.
MAX_BLOCKS = 2048

# Elements that a program reads at once, 8 per thread. Where it has to hold a whole chunk it takes
# 16 per thread, lest one program fill a multiprocessor, if 64 registers suffice for that.
BLOCK = 1024
MIN_HELD_BLOCK = 2048

# Address tables that a layout remembers; gradients may move from step to step.
MAX_ADDRESS_TABLES = 64
# Tables that one capture of a CUDA graph may add, of the gradients above all.
NUM_RESERVED = 8


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
    longest: int
    """elements of the longest chunk"""
    addresses: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """address tables by their content, on the host and on the device; the last used come last"""
    captured: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """address tables that CUDA graphs use"""
    reserved: list[Tensor] = field(default_factory=list)
    """pinned memory for tables made during a capture, when none may be allocated"""

    def table(self, tensors: Sequence[Tensor | None]) -> Tensor:  # (num_tensors,) int64
        """Addresses of tensors, 0 for None, on their device; copied when new, without waiting.

        Raises:
            RuntimeError: while a CUDA graph is captured, if no step was taken before.
        """
        key = tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
        capturing = is_capturing(self.blocks)
        entry = self.addresses.pop(key, None)
        if entry is not None:
            self.addresses[key] = entry
        elif capturing:
            # Nothing is copied yet: the graph copies it at every replay, and has it alone.
            entry = self._copied(key, self._reserved())
        else:
            entry = self.addresses[key] = self._copied(key, self._host(len(key)))
            if len(self.addresses) > MAX_ADDRESS_TABLES:
                self.addresses.pop(next(iter(self.addresses)))
        if capturing:
            self.captured.append(entry)
        else:
            while len(self.reserved) < NUM_RESERVED:
                self.reserved.append(self._host(len(key)))
        return entry[1]

    def _host(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int64, pin_memory=self.blocks.is_cuda)

    def _copied(self, key: tuple[int, ...], host: Tensor) -> tuple[Tensor, Tensor]:
        host.numpy()[:] = key
        return host, host.to(self.blocks.device, non_blocking=True)

    def _reserved(self) -> Tensor:
        if not self.reserved:
            raise RuntimeError(
                "tensors at new addresses while a CUDA graph is captured: take a step outside of"
                " the capture first, and again before each further capture"
            )
        return self.reserved.pop()


def is_capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is captured on the current stream of the tensor's device."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


_blocks_of: weakref.WeakKeyDictionary[Layout, Blocks] = weakref.WeakKeyDictionary()


def blocks_of(layout: Layout) -> Blocks:
    """The blocks of a layout; made once, which waits for the device."""
    if layout not in _blocks_of:
        _blocks_of[layout] = _make_blocks(layout)
    return _blocks_of[layout]


def check(
    layout: Layout, thetas: Sequence[Tensor], *others: Sequence[Tensor | None] | None
) -> None:
    """Raise ValueError unless the kernels can take these tensors together."""
    for tensors in (thetas, *others):
        if tensors is None:
            continue
        found = {tensor.dtype for tensor in tensors if tensor is not None}
        if len(found) != 1 or not found <= DTYPES.keys():
            raise ValueError(f"tensors of one call must share one of {[*DTYPES]}; got {found}")
        for theta, tensor in zip(thetas, tensors, strict=True):
            if tensor is not None and (
                tensor.device != layout.chunks.device or not _fits(theta, tensor)
            ):
                raise ValueError(
                    f"tensors must lie like their parameter, on {layout.chunks.device}, strides "
                    f"{theta.stride()}; got {tensor.device}, {tensor.stride()}"
                )


def _fits(theta: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor has the shape and memory format of a parameter."""
    return theta.shape == tensor.shape and lie_alike(theta.shape, theta.stride(), tensor.stride())


def accumulator(theta: torch.dtype) -> torch.dtype:
    """Type of the sums: fp32, or fp64 for fp64 parameters."""
    return torch.float64 if theta == torch.float64 else torch.float32


def options(
    blocks: Blocks,
    thetas: Sequence[Tensor],
    others: Sequence[Tensor | None] | None,
    *,
    hold: bool = False,
    nesterov: bool = False,
    moments: bool = False,
) -> dict[str, Any]:
    """What a kernel over chunks is specialised on; with `hold` its block takes in any chunk.

    Two `moments` of every parameter take registers.
    """
    held = max(triton.next_power_of_2(blocks.longest), MIN_HELD_BLOCK) if hold else None
    theta = thetas[0].dtype
    other = next(tensor.dtype for tensor in others or thetas if tensor is not None)
    hip = torch.version.hip is not None
    return block_options(theta, other, held, nesterov=nesterov, hip=hip, moments=moments)


def block_options(
    theta: torch.dtype,
    other: torch.dtype,
    held: int | None,  # elements to hold at once, if any
    *,
    nesterov: bool,
    hip: bool,
    moments: bool = False,
) -> dict[str, Any]:
    """The same for given dtypes: parameters, and gradients or outputs."""
    each = 16 if held and not nesterov and not hip else 4 if moments and hip else 8
    num_threads = (held or BLOCK) // each
    limit: dict[str, int] = {"waves_per_eu": 8} if hip else {}
    if held and theta != torch.float64 and not hip:
        limit = {"maxnreg": 64}
    return {
        "THETA": DTYPES[theta],
        "GRAD": DTYPES[other],
        "ACC": DTYPES[accumulator(theta)],
        "VECTOR": 16 // theta.itemsize,
        "BLOCK": held or BLOCK,
        "NARROW": num_threads,
        "num_warps": num_threads // (64 if hip else 32),
        **limit,
        **LAUNCH,
    }


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

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.int32)).to(layout.chunks.device)

    return Blocks(
        tensors=on_device(np.stack([layout.num_rows, layout.row_size, layout.run], axis=1)),
        blocks=on_device(table),
        first_block_of_model=on_device(
            np.searchsorted(table[:, 2], np.arange(layout.num_models + 1))
        ),
        long_groups=on_device(np.flatnonzero(lengths != 1)),
        longest=int(size.max(initial=1)),
    )
