"""`SphereAdam`: Adam's step and the projection onto spheres, in a pass over memory and one more."""

import itertools
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from .base import GroupwiseSGD
from .binding import Binding
from .rates import check_radius, is_zero
from .sharded import NO_ADAM, is_sharded
from .sphere_sgd import BackendName, Groups, SphereSGD
from .taken import Ready, Taken


class SphereAdam(SphereSGD):
    """Adam on spheres: what `OnSphere(torch.optim.Adam(...))` does, fused.

        theta <- rho * (theta - eta * d) / ||theta - eta * d||        d Adam's direction

    Adam moves 28 bytes per fp32 parameter, the projection 8 more. Its state and torch.optim.Adam's
    load into each other. The constructor does not write to the parameters: if `radius`
    is not the norm that they have, call `projected_()` once before training. A step at a rate of 0
    moves nothing. A param group in which no parameter has a gradient is left as it is; in others a
    parameter without one is only projected.

    Args:
        params: parameters, (name, parameter) pairs, or param groups, as for any torch optimiser; a
            param group with `sphere=False` takes Adam's steps as they are.
        lr: learning rate; a number, or a tensor, 0-d or one per model.
        betas, eps: as in torch.optim.Adam.
        radius, groups, scope, num_models, backend: as in `SphereSGD`; the projection is exact.

    Raises:
        ValueError: an argument outside its range; the message states the value and what is allowed.
    """

    _buffer_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        radius: float | Tensor | None = None,
        groups: Groups = "filter",
        scope: Literal["joint", "group"] = "joint",
        num_models: int = 1,
        backend: BackendName | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "effective": False,
            "sphere": True,
            "radius": radius,
            "scale": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "groups": groups,
            "scope": scope,
            "projection": "exact",
            "num_models": num_models,
        }
        GroupwiseSGD.__init__(self, params, defaults, backend)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options; they form a sphere of their own."""
        if "elr" in param_group:
            raise ValueError("elr: Adam's direction has no effective rate; give lr")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this or of torch.optim.Adam, which has no spheres: they stay.

        Raises:
            ValueError: it is of other parameters or options; nothing has been changed then.
        """
        groups = state_dict["param_groups"]
        if len(groups) == len(self.param_groups):
            pairs = zip(self.param_groups, groups, strict=True)
            groups = [{**own, **saved} for own, saved in pairs]
        super().load_state_dict({**state_dict, "param_groups": groups})

    def _prepare(self, group: dict[str, Any]) -> None:
        if is_sharded(group["params"]):
            raise ValueError(NO_ADAM)
        super()._prepare(group)

    def _buffers(self, group: dict[str, Any]) -> list[Tensor | None]:
        get, thetas = self.state.get, group["params"]
        return [get(theta, {}).get(name) for name in self._buffer_names for theta in thetas]

    def _rates(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """Learning rate of every model: (num_models,)."""
        if group["sphere"]:
            joint = group["scope"] == "joint"
            check_radius(group, group["num_models"] if joint else binding.layout.num_groups)
        return GroupwiseSGD._rates(self, group, binding)

    def _step_group(self, ready: Ready) -> Taken:
        group, binding, thetas, (grads, moments, fresh), eta, copies = ready
        self._keep(ready, fresh)
        layout, backend = binding.layout, binding.backend
        corrections = self._corrections(group)
        options = {"betas": group["betas"], "eps": group["eps"]}
        projects = group["sphere"] and not is_zero(group["lr"])
        # The last to write a parameter writes its copy.
        options |= {} if projects else ready.writes
        sums = backend.adam_step_(thetas, grads, moments, layout, eta, corrections, **options)
        if projects:
            joint = group["scope"] == "joint"
            factor = group["radius"] / (layout.per_model(sums[5]) if joint else sums[5]).sqrt()
            factor = layout.per_group(factor) if joint else factor
            backend.scale_(thetas, layout, factor, **ready.writes)
        moved = [grad is not None for grad in grads]
        binding.wrote_(list(itertools.compress(thetas, moved)), copies)
        return Taken(binding, sums[:3], eta, None, None if all(moved) else moved, sums[3:5])

    def _corrections(self, group: dict[str, Any]) -> Tensor:  # (num_tensors, 2)
        """1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t) of every parameter, whose t counts on."""
        steps = []
        for theta in group["params"]:
            if self._copies.gradient(theta) is None:
                steps.append(_ONE)
                continue
            state = self.state[theta]
            # As torch.optim.Adam keeps it.
            state["step"] = state.get("step", _ZERO) + 1
            steps.append(state["step"])
        beta1, beta2 = group["betas"]
        t = torch.stack(steps).double()
        return torch.stack((1 / (1 - beta1**t), (1 - beta2**t).rsqrt()), dim=1)


_ZERO, _ONE = torch.tensor(0.0), torch.tensor(1.0)
