"""The step of `reference.py` on a CPU, fused: one pass over memory, compiled by numba.

A pass reads parameters and gradients, moves the parameters, and sums:

    joint deferred, plain SGD, one sphere per group    12 bytes per fp32 parameter
    joint exact                                        20: the norm is known only after a pass

Momentum adds 8, bf16 gradients take 2 off per read. Sums are fp64 over blocks in fp32 (all fp64 for
fp64 parameters, and where fp32 has not the range). Work is cut into chunks (`layout.py`); threads
take equally large shares of them, and every chunk has sums of its own, added in order afterwards:
bits depend neither on the number of threads nor on timing.

The compiled code is kept on disk between processes. bf16 travels as its bits, uint16.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...numba_runtime.ahead import Loop
from ...numba_runtime.team import team_size, worker
from ..layout import Layout
from ..plain import Guard, is_readable, oddity, shown
from ..reference import write_copies_, write_rates_
from . import describe as cpu_describe
from . import loops as cpu_kernels
from .adam import adam_step_ as adam_step_
from .loops import DEFERRED, EXACT, PER_GROUP, PLAIN, SCALE, SUMS, UNTRACKED, Job
from .tables import Tables, tables_of

MAX_GUARDS = 64
"""Shapes of rates, radii and sums that are known at a glance."""


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
    elr: Tensor | None = None,
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """See `reference.sphere_step_`."""
    if elr is not None:
        write_rates_(eta, elr, radius, layout, scope)
    mode = PER_GROUP if scope == "group" else EXACT if scale is None else DEFERRED
    sums = _step(mode, thetas, grads, buffers, layout, eta, radius, scale, momentum, nesterov)
    write_copies_(thetas, copies)
    return sums


def sgd_step_(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Tensor = 0.0,
    track: bool = True,
    copies: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """See `reference.sgd_step_`."""
    mode = PLAIN if track else UNTRACKED
    sums = _step(
        mode, thetas, grads, buffers, layout, eta, None, None, momentum, nesterov, weight_decay
    )
    write_copies_(thetas, copies)
    return sums


def group_sums(thetas: Sequence[Tensor], grads: Sequence[Tensor] | None, layout: Layout) -> Tensor:
    """See `reference.group_sums`."""
    tables = tables_of(layout)
    addresses = tables.memory.reading(thetas, grads)
    job, sums = tables.job(SUMS), _empty(3, layout.num_groups)
    job.sums = _address(sums)
    _run(tables, job, addresses, thetas, thetas if grads is None else grads)
    if grads is None:
        sums[1:] = 0
    return sums


def scale_(
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,
    outputs: Sequence[Tensor] | None = None,
    copies: Sequence[Tensor | None] | None = None,
) -> None:
    """See `reference.scale_`."""
    others = thetas if outputs is None else outputs
    factor, tables = _vector(factor, layout.num_groups), tables_of(layout)
    addresses = tables.memory.writing(thetas, others)
    job = tables.job(SCALE)
    job.eta = factor.data_ptr()
    _run(tables, job, addresses, thetas, others)
    write_copies_(others, copies)


def describe(
    sums: Tensor, eta: Tensor, layout: Layout, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.describe`."""
    grouped = eta.numel() == layout.num_groups
    eta = _vector(eta, layout.num_groups if grouped else layout.num_models)
    out = _empty(4, layout.num_groups)
    job = tables_of(layout).job(PER_GROUP if grouped else PLAIN)
    job.eta, job.parts = eta.data_ptr(), _address(out)
    found = _describe(job, sums, layout, factor)
    norm, grad_norm, elr, angle = out.unbind()
    return norm, grad_norm, elr, angle, found


def totals(
    sums: Tensor, layout: Layout, factor: Tensor | None = None, product: Tensor | None = None
) -> Tensor:
    """See `reference.totals`."""
    found = _describe(tables_of(layout).job(PLAIN), sums, layout, factor)
    if product is not None:
        product += found[0] * found[1]
    return found


def _describe(job: Job, sums: Tensor, layout: Layout, factor: Tensor | None) -> Tensor:
    """Norms of models, and of groups if the job has a place for them."""
    found = _empty(2, layout.num_models)
    wide = None if factor is None else _vector(factor, layout.num_models)
    job.sums = _vector(sums, 3, layout.num_groups).data_ptr()
    job.scale = 0 if wide is None else wide.data_ptr()
    job.totals = _address(found)
    worker(_make_describe)(job)
    return found


def _step(
    mode: int,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,
    radius: Tensor | None = None,
    scale: Tensor | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Tensor = 0.0,
) -> Tensor:
    tables = tables_of(layout)
    grads, addresses = tables.memory.step(thetas, grads, buffers)
    count = layout.num_groups if mode == PER_GROUP else layout.num_models
    eta = _vector(eta, count)
    radius = eta if radius is None else _vector(radius, count)
    wide = None if scale is None else _vector(scale, count)
    job = tables.job(mode)
    sums = eta.new_empty((3, 0 if mode == UNTRACKED else layout.num_groups))
    job.sums = _address(sums)
    job.eta, job.radius = eta.data_ptr(), radius.data_ptr()
    job.scale = 0 if wide is None else wide.data_ptr()
    job.momentum, job.nesterov = momentum, nesterov
    if isinstance(weight_decay, Tensor):
        weight_decay = _vector(weight_decay, count)
        job.decays = weight_decay.data_ptr()
    else:
        job.weight_decay = weight_decay
    _run(tables, job, addresses, thetas, grads)
    if scale is not None and wide is not None and wide is not scale:
        scale.copy_(wide)
    return sums


def _run(
    tables: Tables,
    job: Job,
    addresses: list[int],
    thetas: Sequence[Tensor],
    others: Sequence[Tensor | None],  # gradients, or outputs
) -> None:
    """Carry out a job on what is at these addresses, in as many threads as torch would use."""
    tables.place(job, addresses)
    theta = thetas[0].dtype
    other = next((tensor.dtype for tensor in others if tensor is not None), theta)
    worker(_make_step, theta, other)(job, team_size(tables.size))


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


_guards: dict[tuple[int, ...], Guard] = {}
"""What workers may read, by shape"""


def _vector(values: Tensor, *shape: int) -> Tensor:
    """Values as a worker reads them: fp64, plain, in order, as many as it will read."""
    guard = _guards.get(shape)
    if guard is None or not guard.holds(values):
        values = _verified(values, shape)
        if len(_guards) < MAX_GUARDS:
            _guards[shape] = Guard([values])
    _address(values)
    return values


def _verified(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    plain = type(values) is Tensor and values.dtype == torch.float64 and values.is_contiguous()
    if not plain or oddity(values) or values.device.type != "cpu":
        if values.device.type != "cpu" or oddity(values) and not is_readable(values):
            raise ValueError(f"expected a plain tensor on a CPU; got {shown(values)}")
        values = torch.empty(values.shape, dtype=torch.float64, device="cpu").copy_(values)
    if values.shape != shape:
        raise ValueError(f"expected values of shape {shape}; got {tuple(values.shape)}")
    return values


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _address(values: Tensor) -> int:
    """Where a worker may write or read; not inside of a mode that makes tensors without memory."""
    address = values.data_ptr() if type(values) is Tensor else 0
    if not address and values.numel():
        raise ValueError(f"a plain tensor was expected; here torch makes {shown(values)}")
    return address


def loops(dtype: torch.dtype) -> list[Loop]:
    """What steps on parameters of a type are made of, and what describes them."""
    return [
        Loop("optimizer step", _make_step, (dtype, dtype)),
        Loop("statistics", _make_describe, ()),
    ]
