"""Parameters bound to a backend, what is kept of their step, and which options they may have."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backend import Backend
from .groups import Layout
from .statistics import aligned_gradients


@dataclass
class Binding:
    """The tensors of a param group as they lay in memory when they were bound to a backend."""

    thetas: list[Tensor]
    backend: Backend
    layout: Layout
    names: list[str]
    copied: bool = False
    """whether projected copies have been written since the last step"""
    versions: list[int] | None = None
    """torch's counts of in-place changes when we last looked, where somebody asks for them"""
    zeros: dict[int, Tensor] = field(default_factory=dict)
    scratch: list[Tensor] = field(default_factory=list)
    form: list[tuple[Any, ...]] = field(default_factory=list)
    grad_form: list[tuple[Any, ...]] = field(default_factory=list)
    """dtype and stride of gradients that needed no copy"""
    rates: tuple[tuple[Any, ...], Tensor, Tensor | None] | None = None
    """learning rates, after the numbers and before the radius that they were made from"""

    def __post_init__(self) -> None:
        self.form = form_of(self.thetas)

    def zero(self, index: int) -> Tensor:
        """Zeros like one of the tensors; nothing may write other values there."""
        if index not in self.zeros:
            self.zeros[index] = torch.zeros_like(self.thetas[index])
        return self.zeros[index]

    def aligned(self, grads: list[Tensor]) -> list[Tensor]:
        """The gradients as the backend takes them; mostly they are what they were last time."""
        form = [(grad.dtype, grad.stride()) for grad in grads]
        if form == self.grad_form:
            return grads
        aligned = aligned_gradients(self.thetas, grads)
        if all(map(operator.is_, aligned, grads)):
            self.grad_form = form
        return aligned

    def scaled(self, grads: list[Tensor], factor: Tensor) -> list[Tensor]:
        """The gradients times a factor per group, in memory that the next call takes again."""
        if not self.scratch or self.scratch[0].dtype != grads[0].dtype:
            self.scratch = [torch.empty_like(grad) for grad in grads]
        self.backend.scale_(grads, self.layout, factor, self.scratch)
        return self.scratch

    def wrote_(self) -> None:
        """Tell torch that the tensors were written: autograd must not use values saved before."""
        torch.autograd.graph.increment_version(self.thetas)
        self.copied = False
        if self.versions is not None:
            self.remember()

    def remember(self) -> None:
        """Take note of torch's counts, which it keeps on the host."""
        self.versions = [theta._version for theta in self.thetas]

    def written_elsewhere(self) -> bool:
        """Whether torch has seen a write since `remember`."""
        return self.versions is not None and self.versions != [t._version for t in self.thetas]


class Taken(NamedTuple):
    """What is kept of a step of one param group."""

    binding: Binding
    sums: Tensor
    """(3, num_groups)"""
    eta: Tensor
    """raw learning rates, (num_models,) or (num_groups,)"""
    factor: Tensor | None = None
    """what the sums' gradients have to be multiplied by, (num_models,)"""

    def describe(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        binding = self.binding
        return binding.backend.describe(self.sums, self.eta, binding.layout, self.factor)


def form_of(thetas: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """What has to stay for a binding to hold."""
    return [(theta.shape, theta.stride(), theta.dtype, theta.device) for theta in thetas]


def check_device(theta: Tensor, state: Tensor) -> None:
    """Refuse a parameter that is on another device than the optimiser's state for it."""
    if theta.device != state.device:
        raise ValueError(
            f"a parameter of shape {tuple(theta.shape)} is on {theta.device}, the optimiser's "
            f"state for it on {state.device}: move the model before making its optimiser"
        )


def check_options(group: dict[str, Any]) -> None:
    """Refuse options outside their range, with the value and what is allowed."""
    lr, num_models = group["lr"], group["num_models"]
    if group["groups"] not in ("filter", "tensor"):
        raise ValueError(f"groups={group['groups']!r}: allowed are filter, tensor")
    if not isinstance(num_models, int) or num_models < 1:
        raise ValueError(f"num_models={num_models}: must be a whole number of at least 1")
    if isinstance(lr, Tensor):
        if lr.ndim and lr.shape != (num_models,):
            raise ValueError(
                f"a learning rate of shape {tuple(lr.shape)}: must be 0-d or ({num_models},)"
            )
    elif not lr >= 0:
        raise ValueError(f"learning rate {lr}: must be at least 0")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum={group['momentum']}: must be at least 0 and below 1")
    if group["nesterov"] and group["momentum"] == 0:
        raise ValueError("nesterov=True: needs a momentum above 0")
    if not group["weight_decay"] >= 0:
        raise ValueError(f"weight_decay={group['weight_decay']}: must be at least 0")
    for theta in group["params"]:
        if not theta.is_floating_point():
            raise ValueError(f"parameters must be of a floating-point type; got {theta.dtype}")
