"""What the optimisers share: a step of every param group, momentum, plain SGD, statistics."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as hooks  # type: ignore[attr-defined]

from .backend import check_backend, choose_backend, load_backend
from .binding import Binding, Taken, check_device, check_options, form_of
from .groups import group_names, make_layout
from .statistics import Statistics, joined_statistics, like


def uncompiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that `torch.compile` leaves as it is: it breaks the graph, and runs."""
    apart = torch._disable_dynamo(method)  # type: ignore[attr-defined]

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return apart(*args, **kwargs)
        return method(*args, **kwargs)

    return wrapper


class GroupwiseSGD(Optimizer):
    """Base of the optimisers: steps every param group at once and keeps the sums of its groups."""

    def __init__(self, params: Any, defaults: dict[str, Any], backend: str | None) -> None:
        check_backend(backend)
        self.backend = backend
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        self._bindings: dict[tuple[int, ...], Binding] = {}
        self._last: list[Taken] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        super().__setstate__(state)

    def __repr__(self) -> str:
        chosen = dict.fromkeys(
            choose_backend(group["params"], self.backend) for group in self.param_groups
        )
        return f"{super().__repr__()[:-1]}\n    backend: {', '.join(chosen)}\n)"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_options(group)
            choose_backend(group["params"], self.backend)
            self._prepare(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def _prepare(self, group: dict[str, Any]) -> None:
        """Complete the options of a new param group."""
        make_layout(group["params"], group["groups"], group["num_models"])

    @uncompiled
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what `closure` returns.

        A param group in which no parameter has a gradient is left as it is.

        Raises:
            ValueError: a sparse gradient, or parameters on another device than before; nothing has
                been changed then.
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

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = []
        for number, group in enumerate(self.param_groups):
            grads = [theta.grad for theta in group["params"]]
            if any(grad is not None for grad in grads):
                self._check(group, grads)
                work.append((number, group, grads))
        self._last = [self._step_group(*item) for item in work]
        return loss

    @uncompiled
    def statistics(self) -> Statistics:
        """Norms, effective learning rates and step angles of the last step, on the device.

        Raises:
            RuntimeError: no step has been taken yet.
        """
        if not self._last:
            raise RuntimeError("statistics() needs a step: none has been taken yet")
        names = self._last[0].binding.names
        if len(self._last) > 1:
            names = list(itertools.chain.from_iterable(taken.binding.names for taken in self._last))
        return joined_statistics(names, [taken.describe() for taken in self._last])

    def _step_group(self, number: int, group: dict[str, Any], grads: list[Tensor | None]) -> Taken:
        """Plain SGD on the parameters that have a gradient; the others are skipped."""
        active = [index for index, grad in enumerate(grads) if grad is not None]
        binding = self._bind(number, group, active)
        eta = self._rates(group, binding)
        sums = binding.backend.sgd_step_(
            binding.thetas,
            binding.aligned([grad for grad in grads if grad is not None]),
            self._buffers(group, binding),
            binding.layout,
            eta,
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
        )
        binding.wrote_()
        return Taken(binding, sums, eta)

    def _check(self, group: dict[str, Any], grads: list[Tensor | None]) -> None:
        for grad in grads:
            if grad is not None and grad.layout is not torch.strided:
                raise ValueError(
                    f"{type(self).__name__} takes dense gradients; got one of layout "
                    f"{grad.layout} and shape {tuple(grad.shape)}"
                )
        for theta in group["params"] if self.state else ():
            if "momentum_buffer" in self.state.get(theta, ()):
                check_device(theta, self.state[theta]["momentum_buffer"])

    def _bind(
        self, number: int, group: dict[str, Any], active: Sequence[int] | None = None
    ) -> Binding:
        """The param group's (active) tensors with backend and layout, made anew if they changed."""
        params = group["params"]
        thetas = params if active is None else [params[index] for index in active]
        key = (number,) if active is None else (number, *active)
        binding = self._bindings.get(key)
        if binding is None or binding.form != form_of(thetas):
            indices = range(len(params)) if active is None else active
            names = group.get("param_names") or [
                f"{number}.{index}" for index in range(len(params))
            ]
            groups, num_models = group["groups"], group["num_models"]
            binding = self._bindings[key] = Binding(
                list(thetas),
                load_backend(choose_backend(thetas, self.backend)),
                make_layout(thetas, groups, num_models),
                [
                    name
                    for index, theta in zip(indices, thetas, strict=True)
                    for name in group_names(names[index], theta, groups, num_models)
                ],
            )
        return binding

    def _buffers(self, group: dict[str, Any], binding: Binding) -> list[Tensor] | None:
        """Momentum buffers; a parameter without a gradient keeps its own and does not move."""
        if group["momentum"] == 0:
            return None
        buffers = []
        for index, theta in enumerate(binding.thetas):
            if theta.grad is None:
                buffers.append(binding.zero(index))
                continue
            state = self.state[theta]
            if "momentum_buffer" in state:
                state["momentum_buffer"] = like(state["momentum_buffer"], theta, theta.dtype)
            else:
                state["momentum_buffer"] = torch.zeros_like(theta)
            buffers.append(state["momentum_buffer"])
        return buffers

    def _rates(self, group: dict[str, Any], binding: Binding) -> Tensor:
        """Raw learning rate of every model: (num_models,)."""
        theta, lr = binding.thetas[0], group["lr"]
        if isinstance(lr, Tensor) or binding.rates is None or binding.rates[0] != (lr,):
            on_cpu = theta.device.type == "cpu"
            dtype = torch.float64 if on_cpu else torch.promote_types(theta.dtype, torch.float32)
            ones = torch.ones(group["num_models"], dtype=dtype, device=theta.device)
            binding.rates = (lr,), ones * lr, None
        return binding.rates[1]


_hooked_step = Optimizer.profile_hook_step(GroupwiseSGD._step)
