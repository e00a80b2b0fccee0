"""A step of one param group: what is ready for it, and what is kept of it for statistics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..step.memory import Some
from .binding import Binding, Fitted
from .states import check_product
from .statistics import Totals, joined_totals


class Ready(NamedTuple):
    """A step of one param group, of which everything has been verified."""

    group: dict[str, Any]
    binding: Binding
    thetas: Sequence[Tensor]
    fitted: Fitted
    eta: Tensor
    """raw learning rates, (num_models,) or (num_groups,)"""
    copies: Some | None = None
    """in bf16, one per parameter or None; None where no parameter has one"""

    @property
    def writes(self) -> dict[str, Any]:
        """What a backend is told of them."""
        return {} if self.copies is None else {"copies": self.copies}


class Taken(NamedTuple):
    """What is kept of a step of one param group."""

    binding: Binding
    sums: Tensor
    """(3, num_groups)"""
    eta: Tensor
    """raw learning rates, (num_models,) or (num_groups,)"""
    factor: Tensor | None = None
    """what the sums' gradients have to be multiplied by, (num_models,)"""
    moved: list[bool] | None = None
    """which parameters the sums are of; None for all of them"""
    way: Tensor | None = None
    """<theta_i, d_i> and ||d_i||^2, (2, num_groups), where d is not the gradient"""

    def names(self) -> list[str]:
        if self.moved is None:
            return self.binding.names
        return [self.binding.names[group] for group in self._groups()]

    def describe(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        binding = self.binding
        found = binding.backend.describe(self.sums, self.eta, binding.layout, self.factor)
        if self.way is not None:
            sums = torch.cat((self.sums[:1], self.way))
            angle = binding.backend.describe(sums, self.eta, binding.layout)[3]
            found = *found[:3], angle, found[4]
        if self.moved is None:
            return found
        groups = torch.tensor(self._groups(), dtype=torch.int64, device=self.sums.device)
        norm, grad_norm, elr, step_angle = (column[groups] for column in found[:4])
        return norm, grad_norm, elr, step_angle, found[4]

    def totals(self, product: Tensor | None = None) -> Tensor:
        """Norms of every model and of its gradient, (2, num_models)."""
        return self.binding.backend.totals(self.sums, self.binding.layout, self.factor, product)

    def _groups(self) -> list[int]:
        """Indices of the groups of the parameters that moved."""
        counts, found, first = self.binding.layout.num_rows, [], 0
        for moved, count in zip(self.moved or (), counts, strict=True):
            found += range(first, first + count) if moved else ()
            first += count
        return found


def totals_of(taken: Sequence[Taken], product: Tensor | None) -> Totals:
    """Norms of one or several param groups together; the product of both is added to `product`."""
    if product is not None:
        check_product(product, taken[0].sums, taken[0].binding.layout.num_models)
    if len(taken) == 1:
        return joined_totals([taken[0].totals(product)])
    found = joined_totals([item.totals() for item in taken])
    if product is not None:
        product += found.norm * found.grad_norm
    return found
