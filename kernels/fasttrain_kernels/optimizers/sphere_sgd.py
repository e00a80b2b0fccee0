"""`SphereSGD`: the step of `reference.py` on spheres as a `torch.optim.Optimizer`."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..step.backend import write_outputs
from ..step.layout import group_names
from ..step.plain import uncompiled
from ..step.reference import write_copies_
from .base import GroupwiseSGD
from .binding import Binding
from .param_groups import ParamGroup
from .rates import check_radius, effective_rates, is_zero
from .statistics import check_rate
from .taken import Ready, Taken
from .wrappers import refuse_partitions

Groups = Literal["filter", "tensor"]
BackendName = Literal["numba", "triton", "reference"]


class SphereSGD(GroupwiseSGD):
    """Sphere-projected SGD with a raw or an effective learning rate.

        eta = elr * radius^2        theta <- radius * (theta - eta * d) / ||theta - eta * d||

    d is the gradient, or with momentum the buffer v <- momentum * v + gradient, or Nesterov's
    gradient + momentum * v (arXiv 2410.22113; with `scope="group"` the fixed effective learning
    rate per group of arXiv 2209.03695). Every param group is a sphere (or a set of spheres) of its
    own; one with `sphere=False` takes plain SGD steps, with its own `lr` and `weight_decay`, so
    that one optimiser serves a whole network.

    The constructor does not write to the parameters. If `radius` is not the norm that they have,
    call `projected_()` once before training.

    A step at a rate of 0 moves nothing, not even onto the sphere.

    A parameter without a gradient does not move: on its sphere it counts as one with a zero
    gradient, so that the joint norm stays the radius. A param group in which no parameter has a
    gradient is left as it is.

    Args:
        params: parameters, (name, parameter) pairs, or param groups, as for any torch optimiser.
        lr: raw learning rate eta; a number, or a tensor, 0-d or one per model.
        elr: effective learning rate; give either `lr` or `elr`, here and in a param group. The one
            given is stored as `param_groups[i]["lr"]`, where learning-rate schedulers find it: what
            they set is an effective rate then. `param_groups[i]["elr"]` is another name for it.
        radius: norm of all parameters together (scope "joint") or of each group (scope "group");
            None takes what they have at construction.
        momentum: in [0, 1).
        nesterov: Nesterov's momentum.
        groups: "filter" tracks one norm per slice of the first dimension, "tensor" one per tensor.
        scope: "joint" is one sphere over the param group, "group" one sphere per group.
        projection: "exact" leaves the parameters on the sphere after `step()`; "deferred" leaves
            them beside it and moves 12 bytes per fp32 parameter instead of 20. Gradients taken
            there are converted to those on the sphere, which is exact for a network without
            normaliser epsilon; with momentum that costs 8 bytes more. For any other network write
            `projected_(copies)` after every step, and give the gradients taken at the copies.
            Before anything else reads the parameters, call `projected_()`. For scope "joint" only.
        num_models: models of a pack, folded into the first dimension of every parameter; each has
            spheres of its own.
        weight_decay: of param groups with `sphere=False`; on a sphere only 0, as makers of
            optimisers pass it.
        backend: "numba" (CPU), "triton" (CUDA, ROCm) or "reference"; None chooses by the device.

    Raises:
        ValueError: an argument outside its range; the message states the value and what is allowed.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        *,
        elr: float | Tensor | None = None,
        radius: float | Tensor | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        groups: Groups = "filter",
        scope: Literal["joint", "group"] = "joint",
        projection: Literal["exact", "deferred"] = "exact",
        num_models: int = 1,
        weight_decay: float = 0.0,
        backend: BackendName | None = None,
    ) -> None:
        if (lr is None) == (elr is None):
            raise ValueError(f"give either lr or elr, not both or neither; got {lr=}, {elr=}")
        defaults = {
            "lr": lr if elr is None else elr,
            "effective": elr is not None,
            "sphere": True,
            "radius": radius,
            "scale": None,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "groups": groups,
            "scope": scope,
            "projection": projection,
            "num_models": num_models,
        }
        super().__init__(params, defaults, backend)

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = [dict(group) for group in state["param_groups"]]
        for group in groups:
            for key in ("radius", "scale"):
                if isinstance(group.get(key), Tensor):
                    group[key] = group[key].to(group["params"][0].device)
        super().__setstate__({**state, "param_groups": groups})

    def _check_loaded(self, group: ParamGroup) -> None:
        if group["sphere"]:
            count = group["num_models"]
            if group["scope"] == "group":
                thetas = group["params"]
                count = sum(len(group_names("", theta, group["groups"], count)) for theta in thetas)
            check_radius(group, count)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options; they form a sphere of their own."""
        options = dict(param_group)
        plain = not options.get("sphere", True)
        if "lr" in options and "elr" in options or plain and "elr" in options:
            raise ValueError("a param group takes either lr or elr; with sphere=False only lr")
        if plain and "lr" not in options and self.defaults["effective"]:
            raise ValueError("a param group with sphere=False needs its own lr")
        if "elr" in options:
            options["lr"] = options.pop("elr")
            options["effective"] = True
        elif plain or "lr" in options:
            options.setdefault("effective", False)
        super().add_param_group(options)

    def _prepare(self, group: dict[str, Any]) -> None:
        super()._prepare(group)
        if group["sphere"]:
            radius = group["radius"]
            if group["scope"] == "joint":
                refuse_partitions()
            binding = self._bind(len(self.param_groups) - 1, group)
            with torch.no_grad():
                norms = self._norms(group, binding)
            if isinstance(radius, Tensor) and radius.ndim and radius.shape != norms.shape:
                raise ValueError(
                    f"a radius of shape {tuple(radius.shape)}: must be 0-d or {tuple(norms.shape)}"
                )
            if radius is None and not bool((norms > 0).all()):
                raise ValueError("radius=None needs parameters of non-zero norm; give radius")
            # Of every model, or of every group.
            group["radius"] = norms if radius is None else torch.ones_like(norms) * radius

    def _moves_together(self, group: dict[str, Any]) -> bool:
        return group["sphere"]

    def _step_group(self, ready: Ready) -> Taken:
        group, binding, thetas, (grads, buffers, _), eta, copies = ready
        if not group["sphere"]:
            return super()._step_group(ready)
        self._keep(ready, ready.fitted.fresh)
        layout, elr = binding.layout, effective_rates(group, binding.layout)
        scale = self._scale(group, binding) if group["projection"] == "deferred" else None
        rate, correction = eta, None
        if scale is not None and not binding.copied:
            # At theta / scale a scale-invariant function's gradient is `scale` times as large.
            correction = scale.reciprocal()
            if buffers is None:
                rate = eta * correction
            else:
                grads = binding.scaled(grads, layout.per_group(correction))
                correction = None
        if is_zero(group["lr"]):
            # By such a step states are made: it moves nothing, not even onto spheres.
            still = eta.new_zeros(group["num_models"])
            if elr is not None:
                eta.zero_()
            sums = binding.backend.sgd_step_(
                thetas,
                grads,
                buffers,
                layout,
                still,
                momentum=group["momentum"],
                nesterov=group["nesterov"],
            )
            if scale is not None:
                ratio = layout.per_group(scale)
                sums = sums * torch.stack((ratio.square(), ratio, torch.ones_like(ratio)))
            return Taken(binding, sums, eta, correction)
        sums = binding.backend.sphere_step_(
            thetas,
            grads,
            buffers,
            layout,
            rate,
            group["radius"],
            scale,
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            scope=group["scope"],
            elr=elr,
            **ready.writes,
        )
        binding.wrote_(thetas, copies)
        return Taken(binding, sums, eta, correction)

    def _rates(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """Raw learning rates: (num_models,), or (num_groups,) for scope "group".

        Those that the step makes of effective ones are only memory yet.
        """
        if not group["sphere"]:
            return super()._rates(group, binding)
        lr, radius, effective = group["lr"], group["radius"], group["effective"]
        made_from = lr, effective, radius._version, group["scope"]
        known = binding.rates
        if (
            isinstance(lr, Tensor)
            or known is None
            or known[0] != made_from
            or known[2] is not radius
        ):
            joint = group["scope"] == "joint"
            check_radius(group, group["num_models"] if joint else binding.layout.num_groups)
            if isinstance(lr, Tensor):
                check_rate(lr, group["num_models"], radius.device)
                if effective_rates(group, binding.layout) is not None:
                    return torch.empty_like(radius)
                lr = binding.layout.per_group(lr) if lr.ndim and not joint else lr
            rates = (radius.square() if effective else torch.ones_like(radius)) * lr
            binding.rates = made_from, rates, radius
            return rates
        return known[1]

    @uncompiled
    @torch.no_grad()
    def projected_(self, outputs: Sequence[Tensor] | None = None) -> None:
        """Write every parameter projected onto its sphere, in place.

        With `outputs`, one tensor per sphere parameter and in their order, of any floating-point
        type, the projected values go there and the parameters stay as they are.
        """
        rest = None if outputs is None else list(outputs)
        count = sum(len(group["params"]) for group in self.param_groups if group["sphere"])
        if rest is not None and len(rest) != count:
            raise ValueError(f"got {len(rest)} outputs for {count} parameters on spheres")
        for number, group in enumerate(self.param_groups):
            if not group["sphere"]:
                continue
            binding = self._bind(number, group)
            thetas = binding.parts(group["params"])
            layout, scale = binding.layout, self._scale(group, binding)
            factor = scale if group["scope"] == "group" else layout.per_group(scale)
            if rest is None:
                copies = self._copies.listed(group)
                binding.backend.scale_(thetas, layout, factor)
                write_copies_(thetas, copies)
                binding.wrote_(thetas, copies)
                if group["scale"] is not None:
                    group["scale"].fill_(1.0)
            else:
                outputs = binding.parts(rest[: len(thetas)])
                write_outputs(binding.backend, thetas, layout, factor, outputs)
                binding.copied = True
                rest = rest[len(thetas) :]

    def _scale(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """What the stored parameters must be multiplied by to lie on their spheres.

        A deferred projection keeps it from step to step, until something else writes to the
        parameters.
        """
        known: Tensor | None = group["scale"]
        if known is not None and not binding.written_elsewhere(group["params"]):
            return known
        scale = group["radius"] / self._norms(group, binding)
        if group["projection"] == "deferred":
            group["scale"] = scale
            binding.remember(group["params"])
        return scale

    def _norms(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """Norms of the stored parameters, like the radius."""
        thetas = binding.parts(group["params"])
        squared = binding.backend.group_sums(thetas, None, binding.layout)[0]
        return (squared if group["scope"] == "group" else binding.layout.per_model(squared)).sqrt()
