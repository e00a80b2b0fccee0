"""Weights in bf16 that forward passes of captured steps read, in the place of autocast's casts.

Autocast casts a weight in every step, and its gradient back. Where a weight is cast once in a pass
and nothing else takes it, the pass can as well read a copy, which the optimiser writes in its own
pass: the same bits, without a cast. Which weights those are the first step tells, which is taken as
it is. All others, of normalisations, say, stay as they are, and so does whoever reads the weights
themselves: evaluation, averages, statistics, checkpoints.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..settings.optimizers.groups import Capturable

aten = torch.ops.aten
VIEWS = {aten.view, aten.t, aten.transpose, aten.permute, aten.unsqueeze, aten.squeeze}
"""operations whose gradient is the same numbers in other places, whatever their type"""

Write = Callable[[dict[Tensor, Tensor]], object]
"""tells an optimiser which copies, by weight, it is to write from here on"""


class CastOnce(TorchDispatchMode):
    """Watches which parameters of a model are cast to bf16, once, and taken by nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        of_memory = collections.defaultdict(list)
        for _, parameter in nn.Module.named_parameters(model):
            of_memory[parameter.untyped_storage().data_ptr()].append(parameter)
        # Parameters that share memory cannot be told apart.
        self._owners = {place: p[0] for place, p in of_memory.items() if len(p) == 1}
        self._casts: collections.Counter[Tensor] = collections.Counter()
        self._others: set[Tensor] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs)):
            if not isinstance(value, Tensor):
                continue
            owner = self._owners.get(value.untyped_storage().data_ptr())
            if owner is None or func.overloadpacket in VIEWS:
                continue
            if (
                func.overloadpacket is aten._to_copy
                and found.dtype == torch.bfloat16
                and value.dtype == torch.float32
            ):
                self._casts[owner] += 1
            else:
                self._others.add(owner)
        return found

    def parameters(self) -> list[Tensor]:
        """Those parameters. Of two casts gradients would be added in another type."""
        return [p for p, count in self._casts.items() if count == 1 and p not in self._others]


class WorkingCopies:
    """Copies of the weights of a model, made after a first pass that says which have one."""

    def __init__(self, model: nn.Module, write: Write) -> None:
        self.model, self.write = model, write
        self.copies: dict[Tensor, Tensor] = {}
        self._cast: list[Tensor] | None = None
        self._places: list[tuple[dict[str, Any], str, Tensor]] = []

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has them as its parameters, for a forward pass inside of autocast."""
        if self._cast is None:
            with CastOnce(self.model) as watched:
                yield
            self._cast = watched.parameters()
            return
        if len(self.copies) < len(self._cast):
            self._make(self._cast)
        try:
            for parameters, name, weight in self._places:
                parameters[name] = self.copies[weight]
            yield
        finally:
            for parameters, name, weight in self._places:
                parameters[name] = weight

    @torch.no_grad()
    def refresh_(self) -> None:
        """Bring them up to date: something else than a step may have written to the weights."""
        if self.copies:
            torch._foreach_copy_([*self.copies.values()], [*self.copies])  # type: ignore[attr-defined]

    def _make(self, weights: list[Tensor]) -> None:
        self.copies = {
            weight: torch.empty_like(
                weight, dtype=torch.bfloat16, requires_grad=weight.requires_grad
            )
            for weight in weights
        }
        self._places = [
            (module._parameters, name, weight)
            for module in self.model.modules()
            for name, weight in module._parameters.items()
            if weight is not None and weight in self.copies
        ]
        self.refresh_()
        self.write({weight: copy for weight, copy in self.copies.items() if weight.requires_grad})


def copies_for(model: nn.Module, optimizer: Capturable, precision: str) -> WorkingCopies | None:
    """Those of captured steps; None where there are no casts, or steps take gradients in fp32."""
    if precision != "bf16" or not optimizer.takes_copies:
        return None
    return WorkingCopies(model, optimizer.write_copies)
