"""The step of `reference.py` on a CPU, fused: one pass over memory, compiled by numba.

A pass reads parameters and gradients, moves the parameters, and sums:

    joint deferred, plain SGD, one sphere per group    12 bytes per fp32 parameter
    joint exact                                        20: the norm is known only after the pass

Momentum adds 8, bf16 gradients take 2 off. Sums are fp64 over blocks in fp32 (all fp64 with
momentum, for fp64 parameters, and where fp32 has not the range). Work is cut into chunks
(`groups.py`); threads take equally large spans of them, and every chunk has sums of its own, added
in order afterwards: bits depend neither on the number of threads nor on timing.

The compiled code is kept on disk between processes. bf16 travels as its bits, uint16.
"""

import operator
import threading
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from .cpu_kernels import (
    DEFERRED,
    EXACT,
    PER_GROUP,
    PLAIN,
    scale_kernel,
    step_kernel,
    sums_kernel,
)
from .groups import Layout

NUM_SPANS = 64

GRAIN = 2**19
"""Elements that are worth a thread: on busy cores waiting for it costs more than it saves."""

# numba's fallback thread pool takes one caller at a time.
_lock = threading.Lock()


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
    return _step(mode, thetas, grads, buffers, layout, eta, radius, scale, momentum, nesterov, 0.0)


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
        PLAIN, thetas, grads, buffers, layout, eta, eta, None, momentum, nesterov, weight_decay
    )


def group_sums(thetas: Sequence[Tensor], grads: Sequence[Tensor] | None, layout: Layout) -> Tensor:
    """See `reference.group_sums`."""
    tables = _tables(layout)
    sums = np.zeros((3, layout.num_groups))
    with _lock:
        _use_threads(layout)
        sums_kernel(
            _addresses(thetas),
            _addresses(thetas if grads is None else grads),
            _like(thetas),
            _like(thetas if grads is None else grads),
            *tables,
            sums,
        )
    if grads is None:
        sums[1:] = 0
    return torch.from_numpy(sums)


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,
    outputs: Sequence[Tensor] | None = None,
) -> None:
    """See `reference.scale_`."""
    outputs = thetas if outputs is None else outputs
    factors = factor.to(torch.float64).contiguous().numpy()
    with _lock:
        _use_threads(layout)
        scale_kernel(
            _addresses(thetas),
            _addresses(outputs),
            _like(thetas),
            _like(outputs),
            *_tables(layout),
            factors,
        )


def _step(
    mode: int,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,
    radius: Tensor,
    scale: Tensor | None,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> Tensor:
    sums = np.empty((3, layout.num_groups))
    with _lock:
        _use_threads(layout)
        step_kernel(
            mode,
            _addresses(thetas),
            _addresses(grads),
            _addresses(thetas if buffers is None else buffers),
            _like(thetas),
            _like(grads),
            *_tables(layout),
            eta.to(torch.float64).contiguous().numpy(),
            radius.to(torch.float64).contiguous().numpy(),
            np.ones(layout.num_models) if scale is None else scale.numpy(),
            buffers is not None,
            float(momentum),
            nesterov,
            float(weight_decay),
            sums,
        )
    return torch.from_numpy(sums)


class Tables(NamedTuple):
    """A layout as the kernels take it."""

    chunks: np.ndarray  # (num_chunks, 4)
    spans: np.ndarray  # (NUM_SPANS + 1,) first chunk of every span
    group_of_chunk: np.ndarray  # (num_chunks,)
    first_chunk_of_group: np.ndarray  # (num_groups + 1,)
    model_of_group: np.ndarray  # (num_groups,)
    num_rows: np.ndarray  # (num_tensors,)
    run: np.ndarray  # (num_tensors,)


_tables_of: weakref.WeakKeyDictionary[Layout, Tables] = weakref.WeakKeyDictionary()


def _tables(layout: Layout) -> Tables:
    if layout not in _tables_of:
        chunks = layout.chunks.numpy()
        work = np.concatenate([[0], np.cumsum(chunks[:, 3] - chunks[:, 2])])
        spans = np.searchsorted(work, np.linspace(0, work[-1], NUM_SPANS + 1), side="left")
        _tables_of[layout] = Tables(
            chunks,
            spans,
            layout.group_of_chunk.numpy(),
            layout.first_chunk_of_group.numpy(),
            layout.model_of_group.numpy(),
            np.array(layout.num_rows),
            np.array(layout.run),
        )
    return _tables_of[layout]


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


_LIKE = {
    torch.float32: np.empty(0, np.float32),
    torch.float64: np.empty(0, np.float64),
    torch.bfloat16: np.empty(0, np.uint16),
}


def _like(tensors: Sequence[Tensor]) -> np.ndarray:
    """An array without elements that tells a kernel the element type."""
    return _LIKE[tensors[0].dtype]


def _use_threads(layout: Layout) -> None:
    """As many threads as torch uses, but none for less than `GRAIN` elements."""
    size = sum(map(operator.mul, layout.num_rows, layout.row_size))
    most = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(most, -(-size // GRAIN))))
