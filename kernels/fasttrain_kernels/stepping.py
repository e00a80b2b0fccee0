"""What the optimisers share: param groups bound to a backend, momentum, plain SGD, statistics."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as hooks  # type: ignore[attr-defined]

from .backend import Backend, check_backend, choose_backend, load_backend
from .groups import Layout, group_names, make_layout
from .statistics import Statistics, aligned_gradients, joined_statistics, like


@dataclass
class Binding:
    """The tensors of a param group as they lay in memory when they were bound to a backend."""

    thetas: list[Tensor]
    backend: Backend
    layout: Layout
    names: list[str]
    copied: bool = False
    """whether projected copies have been written since the last step"""
    versions: list[int] | None = None
    """torch's counts of in-place changes when we last looked, where somebody asks for them"""
    zeros: dict[int, Tensor] = field(default_factory=dict)
    scratch: list[Tensor] = field(default_factory=list)
    form: list[tuple[Any, ...]] = field(default_factory=list)
    grad_form: list[tuple[Any, ...]] = field(default_factory=list)
    """dtype and stride of gradients that needed no copy"""
    rates: tuple[tuple[Any, ...], Tensor, Tensor | None] | None = None
    """learning rates, after the numbers and before the radius that they were made from"""

    def __post_init__(self) -> None:
        self.form = _form(self.thetas)

    def zero(self, index: int) -> Tensor:
        """Zeros like one of the tensors; nothing may write other values there."""
        if index not in self.zeros:
            self.zeros[index] = torch.zeros_like(self.thetas[index])
        return self.zeros[index]

    def aligned(self, grads: list[Tensor]) -> list[Tensor]:
        """The gradients as the backend takes them; mostly they are what they were last time."""
        form = [(grad.dtype, grad.stride()) for grad in grads]
        if form == self.grad_form:
            return grads
        aligned = aligned_gradients(self.thetas, grads)
        if all(map(operator.is_, aligned, grads)):
            self.grad_form = form
        return aligned

    def scaled(self, grads: list[Tensor], factor: Tensor) -> list[Tensor]:
        """The gradients times a factor per group, in memory that the next call takes again."""
        if not self.scratch or self.scratch[0].dtype != grads[0].dtype:
            self.scratch = [torch.empty_like(grad) for grad in grads]
        self.backend.scale_(grads, self.layout, factor, self.scratch)
        return self.scratch

    def wrote_(self) -> None:
        """Tell torch that the tensors were written: autograd must not use values saved before."""
        torch.autograd.graph.increment_version(self.thetas)
        self.copied = False
        if self.versions is not None:
            self.remember()

    def remember(self) -> None:
        """Take note of torch's counts, which it keeps on the host."""
        self.versions = [theta._version for theta in self.thetas]

    def written_elsewhere(self) -> bool:
        """Whether torch has seen a write since `remember`."""
        return self.versions is not None and self.versions != [t._version for t in self.thetas]


def uncompiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that `torch.compile` leaves as it is: it breaks the graph, and runs."""
    apart = torch._disable_dynamo(method)  # type: ignore[attr-defined]

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return apart(*args, **kwargs)
        return method(*args, **kwargs)

    return wrapper


class Taken(NamedTuple):
    """What is kept of a step of one param group."""

    binding: Binding
    sums: Tensor
    """(3, num_groups)"""
    eta: Tensor
    """raw learning rates, (num_models,) or (num_groups,)"""
    factor: Tensor | None = None
    """what the sums' gradients have to be multiplied by, (num_models,)"""

    def describe(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        binding = self.binding
        return binding.backend.describe(self.sums, self.eta, binding.layout, self.factor)


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
        if binding is None or binding.form != _form(thetas):
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


def check_device(theta: Tensor, state: Tensor) -> None:
    """Refuse a parameter that is on another device than the optimiser's state for it."""
    if theta.device != state.device:
        raise ValueError(
            f"a parameter of shape {tuple(theta.shape)} is on {theta.device}, the optimiser's "
            f"state for it on {state.device}: move the model before making its optimiser"
        )


def check_options(group: dict[str, Any]) -> None:
    """Refuse options outside their range, with the value and what is allowed."""
    lr, num_models = group["lr"], group["num_models"]
    if group["groups"] not in ("filter", "tensor"):
        raise ValueError(f"groups={group['groups']!r}: allowed are filter, tensor")
    if not isinstance(num_models, int) or num_models < 1:
        raise ValueError(f"num_models={num_models}: must be a whole number of at least 1")
    if isinstance(lr, Tensor):
        if lr.ndim and lr.shape != (num_models,):
            raise ValueError(
                f"a learning rate of shape {tuple(lr.shape)}: must be 0-d or ({num_models},)"
            )
    elif not lr >= 0:
        raise ValueError(f"learning rate {lr}: must be at least 0")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum={group['momentum']}: must be at least 0 and below 1")
    if group["nesterov"] and group["momentum"] == 0:
        raise ValueError("nesterov=True: needs a momentum above 0")
    if not group["weight_decay"] >= 0:
        raise ValueError(f"weight_decay={group['weight_decay']}: must be at least 0")
    for theta in group["params"]:
        if not theta.is_floating_point():
            raise ValueError(f"parameters must be of a floating-point type; got {theta.dtype}")


def _form(thetas: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(theta.shape, theta.stride(), theta.dtype, theta.device) for theta in thetas]
