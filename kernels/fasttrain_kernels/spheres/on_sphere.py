"""Any torch optimiser on spheres: it steps, then its parameters are projected.

    theta <- rho * theta' / ||theta'||        theta' what the optimiser makes of theta

With `riemannian=True` the optimiser is handed the tangential part of the gradient, and its momentum
m is carried along to the tangent space of the new point:

    g <- g - <theta, g> theta / ||theta||^2        m <- m - <theta, m> theta / ||theta||^2

Around `torch.optim.SGD` that is the Riemannian SGD of Becigneul and Ganea 2019 (arXiv 1810.00760)
on the sphere, with the projection as retraction. Gradients of a scale-invariant loss are tangential
anyway, its momentum is not.

Norms, dot products and scaling are those of `reference.py`, in one pass each over all tensors.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..optimizers.statistics import Statistics, joined_statistics
from ..step.backend import check_backend
from ..step.plain import uncompiled
from .param_group import Spheres, check_gradients, form_of

MOMENTA = ("momentum_buffer", "exp_avg")
"""What optimisers call their mean of gradients in the state of a parameter."""


class OnSphere(Optimizer):
    """Wraps any torch optimiser: after each of its steps parameters are projected onto spheres.

        optimizer = OnSphere(torch.optim.Adam(model.parameters(), lr=1e-3), groups="tensor")

    It has the parameters, options and state of the optimiser that it wraps, so schedulers,
    `GradScaler`, closures and checkpoints work unchanged. Every argument but the first may also
    stand in a param group. There `sphere=False` leaves out the projection.

    A step in which no parameter of a param group has a gradient, or with a learning rate of 0,
    leaves the group where it is. The constructor does not write to the parameters: if `radius` is
    not the norm that they have, call `projected_()` once before training. Weight decay changes
    norms, which the projection resets: leave it out.

    Args:
        optimizer: any torch optimiser, with its parameters.
        radius: norm of all parameters together (scope "joint") or of each group (scope "group");
            None takes what they have at construction.
        scope: "joint" is one sphere over the param group, "group" one sphere per group.
        groups: "filter" is a group per slice of the first dimension (a conv's filter, a row of a
            matrix), "tensor" one per tensor.
        num_models: models of a pack, folded into the first dimension of every parameter.
        riemannian: project gradients, in place, and transport momentum, as above.
        track: keep what `statistics()` needs: a copy of the parameters, and two passes a step.
        backend: as for `SphereSGD`.

    Raises:
        ValueError: an argument outside its range; the message states the value and what is allowed.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        radius: float | Tensor | None = None,
        scope: Literal["joint", "group"] = "joint",
        groups: Literal["filter", "tensor"] = "filter",
        num_models: int = 1,
        riemannian: bool = False,
        track: bool = False,
        backend: str | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"OnSphere wraps a torch optimiser; got {type(optimizer).__name__}")
        check_backend(backend)
        self.backend, self.track = backend, track
        self._options = {
            "sphere": True,
            "radius": radius,
            "scope": scope,
            "groups": groups,
            "num_models": num_models,
            "riemannian": riemannian,
        }
        self._spheres: dict[int, Spheres] = {}
        for group in optimizer.param_groups:
            self._complete(group)
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self._link()

    def _link(self) -> None:
        """Share what the wrapped optimiser has; it makes that anew when it loads a state."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def __getstate__(self) -> dict[str, Any]:
        kept = ("optimizer", "backend", "track", "_options")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._spheres = {}
        self._link()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options."""
        if "optimizer" not in self.__dict__:
            # The base class, taking over the param groups of the wrapped optimiser.
            super().add_param_group(param_group)
            return
        self.optimizer.add_param_group(param_group)
        try:
            self._complete(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimiser; its param groups hold the options of the spheres."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this or of the wrapped optimiser, which has no spheres: they stay.

        Raises:
            ValueError: it is of other parameters; nothing has been changed then.
        """
        before = self.param_groups
        for number, (group, saved) in enumerate(
            zip(before, state_dict["param_groups"], strict=False)
        ):
            ours, theirs = group["radius"], saved.get("radius")
            if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
                if theirs.shape != ours.shape:
                    raise ValueError(
                        f"param group {number} has {len(ours)} spheres; the state to be loaded "
                        f"has {len(theirs)}"
                    )
        self.optimizer.load_state_dict(state_dict)
        self._link()
        for old, new in zip(before, self.param_groups, strict=True):
            for option in self._options:
                new.setdefault(option, old[option])
            if isinstance(new["radius"], Tensor):
                new["radius"] = new["radius"].to(new["params"][0].device)
        self._spheres = {}

    def _complete(self, group: dict[str, Any]) -> None:
        """Check the options of a param group, and set its radius."""
        for option, value in self._options.items():
            group.setdefault(option, value)
        if not group["sphere"]:
            return
        for option, allowed in (("scope", ("joint", "group")), ("groups", ("filter", "tensor"))):
            if group[option] not in allowed:
                raise ValueError(f"{option}={group[option]!r}: allowed are {', '.join(allowed)}")
        count = group["num_models"]
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"num_models={count}: must be a whole number of at least 1")
        for theta in group["params"]:
            if not theta.is_floating_point():
                raise ValueError(f"parameters must be of a floating-point type; got {theta.dtype}")
        with torch.no_grad():
            norms = Spheres(0, group, self.backend).norms()
        radius = group["radius"]
        if radius is None:
            if not bool((norms > 0).all()):
                raise ValueError("radius=None needs parameters of non-zero norm; give radius")
            group["radius"] = norms
            return
        given = torch.as_tensor(radius, dtype=norms.dtype, device=norms.device)
        if given.ndim and given.shape != norms.shape:
            raise ValueError(
                f"a radius of shape {tuple(given.shape)}: must be 0-d or {tuple(norms.shape)}"
            )
        if not bool((given > 0).all() & given.isfinite().all()):
            raise ValueError(f"radius={radius}: must be above 0 and finite")
        group["radius"] = given.expand_as(norms).clone()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of the wrapped optimiser."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    @uncompiled
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step of the wrapped optimiser, and project; returns what that returns.

        Raises:
            ValueError: a gradient that is sparse or not of its parameter's shape; nothing has been
                changed then, unless a `closure` made it.
        """
        if closure is None:
            self._enter()
            result = self.optimizer.step()
        else:

            def entering() -> Any:
                with torch.enable_grad():
                    loss = closure()
                self._enter()
                return loss

            result = self.optimizer.step(entering)
        self._leave()
        return result

    def _active(self) -> list[tuple[dict[str, Any], Spheres]]:
        """Param groups on spheres in which there is a gradient."""
        found = []
        for number, group in enumerate(self.param_groups):
            if group["sphere"] and any(theta.grad is not None for theta in group["params"]):
                spheres = self._spheres.get(number)
                if spheres is None or spheres.form != form_of(group["params"]):
                    spheres = self._spheres[number] = Spheres(number, group, self.backend)
                found.append((group, spheres))
        return found

    @torch.no_grad()
    def _enter(self) -> None:
        """What is to be done where the gradients have just been taken."""
        active = self._active()
        for group, _ in active:
            check_gradients(group["params"])
        for group, spheres in active:
            if self.track:
                spheres.remember()
            if group["riemannian"]:
                spheres.make_tangential_([theta.grad for theta in group["params"]])

    @torch.no_grad()
    def _leave(self) -> None:
        """What is to be done where the step has led."""
        for group, spheres in self._active():
            spheres.project_(group["radius"], group.get("lr"))
            if group["riemannian"]:
                for name in MOMENTA:
                    states = [self.state.get(theta, {}).get(name) for theta in group["params"]]
                    spheres.make_tangential_(states)
            if self.track:
                spheres.compare(group["lr"])

    @torch.no_grad()
    def projected_(self) -> None:
        """Write every parameter projected onto its sphere, in place."""
        for number, group in enumerate(self.param_groups):
            if group["sphere"]:
                Spheres(number, group, self.backend).project_(group["radius"])

    @torch.no_grad()
    def statistics(self) -> Statistics:
        """Norms, effective learning rates and step angles of the last step, on the device.

        Norms are of where the gradient was taken, before it was projected. The effective learning
        rate of a group is its param group's rate over its squared norm; its step angle is the one
        that it has turned by, whatever the wrapped optimiser did.

        Raises:
            RuntimeError: `track` is off, or no step has been taken.
        """
        known = [spheres for spheres in self._spheres.values() if spheres.taken is not None]
        if not known:
            raise RuntimeError("statistics() needs track=True, and a step that has been taken")
        names = [name for spheres in known for name in spheres.names]
        return joined_statistics(names, [spheres.taken for spheres in known if spheres.taken])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"
