"""A layout as the workers of `step.py` take it: tables, sums of chunks, and their job."""

import ctypes
import operator
import struct

import numpy as np

from ...numba_runtime.team import NUM_SPANS
from ..layout import Layout
from ..memory import memory_of
from .loops import Job

STRIPE = 4096
"""Elements of several rows that are worked on together."""


class Tables:
    """Everything that is the same in every call on a layout.

    Attributes:
        size: elements of all tensors.
        memory: where the lists of tensors lie.
    """

    def __init__(self, layout: Layout) -> None:
        self.size = sum(map(operator.mul, layout.num_rows, layout.row_size))
        self.memory = memory_of(layout)
        self._arrays = _arrays(layout)
        num_tensors = len(layout.num_rows)
        # Of parameters, of gradients or outputs, and of momentum buffers or both of Adam's moments.
        self._addresses = (ctypes.c_int64 * (4 * num_tensors))()
        self._pack = {
            n * num_tensors: struct.Struct(f"{n * num_tensors}q").pack_into for n in (2, 3, 4)
        }
        self._placed: list[int] | None = None
        # A rate of every model where nothing moves.
        self._still = np.zeros(layout.num_models)
        # Up to six sums of every chunk, and for each thread one of every model.
        self._scratch = np.empty(6 * layout.num_chunks + NUM_SPANS * layout.num_models)
        first = ctypes.addressof(self._addresses)
        self._lists = first, first + 8 * num_tensors, first + 16 * num_tensors
        parts = self._scratch.ctypes.data
        self._sums = parts, parts + 48 * layout.num_chunks
        self._job = Job(
            num_tensors=num_tensors,
            num_stripes=len(self._arrays["stripes"]),
            num_chunks=layout.num_chunks,
            num_long=len(self._arrays["long_groups"]),
            num_groups=layout.num_groups,
            num_models=layout.num_models,
            eta=self._still.ctypes.data,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )

    def job(self, mode: int) -> Job:
        """A job that lacks only what its call says."""
        job = Job.from_buffer_copy(self._job)
        job.mode = mode
        return job

    def place(self, job: Job, addresses: list[int]) -> None:
        """Tell a job where its tensors lie: two lists of addresses, or more with buffers."""
        if addresses is not self._placed:
            self._pack[len(addresses)](self._addresses, 0, *addresses)
            self._placed = addresses
        job.thetas, job.grads, buffers = self._lists
        job.buffers = buffers if len(addresses) > 2 * job.num_tensors else 0
        job.parts, job.totals = self._sums


def tables_of(layout: Layout) -> Tables:
    """The tables of a layout; made once."""
    tables = layout.kept.get("numba")
    if tables is None:
        tables = layout.kept["numba"] = Tables(layout)
    return tables


def _arrays(layout: Layout) -> dict[str, np.ndarray]:
    """What the job points at, by field.

    stripes (num_stripes, 9) int32: see `cpu_kernels.place_of`;
    tensors (num_tensors, 2) int64: num_rows, run;
    spans (NUM_SPANS + 1,) int32: first stripe of every span;
    long_groups (num_long, 3) int32: a group that has not one chunk, its first and its end chunk;
    model_of_group (num_groups,) int32.
    """
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
    return {
        "model_of_group": layout.model_of_group.numpy(),
        "stripes": stripes.astype(np.int32),
        "tensors": np.column_stack([layout.num_rows, layout.run]).astype(np.int64),
        "spans": spans.astype(np.int32),
        "long_groups": np.column_stack([long_groups, *ends]).astype(np.int32),
    }
