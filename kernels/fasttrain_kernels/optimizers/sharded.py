"""Parameters that are split over processes, as FSDP2's `fully_shard` leaves them: DTensors.

Every process has a part of each parameter. Kernels step the parts as any tensors; what is known of
whole parameters, the norm of a sphere or of a group above all, is added up over the mesh
(`sharded_step.py`). Groups, radii and statistics are those of the whole parameters, the same in
every process. A filter may be split: its sums are.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..step.layout import Layout, make_layout

NO_DEFERRED = "projection='deferred' is not for parameters that are split over processes"
NO_ADAM = "SphereAdam is not for parameters that are split over processes"


@dataclass(frozen=True, eq=False)
class Shards:
    """The parts that this process has of the parameters of a param group.

    Attributes:
        whole: layout of the whole parameters; its tables are on no device.
        parts: layout of the parts.
        group_of_part: the group of the whole that each group of the parts belongs to.
        counted: 1 for groups of parts whose sums this process adds, 0 where another has the same.
        process_groups: what sums are reduced over, one after another.
    """

    whole: Layout
    parts: Layout
    group_of_part: Tensor  # (parts.num_groups,) int64
    counted: Tensor  # (parts.num_groups,)
    process_groups: tuple[Any, ...]

    def of_whole(self, sums: Tensor) -> Tensor:
        """What these parts add to sums of the whole: (..., parts.num_groups), (..., num_groups)."""
        found = sums.new_zeros(*sums.shape[:-1], self.whole.num_groups)
        return found.index_add_(-1, self.group_of_part, sums * self.counted.to(sums.dtype))


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether there are DTensors among parameters."""
    # Without this module there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


def parts_of(tensors: Sequence[Tensor | None]) -> list[Any]:
    """What this process has of each tensor; None for None."""
    with torch.no_grad():
        return [_part(tensor) for tensor in tensors]


def placing(tensor: Any) -> tuple[Any, ...]:
    """How a tensor is split over processes."""
    if not is_sharded([tensor]):
        return (type(tensor).__name__,)
    return tensor.device_mesh, tuple(tensor.placements), tensor.to_local().stride()


def check_alike(theta: Tensor, other: Tensor, what: str) -> None:
    """Refuse a gradient or momentum that is split otherwise than its parameter."""
    if theta.shape != other.shape or placing(theta)[:2] != placing(other)[:2]:
        raise ValueError(
            f"a {what} must be split as its parameter of shape {tuple(theta.shape)} is, "
            f"{placing(theta)[:2]}; got one of shape {tuple(other.shape)}, {placing(other)[:2]}"
        )


def like_whole(part: Tensor, theta: Any) -> Tensor:
    """A part of a tensor that is split as a parameter is."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        theta.device_mesh,
        theta.placements,
        run_check=False,
        shape=theta.shape,
        stride=theta.stride(),
    )


def aligned_parts(
    thetas: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    buffers: Sequence[Tensor | None] | None,
) -> tuple[list[Any], list[Any], list[Any] | None]:
    """What this process has of parameters, gradients and momentum, which are split alike."""
    for others, what in ((grads, "gradient"), (buffers or (), "momentum buffer")):
        for theta, other in zip(thetas, others, strict=False):
            if other is not None:
                check_alike(theta, other, what)
    return parts_of(thetas), parts_of(grads), None if buffers is None else parts_of(buffers)


def make_shards(group: Mapping[str, Any]) -> Shards:
    """What this process has of the parameters of a param group.

    Raises:
        ValueError: parameters on several meshes or only some on one, placements other than Shard
            and Replicate, a pack, a deferred projection, a differentiable step.
    """
    thetas, groups, num_models = group["params"], group["groups"], group["num_models"]
    if group.get("sphere") and group["projection"] == "deferred":
        raise ValueError(NO_DEFERRED)
    if group.get("differentiable"):
        raise ValueError("differentiable is not for parameters that are split over processes")
    meshes = {theta.device_mesh if is_sharded([theta]) else None for theta in thetas}
    if len(meshes) > 1:
        raise ValueError(
            f"parameters of one param group must share a device mesh; got {[*map(str, meshes)]}"
        )
    if num_models != 1:
        raise ValueError(f"num_models={num_models}: a pack cannot be split over processes")
    mesh: Any = meshes.pop()
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"this process is not one of {mesh}, which has its parameters")
    for theta in thetas:
        _check_placements(theta)
    split = [
        axis
        for axis in range(mesh.ndim)
        if any(not theta.placements[axis].is_replicate() for theta in thetas)
    ]
    whole = make_layout(
        [torch.empty(theta.shape, device="meta") for theta in thetas], groups, num_models
    )
    parts = make_layout(parts_of(thetas), groups, num_models)
    device = thetas[0].to_local().device
    owners, counted, first = [], [], 0
    for theta, rows, part_rows in zip(thetas, whole.num_rows, parts.num_rows, strict=True):
        by_row = groups == "filter" and theta.ndim > 1
        begin = first + (_first_row(theta, mesh, coordinate) if by_row else 0)
        owners.append(torch.arange(begin, begin + part_rows))
        copy = any(coordinate[a] and theta.placements[a].is_replicate() for a in split)
        counted.append(torch.full((part_rows,), 0.0 if copy else 1.0, dtype=torch.float64))
        first += rows
    return Shards(
        whole,
        parts,
        torch.cat(owners).to(device),
        torch.cat(counted).to(device),
        tuple(mesh.get_group(axis) for axis in split),
    )


def _part(tensor: Any) -> Any:
    return tensor.to_local() if is_sharded([tensor]) else tensor


def _check_placements(theta: Any) -> None:
    # A strided shard, as of tensor parallelism below FSDP, has rows from several places.
    for placement in theta.placements:
        if type(placement).__name__ not in ("Shard", "Replicate"):
            raise ValueError(
                f"parameters may be placed as Shard and Replicate; one of shape "
                f"{tuple(theta.shape)} is {placement}"
            )


def _first_row(theta: Any, mesh: Any, coordinate: Sequence[int]) -> int:
    """The place of a part in the first dimension; torch cuts like `torch.chunk`."""
    begin, size = 0, theta.shape[0]
    for axis, placement in enumerate(theta.placements):
        if placement.is_shard(0):
            piece = -(-size // mesh.size(axis))
            skipped = min(coordinate[axis] * piece, size)
            begin, size = begin + skipped, min(piece, size - skipped)
    if size != theta.to_local().shape[0]:
        raise ValueError(
            f"a parameter of shape {tuple(theta.shape)} has a part of {theta.to_local().shape[0]} "
            f"rows where {size} were expected: it is split in an unknown way"
        )
    return begin
