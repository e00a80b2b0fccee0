"""Learning rates and radii as the steps on spheres take them."""

from typing import Any

import torch
from torch import Tensor

from ..step.layout import Layout
from ..step.plain import oddity
from .states import check_device


def effective_rates(group: dict[str, Any], layout: Layout) -> Tensor | None:
    """Effective rates of the models, (num_models,), that a step itself makes raw ones of.

    None where those are made before it: a deferred step needs them there, and a tensor without an
    element would write none.
    """
    lr = group["lr"]
    if not isinstance(lr, Tensor) or not group["effective"] or group["projection"] != "exact":
        return None
    fits = lr.shape == (group["num_models"],) and lr.device == group["radius"].device
    return lr if fits and all(layout.row_size) and not oddity(lr) else None


def of_models(
    value: float | Tensor,
    num_models: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    copy: bool = False,
) -> Tensor:
    """One rate or decay of every model, (num_models,); with `copy` in memory of its own."""
    if isinstance(value, Tensor) and value.shape == (num_models,):
        return value.to(dtype, copy=copy)
    return torch.ones(num_models, dtype=dtype, device=device) * value


def is_zero(lr: float | Tensor) -> bool:
    """Whether a rate is 0 that can be read without waiting for a device."""
    if isinstance(lr, Tensor):
        return lr.device.type == "cpu" and not lr.any()
    return lr == 0


def check_radius(group: dict[str, Any], count: int) -> None:
    """Refuse a radius that is not one of every model, or of every group."""
    radius = group["radius"]
    if not isinstance(radius, Tensor) or radius.shape != (count,):
        given = tuple(radius.shape) if isinstance(radius, Tensor) else radius
        raise ValueError(
            f"a radius of shape {given} where {count} spheres are: is it of another model?"
        )
    check_device(group["params"][0], radius)
