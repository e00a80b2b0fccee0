"""The parameters of a param group on their spheres: what `on_sphere.py` does with them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..optimizers.statistics import aligned_gradients
from ..step.backend import choose_backend, load_backend
from ..step.layout import group_names, make_layout

Described = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class Spheres:
    """Parameters as they lie in memory, and what is kept of a step."""

    def __init__(self, number: int, group: dict[str, Any], backend: str | None) -> None:
        thetas, groups, num_models = group["params"], group["groups"], group["num_models"]
        names = group.get("param_names") or [f"{number}.{index}" for index in range(len(thetas))]
        self.thetas: list[Tensor] = list(thetas)
        self.form = form_of(thetas)
        self.joint = group["scope"] == "joint"
        self.layout = make_layout(thetas, groups, num_models)
        self.backend = load_backend(choose_backend(thetas, backend))
        self.names = [
            label
            for name, theta in zip(names, thetas, strict=True)
            for label in group_names(name, theta, groups, num_models)
        ]
        self.taken: Described | None = None
        """the last step, as `reference.describe` has it"""
        self._before: list[Tensor] = []
        self._sums: Tensor | None = None

    def norms(self) -> Tensor:
        """Of every sphere: (num_models,), or (num_groups,)."""
        squared = self.backend.group_sums(self.thetas, None, self.layout)[0]
        return (self.layout.per_model(squared) if self.joint else squared).sqrt()

    def project_(self, radius: Tensor, lr: float | Tensor | None = None) -> None:
        """Scale every sphere to its radius; a learning rate of 0 says that nothing has moved."""
        if not isinstance(lr, Tensor) and lr == 0:
            return
        factor = radius / self.norms()
        if isinstance(lr, Tensor):
            factor = torch.where((lr == 0).all(), 1.0, factor)
        factor = self.layout.per_group(factor) if self.joint else factor
        self.backend.scale_(self.thetas, self.layout, factor)
        # The kernels write past torch: autograd must not use values saved before.
        torch.autograd.graph.increment_version(self.thetas)

    def make_tangential_(self, vectors: Sequence[Tensor | None]) -> None:
        """Take the part along its parameters from each vector, as far as there are any."""
        if all(vector is None for vector in vectors):
            return
        squared, along, _ = self.backend.group_sums(self.thetas, self._filled(vectors), self.layout)
        if self.joint:
            squared, along = self.layout.per_model(torch.stack((squared, along)))
        share = along / squared
        share = self.layout.per_group(share) if self.joint else share
        shares = share.split(self.layout.num_rows)
        for theta, vector, of_rows in zip(self.thetas, vectors, shares, strict=True):
            if vector is not None and theta.numel():
                wide = torch.promote_types(theta.dtype, torch.float32)
                first = theta.shape[0] if theta.ndim else 1
                factor = of_rows.to(wide).repeat_interleave(first // len(of_rows))
                factor = factor.view(-1, *[1] * (theta.ndim - 1)) if theta.ndim else factor[0]
                vector.sub_(theta * factor)

    def remember(self) -> None:
        """Note where the gradient has been taken."""
        grads = self._filled([theta.grad for theta in self.thetas])
        self._sums = self.backend.group_sums(self.thetas, grads, self.layout)
        if not self._before:
            self._before = [torch.empty_like(theta) for theta in self.thetas]
        for before, theta in zip(self._before, self.thetas, strict=True):
            before.copy_(theta)

    def compare(self, lr: float | Tensor) -> None:
        """Describe the step that has led here from there."""
        if self._sums is None:
            return
        eta = self._sums.new_ones(self.layout.num_models) * lr
        norm, grad_norm, elr, _, totals = self.backend.describe(self._sums, eta, self.layout)
        # Of a small angle the way itself has more digits than both of its ends.
        for before, theta in zip(self._before, self.thetas, strict=True):
            torch.sub(theta, before, out=before)
        moved = self.backend.group_sums(self.thetas, self._before, self.layout)
        angle = self.backend.describe(moved, torch.ones_like(eta), self.layout)[3]
        self.taken = norm, grad_norm, elr, angle, totals
        self._sums = None

    def _filled(self, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As kernels take them: zeros for those that are not there."""
        filled = [
            torch.zeros_like(theta) if vector is None else vector
            for theta, vector in zip(self.thetas, vectors, strict=True)
        ]
        return aligned_gradients(self.thetas, filled)


def form_of(thetas: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """What has to stay for a layout to hold."""
    return [(t.shape, t.stride(), t.dtype, t.device, type(t)) for t in thetas]


def check_gradients(thetas: Sequence[Tensor]) -> None:
    """Refuse what the kernels cannot read."""
    for theta in thetas:
        grad = theta.grad
        if grad is None:
            continue
        if grad.layout is not torch.strided:
            raise ValueError(f"OnSphere takes dense gradients; got one of layout {grad.layout}")
        if grad.shape != theta.shape or grad.device != theta.device:
            raise ValueError(
                f"a parameter of shape {tuple(theta.shape)} on {theta.device} has a gradient of "
                f"shape {tuple(grad.shape)} on {grad.device}"
            )
