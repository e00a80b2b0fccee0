"""Param groups that check what is assigned to them, at construction, on load and later.

A group's rate lies in "lr", where learning-rate schedulers look for it. With "effective" it is the
effective one, and `group["elr"]` is another name for it.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..step.plain import is_readable, oddity, shown

_CHOICES = {
    "groups": ("filter", "tensor"),
    "scope": ("joint", "group"),
    "projection": ("exact", "deferred"),
}


class ParamGroup(dict[str, Any]):
    """A param group of our optimisers; a wrong value raises ValueError and is not stored.

    Values of tensors on other devices than the CPU are not read, and so not checked.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        check_options(self)

    def __reduce__(self) -> Any:
        return ParamGroup, (dict(self),)

    def __missing__(self, key: str) -> Any:
        if key == "elr" and self.get("effective"):
            return self["lr"]
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "lr":
            _check_per_model("learning rate", value, self["num_models"])
        elif key == "elr":
            if not self.get("sphere"):
                raise ValueError("elr: only a param group on a sphere has an effective rate")
            _check_per_model("learning rate", value, self["num_models"])
            key = "lr"
            super().__setitem__("effective", True)
        elif key not in ("params", "scale"):
            if key == "radius" and isinstance(self.get("radius"), Tensor):
                value = _fitting(value, self["radius"])
            check_options({**self, key: value})
        super().__setitem__(key, value)

    def update(self, *args: Any, **options: Any) -> None:
        """As for any dict; every option is checked."""
        for key, value in dict(*args, **options).items():
            self[key] = value


def check_options(group: Mapping[str, Any]) -> None:
    """Refuse options outside their range, with the value and what is allowed."""
    for option, allowed in _CHOICES.items():
        if option in group and group[option] not in allowed:
            raise ValueError(f"{option}={group[option]!r}: allowed are {', '.join(allowed)}")
    num_models = group["num_models"]
    if not isinstance(num_models, int) or num_models < 1:
        raise ValueError(f"num_models={num_models}: must be a whole number of at least 1")
    _check_per_model("learning rate", group["lr"], num_models)
    if "betas" in group:
        _check_adam(group)
    if not 0 <= group["momentum"] < math.inf:
        raise ValueError(f"momentum={group['momentum']}: must be at least 0")
    if not math.isfinite(group.get("dampening", 0)):
        raise ValueError(f"dampening={group['dampening']}: must be a finite number")
    if group["nesterov"] and (group["momentum"] == 0 or group.get("dampening", 0) != 0):
        raise ValueError("nesterov=True: needs a momentum above 0, and dampening=0")
    _check_per_model("weight_decay", group["weight_decay"], num_models)
    if group.get("sphere"):
        _check_sphere(group)
    elif num_models > 1 and by_torch(group):
        for name, option in (("learning rate", "lr"), ("weight decay", "weight_decay")):
            if torch.is_tensor(group[option]) and group[option].ndim:
                raise ValueError(
                    f"a {name} per model goes not with dampening, maximize or differentiable"
                )


def by_torch(group: Mapping[str, Any]) -> bool:
    """Whether plain SGD with these options is left to torch's own function."""
    return bool(group.get("dampening") or group.get("maximize") or group.get("differentiable"))


def _check_per_model(name: str, values: Any, num_models: int) -> None:
    if isinstance(values, Tensor) and values.ndim and values.shape != (num_models,):
        raise ValueError(
            f"a {name.replace('_', ' ')} of shape {tuple(values.shape)}: must be 0-d or "
            f"({num_models},)"
        )
    _check_values(name, values, zero=True)


def _check_adam(group: Mapping[str, Any]) -> None:
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas={group['betas']}: each must be at least 0 and below 1")
    if not 0 <= group["eps"] < math.inf:
        raise ValueError(f"eps={group['eps']}: must be a finite number of at least 0")
    for option in ("weight_decay", "amsgrad", "maximize"):
        if group.get(option):
            raise ValueError(f"{option}={group[option]}: SphereAdam has none, take OnSphere(Adam)")


def _check_sphere(group: Mapping[str, Any]) -> None:
    radius = group["radius"]
    if group["momentum"] >= 1:
        raise ValueError(f"momentum={group['momentum']}: must be at least 0 and below 1")
    if isinstance(group["weight_decay"], Tensor) or group["weight_decay"] != 0:
        raise ValueError("weight_decay needs sphere=False: on a sphere it has no meaning")
    if group["scope"] == "group" and group["projection"] == "deferred":
        raise ValueError(
            "projection='deferred' needs scope='joint': a sphere per group is exact in one pass"
        )
    if radius is not None:
        _check_values("radius", radius, zero=False)


def _check_values(name: str, values: Any, *, zero: bool) -> None:
    """Refuse negative numbers and NaN where they can be read without waiting for a device."""
    if isinstance(values, Tensor):
        if oddity(values) and not is_readable(values):
            raise ValueError(f"{name} must be a number or a plain tensor; got {shown(values)}")
        if values.device.type != "cpu":
            return
        with torch.no_grad():
            wide = values.detach().double().flatten()
            least = float(wide.nan_to_num(nan=-1.0, posinf=-math.inf if not zero else None).min())
    else:
        least = values
    if not (least >= 0 if zero else 0 < least < math.inf):
        found = values.tolist() if isinstance(values, Tensor) else values
        must = "at least 0" if zero else "above 0 and finite"
        raise ValueError(f"{name}{' ' if ' ' in name else '='}{found}: must be {must}")


def _fitting(radius: Any, old: Tensor) -> Tensor:
    """A new radius like the old one: of every model, or of every group."""
    if isinstance(radius, Tensor):
        if radius.ndim and radius.shape != old.shape:
            raise ValueError(
                f"a radius of shape {tuple(radius.shape)}: must be 0-d or {tuple(old.shape)}"
            )
        return radius.expand(old.shape).clone() if radius.shape != old.shape else radius
    return torch.full_like(old, radius)
