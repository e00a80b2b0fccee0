"""Working copies of parameters in bf16, which forward passes read and steps write beside them.

Under autocast every bf16 operation casts its weights anew, and every gradient back. Operations on a
copy cast nothing; the step that writes the parameter writes what it rounds to, to nearest even as
a cast does, and takes the copy's gradient as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..step.layout import lie_alike
from ..step.memory import Some, check_apart
from ..step.plain import Guard, oddity, shown, uncompiled
from ..step.reference import write_copies_
from .param_groups import by_torch


class Copies:
    """Copies of some of an optimiser's parameters; of none if not told."""

    def __init__(self, copies: Mapping[Tensor, Tensor] | None = None) -> None:
        self.of = dict(copies or {})
        self._guard: Guard | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A guard is of this process.
        return {"of": self.of, "_guard": None}

    def check(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Refuse copies that steps of these param groups cannot write.

        Raises:
            ValueError: which, and why.
        """
        left = dict(self.of)
        for group in groups:
            some = [left.pop(theta) for theta in group["params"] if theta in left]
            if some:
                _check_options(group)
        if left:
            sizes = ", ".join(str(tuple(theta.shape)) for theta in list(left)[:5])
            raise ValueError(
                f"copies of tensors that are no parameters here, of shapes {sizes}: give"
                " write_copies those of its param groups"
            )
        self._check_tensors()
        check_apart([*self.of, *self.of.values()])

    def listed(self, group: Mapping[str, Any]) -> list[Tensor | None] | None:
        """One per parameter of a param group; None if none of them has a copy.

        Raises:
            ValueError: as `check`, for what has changed since.
        """
        if not self.of:
            return None
        found = [self.of.get(theta) for theta in group["params"]]
        if all(copy is None for copy in found):
            return None
        _check_options(group)
        if self._guard is None or not self._guard.holds(*self.of, *self.of.values()):
            self._check_tensors()
        return found

    def of_groups(self, groups: Sequence[Mapping[str, Any]]) -> list[list[Tensor | None] | None]:
        """Those of every param group.

        Raises:
            ValueError: as `check`, for what has changed since.
        """
        found = [self.listed(group) for group in groups]
        if self.of and sum(len(written(some)) for some in found) < len(self.of):
            self.check(groups)
        return found

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Of a parameter, or of its copy in its place.

        Raises:
            ValueError: there are both.
        """
        copy = self.of.get(theta)
        if copy is None or copy.grad is None:
            return theta.grad
        if theta.grad is not None:
            raise ValueError(
                f"a parameter of shape {tuple(theta.shape)} and its copy both have a gradient: an"
                " operation took the parameter itself; let all take the copy, or have none"
                " (zero_grad() drops both)"
            )
        return copy.grad

    def gradients(self, thetas: Sequence[Tensor]) -> list[Tensor | None]:
        """Of every parameter; where some are no bf16 those that are are cast, all at once."""
        grads = [self.gradient(theta) for theta in thetas]
        narrow = [
            i for i, grad in enumerate(grads) if grad is not None and grad is not thetas[i].grad
        ]
        if narrow and len(narrow) < sum(grad is not None for grad in grads):
            wide = [torch.empty_like(thetas[i], requires_grad=False) for i in narrow]
            torch._foreach_copy_(wide, [grads[i] for i in narrow])  # type: ignore[attr-defined]
            for i, grad in zip(narrow, wide, strict=True):
                grads[i] = grad
        return grads

    def drop_gradients(self) -> None:
        """Of the copies, and of their parameters: zeros there would be a second gradient."""
        for theta, copy in self.of.items():
            theta.grad = copy.grad = None

    def _check_tensors(self) -> None:
        for theta, copy in self.of.items():
            if oddity(theta):
                raise ValueError(f"only plain parameters can have copies; got {shown(theta)}")
            fits = copy.shape == theta.shape and lie_alike(
                theta.shape, copy.stride(), theta.stride()
            )
            if (
                oddity(copy)
                or copy.dtype != torch.bfloat16
                or copy.device != theta.device
                or not fits
            ):
                raise ValueError(
                    f"a copy must be a plain torch.bfloat16 tensor of shape {tuple(theta.shape)}"
                    f" and strides {theta.stride()} on {theta.device}, as its parameter lies; got"
                    f" {shown(copy)}, {copy.dtype}, strides {copy.stride()} on {copy.device}"
                )
        self._guard = Guard([*self.of, *self.of.values()])


class WritesCopies(Optimizer):
    """An optimiser whose steps write copies."""

    _copies = Copies()

    @uncompiled
    def write_copies(self, copies: Mapping[Tensor, Tensor]) -> None:
        """Write parameters rounded to bf16 into copies: now, and in every step beside them.

        A forward pass that reads copies needs no cast. A step takes their gradients in place of
        those of the parameters, which have to have none. What else writes to the parameters has to
        be followed by this again.

        Args:
            copies: by parameter, as it lies in memory; those given before are forgotten.

        Raises:
            ValueError: copies that do not fit, or options of steps that cannot write them.
        """
        new = Copies(copies)
        new.check(self.param_groups)
        write_copies_([*new.of], [*new.of.values()])
        self._copies = new

    @uncompiled
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients; those of copies and of their parameters are None in any case."""
        super().zero_grad(set_to_none)
        self._copies.drop_gradients()


def written(copies: Some | None) -> list[Tensor]:
    """Those that there are."""
    return [copy for copy in copies or () if copy is not None]


def _check_options(group: Mapping[str, Any]) -> None:
    if group.get("sphere") and group["projection"] == "deferred":
        raise ValueError(
            "projection='deferred' leaves parameters beside their spheres, and so would be their"
            " copies: take 'exact', or write projected_(copies) after every step"
        )
    if by_torch(group):
        raise ValueError(
            "copies are written by fused steps, and dampening, maximize and differentiable are"
            " steps of torch's function"
        )
