"""What the optimisers share: a step of every param group, momentum, plain SGD, statistics."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as hooks  # type: ignore[attr-defined]

from ..step.backend import check_backend, choose_backend
from ..step.memory import Some
from ..step.plain import refuse_tracing, uncompiled
from .binding import Binding, Fitted, bound
from .copies import WritesCopies
from .param_groups import ParamGroup
from .rates import of_models
from .sharded import aligned_parts, like_whole, parts_of
from .sharded_step import Reductions
from .states import check_buffer
from .statistics import Statistics, Totals, check_rate, joined_statistics
from .taken import Ready, Taken, totals_of


class GroupwiseSGD(WritesCopies):
    """Base of the optimisers: steps every param group at once and keeps the sums of its groups."""

    _added_later: Mapping[str, Any] = {}
    """options that states of older versions lack"""
    _buffer_names = ("momentum_buffer",)
    """what the state of a parameter calls its buffers"""
    backend: str | None = None
    track = True
    """whether steps take the sums that `totals` and `statistics` are made of"""

    def __init__(self, params: Any, defaults: dict[str, Any], backend: str | None) -> None:
        check_backend(backend)
        self.backend = backend
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        self._bindings: dict[int, Binding] = {}
        self._reductions = Reductions()
        self._last: list[Taken] = []
        self._tracked = True

    def __getstate__(self) -> dict[str, Any]:
        own = {"backend": self.backend, "track": self.track, "_copies": self._copies}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled optimiser's state, or what `load_state_dict` has made of another's.

        Raises:
            ValueError: options outside their range, or state of other shapes than the parameters;
                nothing has been changed then.
        """
        defaults = {**self._added_later, **(state.get("defaults") or self.defaults)}
        groups = [ParamGroup({**defaults, **group}) for group in state["param_groups"]]
        for group in groups:
            for theta in group["params"]:
                for name in self._buffer_names:
                    buffer = state["state"].get(theta, {}).get(name)
                    if buffer is not None:
                        check_buffer(theta, buffer)
            self._check_loaded(group)
        self._forget()
        super().__setstate__({**state, "defaults": defaults, "param_groups": groups})

    def _check_loaded(self, group: ParamGroup) -> None:
        """Refuse what of a loaded param group does not fit its parameters."""

    def __repr__(self) -> str:
        chosen = dict.fromkeys(
            choose_backend(parts_of(group["params"]), self.backend) for group in self.param_groups
        )
        return f"{super().__repr__()[:-1]}\n    backend: {', '.join(chosen)}\n)"

    @uncompiled
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options."""
        _add_param_group(self, param_group)
        try:
            group = self.param_groups[-1] = ParamGroup(self.param_groups[-1])
            for theta in group["params"]:
                if not theta.is_floating_point():
                    raise ValueError(
                        f"parameters must be of a floating-point type; got {theta.dtype}"
                    )
            self._prepare(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def _prepare(self, group: dict[str, Any]) -> None:
        """Complete the options of a new param group."""
        self._bind(len(self.param_groups) - 1, group)

    @uncompiled
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what `closure` returns.

        A param group in which no parameter has a gradient is left as it is.

        Raises:
            ValueError: tensors that do not fit: a gradient that is wrapped or of another shape than
                its parameter, momentum or a radius of another model, parameters on another device
                than before or that share memory. Nothing has been changed then.
            RuntimeError: a sparse gradient; inside FakeTensorMode, make_fx or functionalisation.
        """
        # torch would wrap this in its hooks and a profiler's record, which take 8 us even if there
        # are none. A subclass that overrides `step` is wrapped as usual.
        watched = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        )
        if watched and type(self).step is GroupwiseSGD.step:
            return _hooked_step(self, closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        refuse_tracing()
        # `torch.no_grad` does the same in 2 us more.
        graded = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        ready = []
        try:
            copies = self._copies.of_groups(self.param_groups)
            for number, group in enumerate(self.param_groups):
                found = self._ready(number, group, copies[number])
                if found is not None:
                    ready.append(found)
            # `track` may be another by the time that somebody asks.
            self._last, self._tracked = [self._step_group(item) for item in ready], self.track
            if self._reductions.waiting:
                self._reductions.settle()
        finally:
            torch._C._set_grad_enabled(graded)
            # Of a step that has failed.
            self._reductions.waiting.clear()
            for item in ready:
                item.binding.memory.revoke()
        return loss

    @uncompiled
    def totals(self, product: Tensor | None = None) -> Totals:
        """Norms of every model and of its gradient in the last step, as `statistics()` has them.

        Args:
            product: one number per model, fp64; the product of both norms is added to it.

        Raises:
            RuntimeError: no step has been taken yet, or its sums were not tracked.
            ValueError: a `product` of another type, shape or device.
        """
        return totals_of(self._taken("totals()"), product)

    @uncompiled
    def statistics(self) -> Statistics:
        """Norms, effective learning rates and step angles of the last step, on the device.

        Raises:
            RuntimeError: no step has been taken yet, or its sums were not tracked.
        """
        taken = self._taken("statistics()")
        names = taken[0].names()
        if len(taken) > 1:
            names = list(itertools.chain.from_iterable(item.names() for item in taken))
        return joined_statistics(names, [item.describe() for item in taken])

    def _taken(self, what: str) -> list[Taken]:
        if not self._last:
            raise RuntimeError(f"{what} needs a step: none has been taken yet")
        if not self._tracked:
            raise RuntimeError(f"{what} needs track=True: the last step took no sums")
        return self._last

    def _ready(self, number: int, group: dict[str, Any], copies: Some | None) -> Ready | None:
        """Verify everything that a step of a param group needs; None if it has no gradient.

        What is like last time passes one guard; anything else is looked at tensor by tensor.
        """
        thetas: Sequence[Tensor] = group["params"]
        grads = [t.grad for t in thetas] if copies is None else self._copies.gradients(thetas)
        buffers = self._buffers(group)
        binding = self._bindings.get(number)
        if binding is not None and binding.holds(group, thetas, grads, buffers):
            fitted = Fitted(grads, buffers, {})
        elif all(grad is None for grad in grads):
            return None
        else:
            binding = self._bind(number, group)
            if binding.shards is not None:
                thetas, grads, buffers = aligned_parts(thetas, grads, buffers)
            fitted = binding.fit(thetas, grads, buffers)
        if not binding.complete and self._moves_together(group):
            fitted = binding.filled(thetas, fitted)
        eta = self._rates(group, binding)
        granted = binding.memory.grant(thetas, fitted.grads, fitted.buffers, binding.kind, copies)
        if granted is not fitted.grads:
            fitted = fitted._replace(grads=granted)
        return Ready(group, binding, thetas, fitted, eta, copies)

    def _moves_together(self, group: dict[str, Any]) -> bool:
        """Whether parameters without a gradient take part in a step of the others."""
        return False

    def _step_group(self, ready: Ready) -> Taken:
        """Plain SGD on the parameters that have a gradient; the others are skipped."""
        group, binding, thetas, (grads, buffers, _), eta, copies = ready
        self._keep(ready, ready.fitted.fresh)
        sums = binding.backend.sgd_step_(
            thetas,
            grads,
            buffers,
            binding.layout,
            eta,
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            weight_decay=self._decay(group, eta),
            track=self.track,
            **ready.writes,
        )
        if binding.complete:
            binding.wrote_(thetas, copies)
            return Taken(binding, sums, eta)
        moved = [grad is not None for grad in grads]
        binding.wrote_(list(itertools.compress(thetas, moved)), copies)
        return Taken(binding, sums, eta, None, moved)

    def _keep(self, ready: Ready, buffers: dict[int, Tensor]) -> None:
        """Enter buffers into the state, by their places among all buffers."""
        thetas = ready.group["params"]
        for index, buffer in buffers.items():
            theta, name = thetas[index % len(thetas)], self._buffer_names[index // len(thetas)]
            kept = buffer if ready.binding.shards is None else like_whole(buffer, theta)
            self.state[theta][name] = kept

    def _bind(self, number: int, group: dict[str, Any]) -> Binding:
        """The param group's tensors with backend and layout, made anew if they changed."""
        binding = self._bindings.get(number)
        if binding is None or not binding.is_of(group, group["params"]):
            binding = bound(number, group, self.backend, self._reductions)
            self._bindings[number] = binding
        return binding

    def _buffers(self, group: dict[str, Any]) -> Some | None:
        """Buffers of every parameter, where there are any yet."""
        if group["momentum"] == 0:
            return None
        # A plain dict's `get`: the defaultdict would fill up with parameters that never move.
        get, thetas = self.state.get, group["params"]
        return [get(theta, _NOTHING).get(name) for name in self._buffer_names for theta in thetas]

    def _rates(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """Raw learning rate of every model: (num_models,)."""
        lr, known = group["lr"], binding.rates
        if isinstance(lr, Tensor) or known is None or known[0] != (lr,):
            theta = group["params"][0]
            if isinstance(lr, Tensor):
                check_rate(lr, group["num_models"], theta.device)
            on_cpu = theta.device.type == "cpu"
            dtype = torch.float64 if on_cpu else torch.promote_types(theta.dtype, torch.float32)
            # Kept for `statistics`, which may come when the tensor says something else.
            rates = of_models(lr, group["num_models"], dtype, theta.device, copy=self.track)
            known = binding.rates = (lr,), rates, None
        return known[1]

    def _decay(self, group: dict[str, Any], eta: Tensor) -> float | Tensor:
        """Weight decay as a step takes it: a number, or (num_models,)."""
        decay = group["weight_decay"]
        if not isinstance(decay, Tensor):
            return decay
        check_rate(decay, group["num_models"], eta.device, "weight decay")
        return of_models(decay, len(eta), eta.dtype, eta.device)


_NOTHING: dict[str, Any] = {}
# torch's wrapper, too, keeps torch.compile out, but imports the compiler to say so: 0.7 s and 70 MB
# in a program that may compile nothing.
_add_param_group = inspect.unwrap(Optimizer.add_param_group)
_hooked_step = Optimizer.profile_hook_step(GroupwiseSGD._step)
