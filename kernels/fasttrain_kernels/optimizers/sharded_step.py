"""Steps of parameters that are split over processes: a backend of the parts, norms of the whole.

Every process sums what it has of each group,

    ||theta_i||^2, <theta_i, g_i>, ||g_i||^2 before the step, ||theta_i||^2 after it,

and moves it; what waits for sums of the whole, the projection above all, is done once those of all
param groups have been added up, in one all-reduce for every step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..step import reference
from ..step.backend import Backend
from ..step.layout import Layout
from .sharded import NO_ADAM, NO_DEFERRED, Shards


class Reductions:
    """Sums of parts that wait for those of other processes, and what is to be done with them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Shards, Tensor, Callable[[Tensor], object]]] = []

    def add(self, shards: Shards, sums: Tensor, then: Callable[[Tensor], object]) -> None:
        """Enter sums, (rows, parts.num_groups); `then` gets the whole's, (rows, num_groups)."""
        self.waiting.append((shards, shards.of_whole(sums), then))

    def settle(self) -> None:
        """Add all of them up: those of one type on one mesh together."""
        waiting, self.waiting = self.waiting, []
        alike: dict[Any, list[tuple[Shards, Tensor, Callable[[Tensor], object]]]] = {}
        for item in waiting:
            kind = item[0].process_groups, item[1].dtype, item[1].device
            alike.setdefault(kind, []).append(item)
        for (process_groups, *_), items in alike.items():
            flat = torch.cat([sums.flatten() for _, sums, _ in items])
            for process_group in process_groups:
                torch.distributed.all_reduce(flat, group=process_group)
            parts = flat.split([sums.numel() for _, sums, _ in items])
            for (_, sums, then), part in zip(items, parts, strict=True):
                then(part.view_as(sums))


def sharded_backend(backend: Backend, shards: Shards, reductions: Reductions) -> Backend:
    """A backend of the parts, whose groups are those of the whole parameters.

    It is given the parts, and factors, radii and rates of the whole. Its steps are done, and the
    sums that they return are filled in, when the reductions are settled.
    """
    return Backend(
        backend.name,
        partial(_sphere_step_, backend, shards, reductions),
        partial(_sgd_step_, backend, shards, reductions),
        partial(_group_sums, backend, shards),
        partial(_scale_, backend, shards),
        reference.describe,
        reference.totals,
        _no_adam,
    )


def _no_adam(*_: Any, **__: Any) -> Tensor:
    raise ValueError(NO_ADAM)


def _sphere_step_(
    backend: Backend,
    shards: Shards,
    reductions: Reductions,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor] | None,
    layout: Layout,
    eta: Tensor,
    radius: Tensor,
    scale: Tensor | None,
    *,
    scope: str = "joint",
    elr: Tensor | None = None,
    **momentum: Any,
) -> Tensor:
    """See `reference.sphere_step_`; the projection is exact."""
    if scale is not None:
        raise ValueError(NO_DEFERRED)
    if elr is not None:
        reference.write_rates_(eta, elr, radius, layout, scope)
    parts = shards.parts
    if scope == "joint":
        before = backend.sgd_step_(thetas, grads, buffers, parts, eta, **momentum)
        after = backend.group_sums(thetas, None, parts)[:1]
    else:
        # A rate per group is known to no plain step of a backend.
        rates = eta[shards.group_of_part]
        before, after = reference.move_(thetas, grads, buffers, parts, rates, None, **momentum)
    found = before.new_empty(3, layout.num_groups)

    def project(sums: Tensor) -> None:
        found.copy_(sums[:3])
        norms = (sums[3:].sum(-1) if scope == "joint" else sums[3]).sqrt()
        _scale_(backend, shards, thetas, layout, (radius / norms).expand(layout.num_groups))

    reductions.add(shards, torch.cat([before, after.reshape(1, -1)]), project)
    return found


def _sgd_step_(
    backend: Backend,
    shards: Shards,
    reductions: Reductions,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
    layout: Layout,
    eta: Tensor,
    *,
    track: bool = True,
    **options: Any,
) -> Tensor:
    """See `reference.sgd_step_`."""
    sums = backend.sgd_step_(thetas, grads, buffers, shards.parts, eta, track=track, **options)
    if not track:
        return sums
    found = sums.new_empty(3, layout.num_groups)
    reductions.add(shards, sums, found.copy_)
    return found


def _group_sums(
    backend: Backend,
    shards: Shards,
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    layout: Layout,
) -> Tensor:
    """See `reference.group_sums`; added up at once."""
    sums = shards.of_whole(backend.group_sums(thetas, grads, shards.parts))
    for process_group in shards.process_groups:
        torch.distributed.all_reduce(sums, group=process_group)
    return sums


def _scale_(
    backend: Backend,
    shards: Shards,
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,  # (num_groups,) of the whole
    outputs: Sequence[Tensor] | None = None,
) -> None:
    """See `reference.scale_`."""
    backend.scale_(thetas, shards.parts, factor[shards.group_of_part], outputs)
