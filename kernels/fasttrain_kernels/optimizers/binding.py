"""Parameters bound to a backend, and the gradients and momentum buffers that fit them."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..step.backend import Backend, choose_backend, load_backend
from ..step.layout import Layout, group_names, make_layout
from ..step.memory import Some, memory_of
from ..step.plain import Guard, oddity
from .copies import written
from .sharded import Shards, is_sharded, make_shards, parts_of, placing
from .sharded_step import Reductions, sharded_backend
from .states import check_buffer
from .statistics import aligned_gradients, like
from .wrappers import refuse_flattened


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


def bound(
    number: int, group: Mapping[str, Any], chosen: str | None, reductions: Reductions
) -> Binding:
    """A param group's tensors, with its backend and layout."""
    thetas = group["params"]
    refuse_flattened(thetas)
    names = group.get("param_names") or [f"{number}.{index}" for index in range(len(thetas))]
    groups, num_models = group["groups"], group["num_models"]
    backend = load_backend(choose_backend(parts_of(thetas), chosen))
    shards = make_shards(group) if is_sharded(thetas) else None
    return Binding(
        thetas,
        backend if shards is None else sharded_backend(backend, shards, reductions),
        make_layout(thetas, groups, num_models) if shards is None else shards.whole,
        [
            part
            for name, theta in zip(names, thetas, strict=True)
            for part in group_names(name, theta, groups, num_models)
        ],
        shards,
    )


def form_of(thetas: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """What has to stay for a binding to hold."""
    form: list[tuple[Any, ...]] = [
        (theta.shape, theta.stride(), theta.dtype, theta.device, oddity(theta)) for theta in thetas
    ]
    return form + [placing(theta) for theta in thetas] if is_sharded(thetas) else form
