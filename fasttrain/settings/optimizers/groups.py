"""Which parameters of a pack train, and the optimiser of a pack as the loop sees it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import UsageError

Named = list[tuple[str, Tensor]]


@dataclass(frozen=True)
class Trained:
    """The parameters that train, of K models folded into the first dimension of each."""

    sphere: Named
    """scale-invariant ones: they lie on the sphere, where there is one"""
    free: Named
    """all others"""
    num_models: int

    @property
    def all(self) -> Named:
        return [*self.sphere, *self.free]


def trained_parameters(model: nn.Module, sphere: Named, free: Named, num_models: int) -> Trained:
    """The parameters that a network says are on the sphere, and free: all that train.

    Raises:
        UsageError: a parameter that trains is in neither list, or in both.
    """
    names = [name for name, _ in (*sphere, *free)]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    left, odd = trainable - set(names), set(names) - trainable
    if left or odd or len(names) != len(set(names)):
        listed = ", ".join(sorted(left or odd or names)[:5])
        what = "train, and no optimiser takes them" if left else "are taken and do not train"
        raise UsageError(f"{type(model).__name__}: parameters that {what}: {listed}")
    return Trained(sphere, free, num_models)


class Built(Protocol):
    """The optimiser of a pack."""

    def start_(self) -> None:
        """Put new networks where training starts."""
        ...

    def zero_grad(self) -> None:
        """Drop all gradients."""
        ...

    def step(self) -> None:
        """Take one step of every model."""
        ...

    def add_effective_grad_norm_(self, total: Tensor) -> None:
        """Add ||g|| * ||theta|| over the sphere weights where the last gradient was taken.

        Args:
            total: (num_models,) fp64 on the device.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What a step depends on besides weights and rates, folded as a pack's state_dict is."""
        ...

    def load_(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state; from an empty one as new."""
        ...


class Capturable(Built, Protocol):
    """One whose steps a CUDA graph can repeat: all that a step reads lies on the device."""

    takes_copies: bool
    """whether `write_copies` may be called"""

    def write_copies(self, copies: dict[Tensor, Tensor]) -> None:
        """Write bf16 copies of these parameters in every step, and take the copies' gradients."""
        ...

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of torch's kind that it consists of: options and states stay where they lie."""
        ...


def drop_gradients(named: Named, copies: Iterable[Tensor] = ()) -> None:
    """Drop the gradients of parameters, and of the copies that some have."""
    for _, parameter in named:
        parameter.grad = None
    for copy in copies:
        copy.grad = None


def laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy in the parameter's memory layout, dtype and device."""
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
