"""The step of `reference.py` on a CPU, fused: one pass over memory, compiled by numba.

A pass reads parameters and gradients, moves the parameters, and sums:

    joint deferred, plain SGD, one sphere per group    12 bytes per fp32 parameter
    joint exact                                        20: the norm is known only after a pass

Momentum adds 8, bf16 gradients take 2 off per read. Sums are fp64 over blocks in fp32 (all fp64 for
fp64 parameters, and where fp32 has not the range). Work is cut into chunks (`groups.py`); threads
take equally large shares of them, and every chunk has sums of its own, added in order afterwards:
bits depend neither on the number of threads nor on timing.

The compiled code is kept on disk between processes. bf16 travels as its bits, uint16.
"""

import ctypes
import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cpu_describe, cpu_kernels
from .cpu_kernels import DEFERRED, EXACT, NUM_SPANS, PER_GROUP, PLAIN, SCALE, SUMS, Job
from .cpu_team import GRAIN, worker
from .groups import Layout

STRIPE = 4096
"""Elements of several rows that are worked on together."""


def sphere_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,
    radius: Tensor,
    scale: Tensor | None,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    scope: str = "joint",
) -> Tensor:
    """See `reference.sphere_step_`."""
    mode = PER_GROUP if scope == "group" else EXACT if scale is None else DEFERRED
    return _step(mode, thetas, grads, buffers, layout, eta, radius, scale, momentum, nesterov)


def sgd_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Tensor:
    """See `reference.sgd_step_`."""
    return _step(
        PLAIN, thetas, grads, buffers, layout, eta, None, None, momentum, nesterov, weight_decay
    )


def group_sums(thetas: Sequence[Tensor], grads: Sequence[Tensor] | None, layout: Layout) -> Tensor:
    """See `reference.group_sums`."""
    eta = torch.zeros(layout.num_models, dtype=torch.float64)
    sums = _step(SUMS, thetas, thetas if grads is None else grads, None, layout, eta)
    if grads is None:
        sums[1:] = 0
    return sums


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,
    outputs: Sequence[Tensor] | None = None,
) -> None:
    """See `reference.scale_`."""
    factor, tables = _fp64(factor), _tables(layout)
    job = Job.from_buffer_copy(tables.job)
    job.mode, job.eta = SCALE, factor.data_ptr()
    _run(tables, job, thetas, thetas if outputs is None else outputs)


def describe(
    sums: Tensor, eta: Tensor, layout: Layout, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.describe`."""
    out = torch.empty((4, layout.num_groups), dtype=torch.float64)
    totals = torch.empty((2, layout.num_models), dtype=torch.float64)
    eta = _fp64(eta)
    job = Job.from_buffer_copy(_tables(layout).job)
    job.mode = PER_GROUP if len(eta) == layout.num_groups else PLAIN
    job.sums, job.eta, job.scale = sums.data_ptr(), eta.data_ptr(), 0
    if factor is not None:
        factor = _fp64(factor)
        job.scale = factor.data_ptr()
    job.parts, job.totals = out.data_ptr(), totals.data_ptr()
    worker(_make_describe)(job)
    norm, grad_norm, elr, angle = out.unbind()
    return norm, grad_norm, elr, angle, totals


def _step(
    mode: int,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,
    radius: Tensor | None = None,
    scale: Tensor | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Tensor:
    tables = _tables(layout)
    sums = torch.empty((3, layout.num_groups), dtype=torch.float64)
    eta = _fp64(eta)
    radius = eta if radius is None else _fp64(radius)
    wide_scale = None if scale is None else _fp64(scale)
    job = Job.from_buffer_copy(tables.job)
    job.mode = mode
    job.eta, job.radius, job.sums = eta.data_ptr(), radius.data_ptr(), sums.data_ptr()
    job.scale = 0 if wide_scale is None else wide_scale.data_ptr()
    job.momentum, job.nesterov, job.weight_decay = momentum, nesterov, weight_decay
    _run(tables, job, thetas, grads, buffers)
    if scale is not None and wide_scale is not None and wide_scale is not scale:
        scale.copy_(wide_scale)
    return sums


def _run(
    tables: "Tables",
    job: Job,
    thetas: Sequence[Tensor],
    others: Sequence[Tensor],  # gradients, or outputs
    buffers: Sequence[Tensor] | None = None,
) -> None:
    """Carry out a job on these tensors, in as many threads as torch would use."""
    listed = [tensor.data_ptr() for tensor in (*thetas, *others, *(buffers or ()))]
    addresses = (ctypes.c_int64 * len(listed))(*listed)
    threads = min(torch.get_num_threads(), NUM_SPANS, 1 + tables.size // GRAIN)
    # Four sums of every chunk, and for each thread one of every model.
    scratch = torch.empty(4 * job.num_chunks + threads * job.num_models, dtype=torch.float64)
    job.thetas = ctypes.addressof(addresses)
    job.grads = job.thetas + 8 * job.num_tensors
    job.buffers = 0 if buffers is None else job.grads + 8 * job.num_tensors
    job.parts = scratch.data_ptr()
    job.totals = job.parts + 8 * 4 * job.num_chunks
    worker(_make_step, thetas[0].dtype, others[0].dtype)(job, threads)


def _make_step(source: str, like: np.ndarray, like_other: np.ndarray) -> Callable[[Any], None]:
    def step(address):
        _ = source
        cpu_kernels.work(address, like, like_other)

    return step


def _make_describe(source: str) -> Callable[[Any], None]:
    def describe(address):
        _ = source
        cpu_describe.describe(address)

    return describe


def _fp64(values: Tensor) -> Tensor:
    """Values as a worker reads them."""
    if values.dtype == torch.float64 and values.is_contiguous():
        return values
    return values.to(torch.float64).contiguous()


@dataclass(frozen=True, eq=False)
class Tables:
    """A layout as the workers take it."""

    size: int
    """elements of all tensors"""
    arrays: dict[str, np.ndarray]
    """what `job` points at, by field:
    chunks (num_chunks, 7) int32: tensor, row, begin, end, group, model, long group or -1;
    tensors (num_tensors, 2) int64: num_rows, run;
    spans (NUM_SPANS + 1,) int32: first chunk of every span;
    long_groups (num_long, 3) int32: a group that has not one chunk, its first and its end chunk
    """
    job: Job
    """with all that is the same in every call"""


_tables_of: weakref.WeakKeyDictionary[Layout, Tables] = weakref.WeakKeyDictionary()


def _tables(layout: Layout) -> Tables:
    tables = _tables_of.get(layout)
    if tables is None:
        tables = _tables_of[layout] = _make_tables(layout)
    return tables


def _make_tables(layout: Layout) -> Tables:
    first = layout.first_chunk_of_group.numpy()
    group, model = (
        layout.group_of_chunk.numpy(),
        layout.model_of_group.numpy()[layout.group_of_chunk.numpy()],
    )
    tensor, row, begin, end = layout.chunks.numpy().T
    long_groups = np.flatnonzero(np.diff(first) != 1)
    long = np.full(layout.num_groups, -1)
    long[long_groups] = np.arange(len(long_groups))
    # Whole rows of one tensor and model that follow each other in memory share a stripe.
    size, run = np.array(layout.row_size)[tensor], np.array(layout.run)[tensor]
    segment = tensor * layout.num_models + model
    whole = (end - begin == size) & (size <= run)
    start = np.searchsorted(segment, segment)
    part = np.where(
        whole,
        (row - row[start]) // np.maximum(STRIPE // np.maximum(size, 1), 1),
        np.arange(len(row)),
    )
    joined = (np.diff(segment, prepend=-1) == 0) & (np.diff(part, prepend=-1) == 0)
    heads = np.flatnonzero(~joined)
    rows = np.diff(heads, append=len(row))
    chunk = [tensor, model, np.arange(len(row)), group, long[group], row]
    stripes = np.column_stack(
        [*(column[heads] for column in chunk), rows, begin[heads], end[heads]]
    )
    # Besides its elements' work a chunk is as much as some hundred more.
    work = np.cumsum(end - begin + 200)[np.append(heads, len(row))[1:] - 1]
    total = work[-1] if len(work) else 0
    spans = np.searchsorted(np.append(0, work), np.linspace(0, total, NUM_SPANS + 1))
    ends = first[long_groups], first[long_groups + 1]
    arrays = {
        "model_of_group": layout.model_of_group.numpy(),
        "stripes": stripes.astype(np.int32),
        "tensors": np.column_stack([layout.num_rows, layout.run]).astype(np.int64),
        "spans": spans.astype(np.int32),
        "long_groups": np.column_stack([long_groups, *ends]).astype(np.int32),
    }
    job = Job(
        num_tensors=len(layout.num_rows),
        num_stripes=len(stripes),
        num_chunks=layout.num_chunks,
        num_long=len(long_groups),
        num_groups=layout.num_groups,
        num_models=layout.num_models,
        **{name: array.ctypes.data for name, array in arrays.items()},
    )
    return Tables(sum(map(operator.mul, layout.num_rows, layout.row_size)), arrays, job)
