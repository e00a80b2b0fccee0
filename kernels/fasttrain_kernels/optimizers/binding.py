"""Parameters bound to a backend, the gradients and momentum buffers that fit them, their step."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..step.backend import Backend
from ..step.layout import Layout
from ..step.memory import Some, memory_of
from ..step.plain import Guard, oddity
from .copies import written
from .sharded import Shards, is_sharded, parts_of, placing
from .states import check_buffer, check_product
from .statistics import Totals, aligned_gradients, joined_totals, like


class Fitted(NamedTuple):
    """Gradients and buffers as a step takes them, one per parameter or None.

    Where there are buffers of two kinds, all of one come before all of the other.
    """

    grads: Some
    buffers: Some | None
    fresh: dict[int, Tensor]
    """buffers that the optimiser does not have yet, by their place among all buffers"""


class Binding:
    """The tensors of a param group as they lay in memory when they were bound to a backend.

    Attributes:
        layout: groups of the parameters, whole ones where `shards` says what is here of them.
        copied: whether projected copies have been written since the last step.
        complete: whether every parameter had a gradient at last.
        kind: dtypes of the gradients that were last fitted.
        rates: learning rates, after the numbers and before the radius that they were made from.
    """

    def __init__(
        self,
        thetas: Sequence[Tensor],
        backend: Backend,
        layout: Layout,
        names: list[str],
        shards: Shards | None = None,
    ) -> None:
        self.backend, self.layout, self.names, self.shards = backend, layout, names, shards
        self.form = form_of(thetas)
        self.memory = memory_of(layout if shards is None else shards.parts)
        self.copied, self.complete = False, True
        self.kind: object = None
        self.rates: tuple[tuple[Any, ...], Tensor, Tensor | None] | None = None
        # Of all tensors of a step in which every parameter had a gradient; of the parameters; of
        # each parameter with its gradient, and with its buffer if there are any.
        self._guard: Guard | None = None
        self._guard_of_thetas: Guard | None = None
        self._guards: list[Guard | None] = [None] * len(thetas)
        self._buffered = False
        self._complete_before = False
        self._written: list[tuple[Tensor, int]] | None = None
        self._zeros: dict[int, Tensor] = {}
        self._scratch: list[Tensor] = []

    def parts(self, thetas: Sequence[Any]) -> Sequence[Any]:
        """The tensors that kernels are given of parameters, or of what is split like them."""
        return thetas if self.shards is None else parts_of(thetas)

    def is_of(self, group: Mapping[str, Any], thetas: Sequence[Tensor]) -> bool:
        """Whether these parameters with these options are what was bound."""
        return (
            self.layout.groups == group["groups"]
            and self.layout.num_models == group["num_models"]
            and (self._are_same(thetas) or self.form == form_of(thetas))
        )

    def _are_same(self, thetas: Sequence[Tensor]) -> bool:
        """Whether one guard says that the parameters are as they were; if not, they may be."""
        if self.shards is not None or len({id(theta) for theta in thetas}) < len(thetas):
            return False
        if self._guard_of_thetas is None:
            if self.form == form_of(thetas):
                self._guard_of_thetas = Guard(thetas)
            return False
        return self._guard_of_thetas.holds(*thetas)

    def holds(
        self, group: Mapping[str, Any], thetas: Sequence[Tensor], grads: Some, buffers: Some | None
    ) -> bool:
        """Whether all of it is like what was fitted before, and needed no copy.

        Parameters without a gradient may be others than before.
        """
        if (
            self.layout.groups != group["groups"]
            or self.layout.num_models != group["num_models"]
            or self._buffered != (buffers is not None)
        ):
            return False
        if self._guard is not None and self._guard.holds(*grads, *thetas, *(buffers or ())):
            self.complete = True
            return True
        return self._holds_each(thetas, grads, buffers)

    def _holds_each(self, thetas: Sequence[Tensor], grads: Some, buffers: Some | None) -> bool:
        missing = 0
        for index, grad in enumerate(grads):
            if grad is None:
                missing += 1
                continue
            guard = self._guards[index]
            if guard is None:
                return False
            if buffers is None:
                holds = guard.holds(grad, thetas[index])
            else:
                own = buffers[index :: len(thetas)]
                holds = guard.holds(grad, thetas[index], *own)
            if not holds:
                return False
        self.complete = not missing
        return missing < len(grads)

    def fit(self, thetas: Sequence[Tensor], grads: Some, buffers: Some | None) -> Fitted:
        """Gradients and buffers laid out like their parameters; new buffers where there is none.

        Raises:
            ValueError: a gradient or buffer of another shape or device, sparse or wrapped.
        """
        aligned = aligned_gradients(thetas, grads)
        fresh: dict[int, Tensor] = {}
        given = None if buffers is None else list(buffers)
        for index, buffer in enumerate(buffers or ()):
            theta = thetas[index % len(thetas)]
            if given is not None and grads[index % len(thetas)] is not None:
                if buffer is None:
                    fitting = torch.zeros_like(theta).detach()
                else:
                    check_buffer(theta, buffer)
                    fitting = like(buffer, theta, theta.dtype)
                given[index] = fitting
                if fitting is not buffer:
                    fresh[index] = fitting
        self._guard_again(thetas, grads, buffers, aligned, not fresh)
        return Fitted(aligned, given, fresh)

    def _guard_again(
        self,
        thetas: Sequence[Tensor],
        grads: Some,
        buffers: Some | None,
        aligned: Some,
        old_buffers: bool,
    ) -> None:
        """Make guards of what was fitted, if kernels take it as it is."""
        kind = frozenset(grad.dtype for grad in aligned if grad is not None)
        if kind != self.kind or self._buffered != (buffers is not None):
            self._guard, self._guards = None, [None] * len(thetas)
        self.kind, self._buffered = kind, buffers is not None
        self.complete = all(grad is not None for grad in grads)
        # A guard costs more than a step: that of all is for what comes twice in a row.
        again, self._complete_before = self.complete and self._complete_before, self.complete
        # Buffers are like their parameters, if they are not copies.
        if not old_buffers or not all(map(operator.is_, aligned, grads)):
            self._guard = None
            return
        if self.complete:
            same: list[Any] = [*grads, *thetas, *(buffers or ())]
            # A tensor may be the gradient of two parameters: no guard holds for it.
            distinct = len({id(tensor) for tensor in same}) == len(same)
            self._guard = Guard(same) if distinct and again else None
            return
        for index, grad in enumerate(grads):
            if grad is not None:
                own: Any = () if buffers is None else buffers[index :: len(thetas)]
                self._guards[index] = Guard([grad, thetas[index], *own])

    def filled(self, thetas: Sequence[Tensor], fitted: Fitted) -> Fitted:
        """With zeros where there is no gradient: such a parameter is only projected."""
        grads, buffers = list(fitted.grads), list(fitted.buffers or ())
        dtype = next(grad.dtype for grad in grads if grad is not None)
        for index, grad in enumerate(fitted.grads):
            if grad is None:
                grads[index] = self._zero(thetas, index, dtype)
                for place in range(index, len(buffers), len(thetas)):
                    buffers[place] = self._zero(thetas, place + len(thetas), thetas[index].dtype)
        return Fitted(grads, None if fitted.buffers is None else buffers, fitted.fresh)

    def scaled(self, grads: Sequence[Any], factor: Tensor) -> list[Tensor]:
        """The gradients times a factor per group, in memory that the next call takes again."""
        if not self._scratch or self._scratch[0].dtype != grads[0].dtype:
            self._scratch = [torch.empty_like(grad) for grad in grads]
        self.backend.scale_(grads, self.layout, factor, self._scratch)
        return self._scratch

    def wrote_(self, thetas: Sequence[Tensor], copies: Some | None = None) -> None:
        """Tell torch that tensors were written: autograd must not use values saved before."""
        torch._C._increment_version([*thetas, *written(copies)])  # type: ignore[arg-type]
        self.copied = False
        if self._written is not None:
            self.remember(thetas)

    def remember(self, thetas: Sequence[Tensor]) -> None:
        """Take note of torch's counts of in-place changes, which it keeps on the host."""
        self._written = [(theta, theta._version) for theta in thetas]

    def written_elsewhere(self, thetas: Sequence[Tensor]) -> bool:
        """Whether torch has seen a write since `remember`."""
        return self._written is not None and not all(
            theta is known and theta._version == version
            for theta, (known, version) in zip(thetas, self._written, strict=True)
        )

    def _zero(self, thetas: Sequence[Tensor], index: int, dtype: torch.dtype) -> Tensor:
        """Zeros like one of the tensors, for its gradient or buffer; nothing changes them."""
        known = self._zeros.get(index)
        if known is None or known.dtype != dtype:
            known = torch.zeros_like(thetas[index % len(thetas)], dtype=dtype).detach()
            self._zeros[index] = known
        return known


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


def form_of(thetas: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """What has to stay for a binding to hold."""
    form: list[tuple[Any, ...]] = [
        (theta.shape, theta.stride(), theta.dtype, theta.device, oddity(theta)) for theta in thetas
    ]
    return form + [placing(theta) for theta in thetas] if is_sharded(thetas) else form
