"""A step of the Triton kernels on some parameters, and its comparison with `reference.py`."""

import os
from typing import Any

import torch
from torch import Tensor

from fasttrain_kernels.step import reference
from fasttrain_kernels.step.layout import make_layout
from fasttrain_kernels.step.triton import adam_step, sgd_step, sphere_step

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

# Error relative to the largest value, beyond that of the reference in the same dtype. fp64: the
# algebra. fp32: a dozen roundings of 6e-8 along a norm and a step. bf16: one unit in the last
# place, because the interpreter cuts digits off instead of rounding.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 6e-7, torch.bfloat16: 2**-7}

STEPS = ["exact", "deferred", "group", "sgd", "decays", "adam"]
"""`decays` is sgd with a weight decay per model."""
MOMENTA = {"plain": (0.0, False), "momentum": (0.9, False), "nesterov": (0.9, True)}


class Problem:
    """Parameters, gradients and buffers of some shapes, and a step of one kind over them."""

    def __init__(
        self,
        shapes: list[tuple[int, ...]],
        kind: str,
        momentum: str = "plain",
        *,
        dtype: torch.dtype = torch.float64,
        grad_dtype: torch.dtype | None = None,
        num_models: int = 1,
        groups: str = "filter",
        size: float = 1.0,
        seed: int = 0,
        effective: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(stored: torch.dtype) -> list[Tensor]:
            made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
            return [in_some_format((size * t).to(DEVICE, stored)) for t in made]

        def uniform(count: int) -> Tensor:
            values = torch.rand(count, generator=generator, dtype=torch.float64)
            return values.to(DEVICE, torch.float64 if dtype == torch.float64 else torch.float32)

        self.kind, (self.momentum, self.nesterov) = kind, MOMENTA[momentum]
        self.thetas, self.grads = normal(dtype), normal(grad_dtype or dtype)
        self.buffers = normal(dtype) if self.momentum else None
        if kind == "adam":
            self.buffers = normal(dtype) + [t.square_() for t in normal(dtype)]
        self.layout = make_layout(self.thetas, groups, num_models)
        count = self.layout.num_groups if kind == "group" else num_models
        self.eta = 0.1 * uniform(count)
        self.radius = size * (1 + uniform(count))
        self.elr = None
        if effective:
            self.elr, self.eta = 0.1 * uniform(num_models), torch.full_like(self.eta, torch.nan)
        self.scale = 0.5 + uniform(num_models) if kind == "deferred" else None
        self.decay = 0.05 * uniform(num_models) if kind == "decays" else 0.01
        self.copies: list[Tensor | None] | None = None

    def copy(self, dtype: torch.dtype | None = None) -> "Problem":
        """The same, or the same numbers in another dtype."""
        new = object.__new__(Problem)
        new.__dict__ |= self.__dict__
        for name in ("thetas", "grads", "buffers", "eta", "radius", "scale", "decay", "elr"):
            value = getattr(self, name)
            if isinstance(value, list):
                value = [t.to(dtype or t.dtype, copy=True) for t in value]
            elif isinstance(value, Tensor):
                value = value.to(dtype or value.dtype, copy=True)
            setattr(new, name, value)
        return new

    def step(self, backend: str = "triton") -> dict[str, list[Tensor]]:
        """Take the step in place; everything that it wrote."""
        options: dict[str, Any] = dict(momentum=self.momentum, nesterov=self.nesterov)
        options["copies"] = self.copies
        common = self.thetas, self.grads, self.buffers, self.layout, self.eta
        if self.kind == "adam":
            module = adam_step if backend == "triton" else reference
            steps = torch.tensor([[2.0, 3.0]] * len(self.thetas), dtype=torch.float64)
            moments = dict(betas=(self.momentum or 0.8, 0.95), eps=1e-3, copies=self.copies)
            sums = module.adam_step_(*common, steps, **moments)
        elif self.kind in ("sgd", "decays"):
            module = sgd_step if backend == "triton" else reference
            sums = module.sgd_step_(*common, **options, weight_decay=self.decay)
        else:
            module = sphere_step if backend == "triton" else reference
            scope = "group" if self.kind == "group" else "joint"
            options |= {"scope": scope, "elr": self.elr}
            sums = module.sphere_step_(*common, self.radius, self.scale, **options)
        scale = [] if self.scale is None else [self.scale]
        return {
            "theta": self.thetas,
            "buffer": self.buffers or [],
            "sums": [*sums],
            "scale": scale,
            "eta": [] if self.elr is None else [self.eta],
        }


def in_some_format(tensor: Tensor) -> Tensor:
    """Four dimensions in channels_last, two of some sizes transposed, others as they are."""
    if tensor.ndim == 4:
        return tensor.to(memory_format=torch.channels_last)
    if tensor.ndim == 2 and tensor.shape[1] in (20, 8210):
        return tensor.t().contiguous().t()
    return tensor


def error(found: Tensor, truth: Tensor, largest: Tensor | None = None) -> float:
    """Largest error, relative to the largest value; infinite if anything is not finite."""
    if not truth.numel():
        return 0.0
    largest = truth.abs() if largest is None else largest
    difference = (found.double() - truth).abs().max()
    relative = difference / largest.max().clamp_min(torch.finfo(torch.float64).tiny)
    return float(relative) if relative.isfinite() else float("inf")


def check_against_reference(problem: Problem) -> None:
    """The kernel errs against fp64 no more than the reference in the same dtype, and a little."""
    truth = problem.copy(torch.float64).step("reference")
    same = problem.copy().step("reference")
    stored = problem.thetas[0].dtype
    inner = stored if stored == torch.float64 else torch.float32
    theta_theta, _, grad_grad, *_ = truth["sums"]
    # <theta, g> may cancel: its digits count from ||theta|| * ||g||.
    largest = {("sums", 1): (theta_theta * grad_grad).sqrt()}
    if problem.kind == "adam":
        largest["sums", 3] = (theta_theta * truth["sums"][4]).sqrt()
    for name, found in problem.step().items():
        tolerance = TOLERANCES[stored if name in ("theta", "buffer") else inner]
        for i, (mine, theirs, exact) in enumerate(zip(found, same[name], truth[name], strict=True)):
            bound = error(theirs, exact, largest.get((name, i))) + tolerance
            assert error(mine, exact, largest.get((name, i))) <= bound, name
