"""`FusedSGD`: plain SGD as a `torch.optim.Optimizer` that takes what `torch.optim.SGD` takes."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from .base import GroupwiseSGD
from .param_groups import by_torch
from .sphere_sgd import BackendName, Groups
from .taken import Ready, Taken


class FusedSGD(GroupwiseSGD):
    """torch.optim.SGD in one pass over memory that also tracks the norm of every group.

    It loads the state of torch.optim.SGD, and torch.optim.SGD loads its.

    Args:
        params: parameters, (name, parameter) pairs, or param groups, as for any torch optimiser.
        lr: learning rate; a number, or a tensor, 0-d or one per model.
        momentum, dampening, weight_decay, nesterov, maximize, differentiable: as in
            torch.optim.SGD. A step with dampening, maximize or differentiable calls torch's own
            function, and its sums take another pass. A weight decay may be a tensor as `lr` may.
        foreach, fused: for such steps, as in torch.optim.SGD; no other step needs them.
        capturable: accepted because torch's optimisers have it: every step is capturable.
        groups, num_models, backend: as in `SphereSGD`.
        track: whether steps take the sums for `totals` and `statistics`, in the same pass; a step
            without them is faster.

    Raises:
        ValueError: an argument outside its range; the message states the value and what is allowed.
        RuntimeError: `fused` together with `foreach` or `differentiable`.
    """

    _added_later = {
        "dampening": 0.0,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
        "capturable": False,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        groups: Groups = "filter",
        num_models: int = 1,
        backend: BackendName | None = None,
        track: bool = True,
    ) -> None:
        if fused and (foreach or differentiable):
            other = "foreach" if foreach else "differentiable"
            raise RuntimeError(f"fused=True cannot be together with {other}=True")
        self.track = track
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "capturable": capturable,
            "groups": groups,
            "num_models": num_models,
        }
        super().__init__(params, defaults, backend)

    def _step_group(self, ready: Ready) -> Taken:
        return self._step_by_torch(ready) if by_torch(ready.group) else super()._step_group(ready)

    def _step_by_torch(self, ready: Ready) -> Taken:
        """A step of torch's own function; the sums are taken before."""
        group, binding, thetas, fitted, eta, _ = ready
        sums = eta
        if self.track:
            grads = binding.filled(thetas, fitted).grads
            sums = binding.backend.group_sums(thetas, grads, binding.layout)
            if group["maximize"]:
                # The step goes against the gradient of the negative.
                sums[1].neg_()
        moved = [index for index, grad in enumerate(fitted.grads) if grad is not None]
        known = self._buffers(group) or [None] * len(thetas)
        # torch's fused step takes either new buffers or old ones.
        for new in (False, True):
            indices = [index for index in moved if (known[index] is None) == new]
            if indices:
                self._call_torch(ready, indices, binding.parts([known[i] for i in indices]))
        binding.wrote_([])
        if len(moved) == len(thetas):
            return Taken(binding, sums, eta)
        return Taken(binding, sums, eta, None, [grad is not None for grad in fitted.grads])

    def _call_torch(self, ready: Ready, indices: list[int], known: Sequence[Any]) -> None:
        group, _, thetas, fitted, *_ = ready
        lr, buffers = group["lr"], list(known)
        # torch's function takes a tensor too.
        decay: Any = group["weight_decay"]
        decay = decay.squeeze() if isinstance(decay, Tensor) else decay
        # Only their own gradients carry a graph.
        grads = [thetas[i].grad if group["differentiable"] else fitted.grads[i] for i in indices]
        # torch 2.11's fused step is wrong for 16 bits on a CPU.
        wide = all(thetas[index].element_size() > 2 for index in indices)
        with torch.set_grad_enabled(group["differentiable"]):
            sgd(
                [thetas[index] for index in indices],
                cast(list[Tensor], grads),
                buffers,
                foreach=group["foreach"],
                fused=group["fused"] if wide else None,
                lr=lr.squeeze() if isinstance(lr, Tensor) else lr,
                momentum=group["momentum"],
                dampening=group["dampening"],
                weight_decay=cast(float, decay),
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )
        if group["momentum"]:
            self._keep(ready, dict(zip(indices, buffers, strict=True)))
