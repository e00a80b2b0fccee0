"""`SphereSGD`: SGD that keeps its parameters on a sphere, as a `torch.optim.Optimizer`."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from . import groups as group_ops
from . import reference
from .reference import GroupSums
from .statistics import Statistics, statistics_from_sums

_CHOICES = {
    "groups": ("filter", "tensor"),
    "scope": ("joint", "group"),
    "projection": ("exact", "deferred"),
}


class SphereSGD(torch.optim.Optimizer):
    """Sphere-projected SGD with a raw or an effective learning rate.

        eta = elr * radius^2        theta <- radius * (theta - eta * d) / ||theta - eta * d||

    d is the gradient, or the momentum buffer v <- momentum * v + gradient (arXiv 2410.22113; with
    `scope="group"` the fixed effective learning rate per group of arXiv 2209.03695). Every param
    group is a sphere (or a set of spheres) of its own.

    The constructor does not write to the parameters. If `radius` is not the norm that they have,
    call `projected_()` once before training.

    Args:
        params: parameters, (name, parameter) pairs, or param groups, as for any torch optimiser.
        lr: raw learning rate eta; a float or a 0-d tensor.
        elr: effective learning rate; give either `lr` or `elr`. The one given is stored as
            `param_groups[i]["lr"]`, where learning-rate schedulers find it.
        radius: norm of all parameters together (scope "joint") or of each group (scope "group");
            None takes what they have at construction.
        momentum: in [0, 1).
        groups: "filter" tracks one norm per slice of the first dimension, "tensor" one per tensor.
        scope: "joint" is one sphere over the param group, "group" one sphere per group.
        projection: "exact" leaves the parameters on the sphere after `step()`; "deferred" brings
        them
            there at the start of the next step. Call `projected_()` before reading them then.

    Raises:
        ValueError: an argument outside its range; the message states the value and what is allowed.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        *,
        elr: float | Tensor | None = None,
        radius: float | None = None,
        momentum: float = 0.0,
        groups: Literal["filter", "tensor"] = "filter",
        scope: Literal["joint", "group"] = "joint",
        projection: Literal["exact", "deferred"] = "exact",
    ) -> None:
        if (lr is None) == (elr is None):
            raise ValueError(f"give either lr or elr, not both or neither; got {lr=}, {elr=}")
        defaults = {
            "lr": lr if elr is None else elr,
            "effective": elr is not None,
            "radius": radius,
            "momentum": momentum,
            "groups": groups,
            "scope": scope,
            "projection": projection,
        }
        self._sums: list[tuple[list[str], GroupSums, Tensor]] = []
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_sums", [])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options; they form a sphere of their own."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_options(group)
            group["radius"] = _radius(group)
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what `closure` returns.

        A parameter without a gradient counts as one with a zero gradient, so that the joint norm
        stays the radius. A param group in which no parameter has a gradient is left as it is.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._sums = []
        for index, group in enumerate(self.param_groups):
            thetas: list[Tensor] = group["params"]
            if all(theta.grad is None for theta in thetas):
                continue
            grads = [_gradient(theta) for theta in thetas]
            radius, eta = group["radius"], _eta(group)
            sums = reference.sphere_step(
                thetas,
                grads,
                self._momentum_buffers(group),
                eta,
                radius,
                momentum=group["momentum"],
                scope=group["scope"],
                groups=group["groups"],
                projection=group["projection"],
            )
            self._sums.append((_names(group, index), sums, eta))
        return loss

    @torch.no_grad()
    def projected_(self) -> None:
        """Write every parameter projected onto its sphere, in place."""
        for group in self.param_groups:
            reference.project_(group["params"], group["radius"], group["scope"], group["groups"])

    @torch.no_grad()
    def statistics(self) -> Statistics:
        """Norms, effective learning rates and step angles of the last step, on the device.

        Raises:
            RuntimeError: no step has been taken yet.
        """
        if not self._sums:
            raise RuntimeError("statistics() needs a step: none has been taken yet")
        names = [name for group_names, _, _ in self._sums for name in group_names]
        sums = GroupSums(
            *(torch.cat(parts) for parts in zip(*(s for _, s, _ in self._sums), strict=True))
        )
        eta = torch.cat([eta.expand_as(s.grad_grad) for _, s, eta in self._sums])
        return statistics_from_sums(names, sums, eta)

    def _momentum_buffers(self, group: dict[str, Any]) -> list[Tensor] | None:
        if group["momentum"] == 0:
            return None
        for theta in group["params"]:
            if "momentum_buffer" not in self.state[theta]:
                self.state[theta]["momentum_buffer"] = torch.zeros_like(theta)
        return [self.state[theta]["momentum_buffer"] for theta in group["params"]]


def _gradient(theta: Tensor) -> Tensor:
    if theta.grad is None:
        return torch.zeros_like(theta)
    if theta.grad.is_sparse:
        raise ValueError(
            f"SphereSGD takes dense gradients; got a sparse one of shape {tuple(theta.shape)}"
        )
    return theta.grad


def _eta(group: dict[str, Any]) -> Tensor:
    """Raw learning rate: 0-d, or one per group for scope "group" with an effective rate."""
    radius: Tensor = group["radius"]
    lr = torch.as_tensor(group["lr"], dtype=radius.dtype, device=radius.device)
    return lr * radius.square() if group["effective"] else lr


def _radius(group: dict[str, Any]) -> Tensor:
    """The radius or radii, in fp32 or wider, where the parameters are."""
    with torch.no_grad():
        squared = group_ops.squared_norms(group["params"], group["groups"])
    norms = squared.sum().sqrt() if group["scope"] == "joint" else squared.sqrt()
    if group["radius"] is not None:
        return torch.full_like(norms, group["radius"])
    if not bool((norms > 0).all()):
        raise ValueError("radius=None needs parameters of non-zero norm; give radius")
    return norms


def _names(group: dict[str, Any], index: int) -> list[str]:
    names = group.get("param_names") or [f"{index}.{i}" for i in range(len(group["params"]))]
    return [
        name
        for tensor_name, theta in zip(names, group["params"], strict=True)
        for name in group_ops.group_names(tensor_name, theta, group["groups"])
    ]


def _check_options(group: dict[str, Any]) -> None:
    for option, allowed in _CHOICES.items():
        if group[option] not in allowed:
            raise ValueError(f"{option}={group[option]!r}: allowed are {', '.join(allowed)}")
    if not isinstance(group["lr"], Tensor) and not group["lr"] >= 0:
        raise ValueError(f"learning rate {group['lr']}: must be at least 0")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum={group['momentum']}: must be at least 0 and below 1")
    if group["radius"] is not None and not group["radius"] > 0:
        raise ValueError(f"radius={group['radius']}: must be above 0")
    for theta in group["params"]:
        if not theta.is_floating_point():
            raise ValueError(f"SphereSGD takes floating-point parameters; got {theta.dtype}")
