"""Ways to take the same step on the sphere: what `optimizer_step.py` times.

Legend: theta parameters, grad gradients, eta raw learning rate, rho radius.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fasttrain.settings.networks.modules import MODELS
from fasttrain_kernels import SphereSGD

ETA = 1e-3
COMPILE_CHUNK = 8192

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Parameters to step: those of one network, or of a pack of it."""

    name: str
    model: str
    width: int
    num_models: int = 1

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one model's sphere parameters."""
        model = MODELS[self.model](10, width=self.width)
        return [tuple(p.shape) for p in model.sphere_parameters()]


CASES = {
    "resnet18-64": Case("ResNet-18, width 64", "resnet18", 64),
    "resnet18-32": Case("ResNet-18, width 32", "resnet18", 32),
    "convnet-32": Case("ConvNet, width 32", "convnet", 32),
    "pack": Case("16 ConvNets, width 8, packed", "convnet", 8, 16),
}


@dataclass
class Problem:
    """Fresh parameters and gradients of a case, model by model; the same ones every time."""

    models: list[list[Tensor]]
    grads: list[list[Tensor]]
    rho: float

    @classmethod
    def of(cls, case: Case) -> "Problem":
        generator = torch.Generator().manual_seed(0)
        shapes = case.shapes()

        def draw() -> list[list[Tensor]]:
            return [
                [torch.randn(shape, generator=generator) for shape in shapes]
                for _ in range(case.num_models)
            ]

        models, grads = draw(), draw()
        rho = 10.0
        for thetas in models:
            norm = torch.cat([theta.flatten().double() for theta in thetas]).norm()
            for theta in thetas:
                theta.mul_(rho / float(norm))
        return cls(models, grads, rho)

    def on(self, device: torch.device) -> "Problem":
        """The same on a device."""
        models, grads = (
            [[tensor.to(device) for tensor in tensors] for tensors in part]
            for part in (self.models, self.grads)
        )
        return Problem(models, grads, self.rho)

    def packed(self) -> list[nn.Parameter]:
        """The model axis folded into the first dimension, with gradients."""
        packed = []
        for index in range(len(self.models[0])):
            packed.append(nn.Parameter(torch.cat([thetas[index] for thetas in self.models])))
            packed[-1].grad = torch.cat([grads[index] for grads in self.grads])
        return packed

    def parameters(self) -> list[list[nn.Parameter]]:
        """One list per model, with gradients."""
        made = [[nn.Parameter(theta) for theta in thetas] for thetas in self.models]
        for params, grads in zip(made, self.grads, strict=True):
            for parameter, grad in zip(params, grads, strict=True):
                parameter.grad = grad
        return made

    def flat(self) -> tuple[Tensor, Tensor]:
        """(num_models, num_params) each, zero-padded to whole chunks."""
        rows = [
            torch.stack([torch.cat([t.flatten() for t in tensors]) for tensors in part])
            for part in (self.models, self.grads)
        ]
        padding = -rows[0].shape[1] % COMPILE_CHUNK
        theta, grad = (nn.functional.pad(row, (0, padding)) for row in rows)
        return theta, grad

    def num_params(self) -> int:
        return sum(theta.numel() for thetas in self.models for theta in thetas)


@dataclass(frozen=True)
class Variant:
    """One way to take the step. `make` yields the step and what reads its (projected) result."""

    bytes_per_param: int
    make: Callable[[Problem], tuple[Step, Callable[[], Tensor]]]
    joint: bool = True
    """whether the result is comparable with the others: a joint sphere"""


def ours(
    projection: str = "exact",
    scope: str = "joint",
    *,
    momentum: float = 0.0,
    with_statistics: bool = True,
) -> Callable[[Problem], tuple[Step, Callable[[], Tensor]]]:
    """`SphereSGD` over all models at once."""

    def make(problem: Problem) -> tuple[Step, Callable[[], Tensor]]:
        params, num_models = problem.packed(), len(problem.models)
        radius = None if scope == "group" else problem.rho
        optimizer = SphereSGD(
            params,
            lr=ETA,
            radius=radius,
            projection=projection,  # type: ignore[arg-type]
            scope=scope,  # type: ignore[arg-type]
            momentum=momentum,
            num_models=num_models,
        )

        def step() -> object:
            optimizer.step()
            return optimizer.statistics() if with_statistics else None

        def result() -> Tensor:
            optimizer.projected_()
            rows = [p.detach().reshape(num_models, -1) for p in params]
            return torch.cat(rows, dim=1)

        return step, result

    return make


def eager(
    kind: str, *, with_statistics: bool = False
) -> Callable[[Problem], tuple[Step, Callable[[], Tensor]]]:
    """Model by model: torch.optim.SGD (or a loop over tensors), the norm, the scaling."""

    def make(problem: Problem) -> tuple[Step, Callable[[], Tensor]]:
        models = problem.parameters()
        foreach: Any = torch  # its foreach functions are not declared
        options = {"foreach": kind == "foreach", "fused": kind == "fused"}
        sgds = [torch.optim.SGD(params, ETA, **options) for params in models]

        @torch.no_grad()
        def step() -> object:
            found = []
            for params, sgd in zip(models, sgds, strict=True):
                if with_statistics:
                    for p in params:
                        for tensor in (p, p.grad):
                            found.append(torch.linalg.vector_norm(tensor, dim=(1, 2, 3)))
                sgd.step()
                if kind == "loop":
                    norm = torch.stack([p.square().sum() for p in params]).sum().sqrt()
                    for p in params:
                        p.mul_(problem.rho / norm)
                else:
                    norm = torch.stack(foreach._foreach_norm(params)).norm()
                    foreach._foreach_mul_(params, problem.rho / norm)
            return found

        return step, lambda: torch.stack([torch.cat([p.flatten() for p in ps]) for ps in models])

    return make


def flat(function: Callable[..., object]) -> Callable[..., tuple[Step, Callable[[], Tensor]]]:
    """A function of (theta, grad, rho, scale) on (num_models, num_params) tensors."""

    def make(problem: Problem) -> tuple[Step, Callable[[], Tensor]]:
        theta, grad = problem.flat()
        size = problem.num_params() // len(problem.models)
        scale = theta.new_ones(len(theta), 1)

        def step() -> object:
            return function(theta, grad, problem.rho, scale)

        return step, lambda: (theta * scale)[:, :size]

    return make


@torch.no_grad()
def exact_step(theta: Tensor, grad: Tensor, rho: float, scale: Tensor) -> None:
    """The two-pass step on flat tensors."""
    moved = theta - ETA * grad
    theta.copy_(moved * (rho / torch.linalg.vector_norm(moved, dim=1, keepdim=True)))


@torch.no_grad()
def exact_step_(theta: Tensor, grad: Tensor, rho: float, scale: Tensor) -> None:
    """The same with eager in-place operations."""
    theta.sub_(grad, alpha=ETA)
    theta.mul_(rho / torch.linalg.vector_norm(theta, dim=1, keepdim=True))


@torch.no_grad()
def deferred_step(theta: Tensor, grad: Tensor, rho: float, scale: Tensor) -> None:
    """The one-pass step: unprojected parameters, and what they lack in `scale`."""
    moved = scale * theta - (ETA / scale) * grad
    theta.copy_(moved)
    parts = moved.reshape(len(theta), -1, COMPILE_CHUNK).square().sum(2)
    scale.copy_(rho / parts.sum(1, keepdim=True).sqrt())


def geoopt_step(problem: Problem) -> tuple[Step, Callable[[], Tensor]]:
    """geoopt's RiemannianSGD on unit spheres: the same points, at rho = 1."""
    with warnings.catch_warnings():
        # It uses parts of torch that newer versions deprecate.
        warnings.simplefilter("ignore")
        geoopt = importlib.import_module("geoopt")
    theta, grad = problem.flat()
    size = problem.num_params() // len(problem.models)
    point = geoopt.ManifoldParameter(theta / problem.rho, manifold=geoopt.Sphere())
    # It projects the gradient onto the tangent space and retracts: on the unit sphere the gradient
    # is rho times, the rate 1 / rho^2 times as large.
    point.grad = grad * problem.rho
    optimizer = geoopt.optim.RiemannianSGD([point], lr=ETA / problem.rho**2)
    return optimizer.step, lambda: (point.detach() * problem.rho)[:, :size]


def variants(compiled: bool = True) -> dict[str, Variant]:
    """Every way to step, by name; geoopt only where it is installed."""
    table = {
        "ours, exact, statistics": Variant(20, ours()),
        "ours, exact": Variant(20, ours(with_statistics=False)),
        "ours, deferred, statistics": Variant(12, ours("deferred")),
        "ours, deferred": Variant(12, ours("deferred", with_statistics=False)),
        "ours, sphere per group, statistics": Variant(12, ours(scope="group"), joint=False),
        "ours, exact, momentum, statistics": Variant(28, ours(momentum=0.9)),
        "loop over tensors": Variant(24, eager("loop")),
        "SGD(foreach) + norm + scale": Variant(24, eager("foreach")),
        "the same, filter norms": Variant(32, eager("foreach", with_statistics=True)),
        "SGD(fused) + norm + scale": Variant(24, eager("fused")),
        "flat, eager": Variant(24, flat(exact_step_)),
    }
    if compiled:
        for name, function, size in (
            ("torch.compile, exact", exact_step, 20),
            ("torch.compile, deferred, chunked sums", deferred_step, 12),
        ):
            table[name] = Variant(size, flat(torch.compile(function, dynamic=False)))
    if importlib.util.find_spec("geoopt"):
        table["geoopt RiemannianSGD"] = Variant(36, geoopt_step, joint=False)
    return table
