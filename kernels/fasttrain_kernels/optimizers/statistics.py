"""Statistics per group, all on the device: of an optimiser's step, or of any list of tensors.

Effective learning rate of a group, and the angle its step turns it by (before any other group
moves; arXiv 2410.22113, section on effective learning rates):

    elr_i = eta_i / ||theta_i||^2        phi_i = angle(theta_i, theta_i - eta_i * g_i)

On a joint sphere sum_i 1 / elr_i = 1 / elr.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..step.backend import choose_backend, load_backend
from ..step.layout import group_names, lie_alike, make_layout
from ..step.plain import is_readable, oddity, shown
from .states import check_product


@dataclass(frozen=True, eq=False)
class Statistics:
    """State of every group at the point where the last step's gradient was taken.

    The tensors are fp64 on a CPU and fp32 or wider elsewhere, on the parameters' device.

    Attributes:
        names: group names, in the order of the entries below.
        norm: ||theta_i||, (num_groups,).
        grad_norm: ||g_i||, (num_groups,).
        elr: effective learning rate, (num_groups,).
        step_angle: radians in [0, pi], (num_groups,).
        total_norm: norm of all parameters together, 0-d; of a pack, (num_models,).
        total_grad_norm: norm of all gradients together, likewise.
    """

    names: list[str]
    norm: Tensor
    grad_norm: Tensor
    elr: Tensor
    step_angle: Tensor
    total_norm: Tensor
    total_grad_norm: Tensor

    def to_dict(self) -> dict[str, list[str] | list[float] | float]:
        """Plain Python values; reads the device once."""
        columns = (self.norm, self.grad_norm, self.elr, self.step_angle)
        totals = torch.stack([self.total_norm, self.total_grad_norm])
        values = torch.cat([*columns, totals.flatten()]).tolist()
        size = len(self.names)
        fields = ("norm", "grad_norm", "elr", "step_angle")
        table = {name: values[i * size : (i + 1) * size] for i, name in enumerate(fields)}
        rest = torch.tensor(values[4 * size :], dtype=torch.float64)
        norms, grad_norms = rest.view_as(totals).tolist()
        return {"names": self.names, **table, "total_norm": norms, "total_grad_norm": grad_norms}


class Totals(NamedTuple):
    """Norms where the last step's gradient was taken: 0-d; of a pack, (num_models,)."""

    norm: Tensor
    """of all parameters together"""
    grad_norm: Tensor
    """of all gradients together"""


class TotalsOf:
    """`Totals` of tensors without a step, computed at every call with their gradients.

    The layout of the tensors is copied to their device once, so a CUDA graph can hold the call.

    Args:
        tensors, num_models, backend: as for `group_statistics`.
    """

    def __init__(
        self, tensors: Sequence[Tensor], *, num_models: int = 1, backend: str | None = None
    ) -> None:
        self._tensors = tensors
        self._backend = load_backend(choose_backend(tensors, backend))
        self._layout = make_layout(tensors, "filter", num_models)

    def __call__(self, grads: Sequence[Tensor]) -> Totals:
        """With these gradients; raises as `group_statistics` does."""
        return self.totals(self.sums(grads))

    @torch.no_grad()
    def sums(self, grads: Sequence[Tensor]) -> Tensor:  # (3, num_groups)
        """What `totals` are made of, though the tensors have been moved meanwhile: one pass."""
        aligned = aligned_gradients(self._tensors, grads)
        return self._backend.group_sums(self._tensors, aligned, self._layout)

    @torch.no_grad()
    def totals(self, sums: Tensor, product: Tensor | None = None) -> Totals:
        """Of what `sums` gave; to `product`, fp64 of every model, the product of both is added."""
        if product is not None:
            check_product(product, sums, self._layout.num_models)
        return joined_totals([self._backend.totals(sums, self._layout, None, product)])


@torch.no_grad()
def group_statistics(
    tensors: Sequence[Tensor],
    grads: Sequence[Tensor] | None = None,
    lr: float | Tensor = 0.0,
    *,
    names: Sequence[str] | None = None,
    groups: str = "filter",
    num_models: int = 1,
    backend: str | None = None,
) -> Statistics:
    """Statistics of any tensors without a step, in one pass over memory.

    Args:
        tensors: dense tensors of one dtype on one device.
        grads: their gradients; without them grad_norm and step_angle are 0.
        lr: raw learning rate, a number or a tensor, 0-d or (num_models,).
        names: one per tensor; their numbers if not given.
        groups, num_models, backend: as for the optimisers.

    Raises:
        ValueError: gradients or a rate that do not fit the tensors, or tensors that are not plain.
    """
    chosen = load_backend(choose_backend(tensors, backend))
    layout = make_layout(tensors, groups, num_models)
    for given, what in ((grads, "gradients"), (names, "names")):
        if given is not None and len(given) != len(tensors):
            raise ValueError(f"got {len(given)} {what} for {len(tensors)} tensors")
    if isinstance(lr, Tensor):
        check_rate(lr, num_models, tensors[0].device)
    aligned = None if grads is None else aligned_gradients(tensors, grads)
    sums = chosen.group_sums(tensors, aligned, layout)
    eta = sums.new_ones(num_models) * lr
    labels = [str(index) for index in range(len(tensors))] if names is None else names
    listed = [
        name
        for label, tensor in zip(labels, tensors, strict=True)
        for name in group_names(label, tensor, groups, num_models)
    ]
    return joined_statistics(listed, [chosen.describe(sums, eta, layout)])


def check_rate(
    lr: Tensor, num_models: int, device: torch.device, what: str = "learning rate"
) -> None:
    """Refuse a tensor that is no learning rate of `num_models` models on this device.

    A tensor of one number may lie on the CPU.
    """
    if lr.ndim and lr.shape != (num_models,):
        raise ValueError(f"a {what} of shape {tuple(lr.shape)}: must be 0-d or ({num_models},)")
    if lr.device != device and (lr.ndim or lr.device.type != "cpu"):
        raise ValueError(f"a {what} on {lr.device} for parameters on {device}")
    if oddity(lr) and not is_readable(lr):
        raise ValueError(f"a {what} must be a number or a plain tensor; got {shown(lr)}")


def joined_statistics(
    names: list[str], parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
) -> Statistics:
    """Statistics of one or several lists of tensors, each as `reference.describe` has it."""
    norm, grad_norm, elr, step_angle, _ = parts[0]
    if len(parts) > 1:
        norm, grad_norm, elr, step_angle = (
            torch.cat([part[column] for part in parts]) for column in range(4)
        )
    totals = joined_totals([part[4] for part in parts])
    return Statistics(names, norm, grad_norm, elr, step_angle, *totals)


def joined_totals(parts: Sequence[Tensor]) -> Totals:
    """Totals of one or several lists of tensors, each as `reference.totals` has it."""
    joined = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack([*parts]), dim=0)
    return Totals(*joined.squeeze(1))


def aligned_gradients(
    tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients as kernels take them: laid out like their tensors, all of one dtype.

    That dtype is their own if they share it and it is the tensors' or bf16, else the tensors'.

    Raises:
        ValueError: a gradient that is wrapped, or of another shape or device.
        RuntimeError: a sparse gradient.
    """
    for tensor, grad in zip(tensors, grads, strict=True):
        if grad is not None:
            _check_gradient(tensor, grad)
    dtypes = {grad.dtype for grad in grads if grad is not None}
    keep = len(dtypes) == 1 and dtypes <= {tensors[0].dtype, torch.bfloat16}
    return [
        None if grad is None else like(grad, tensor, None if keep else tensor.dtype)
        for tensor, grad in zip(tensors, grads, strict=True)
    ]


def _check_gradient(tensor: Tensor, grad: Tensor) -> None:
    if grad.layout is not torch.strided:
        # As torch's optimisers that take none.
        raise RuntimeError(
            f"optimisers and statistics do not support sparse gradients, only dense gradients; got "
            f"one of layout {grad.layout} and shape {tuple(grad.shape)}"
        )
    if grad.shape != tensor.shape or grad.device != tensor.device:
        raise ValueError(
            f"a gradient of shape {tuple(grad.shape)} on {grad.device} for a tensor of shape "
            f"{tuple(tensor.shape)} on {tensor.device}: was the tensor changed after backward()?"
        )
    if oddity(grad) and not is_readable(grad) or not grad.is_floating_point():
        raise ValueError(f"gradients must be plain floating-point tensors; got {shown(grad)}")


def like(source: Tensor, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`source` laid out in memory like `tensor`: itself, or a plain copy if that differs."""
    dtype = source.dtype if dtype is None else dtype
    if (
        source.dtype == dtype
        and lie_alike(tensor.shape, source.stride(), tensor.stride())
        and not oddity(source)
    ):
        return source
    plain = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=tensor.device)
    return plain.copy_(source)
