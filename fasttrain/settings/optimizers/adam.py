"""Adam of a pack: torch's fused one on views of each model's rows, a rate for each model.

The rows of a folded parameter that belong to a model are a tensor of their own to torch, so that a
model of a pack takes just the step that it takes alone. The number of steps, which corrects the
moments, and the rates lie beside the weights. On a GPU the decays do too, which torch's kernel
takes as numbers: what they do is done before it, so that a captured step serves every decay.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasttrain_kernels import TotalsOf

from ..knobs import Knobs
from .fused import rates_of
from .groups import Trained, drop_gradients, laid_out_like
from .kinds import Adam

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


class AdamPack:
    """Adam of all parameters at raw rates, one per model."""

    def __init__(self, options: Adam, trained: Trained, knobs: Sequence[Knobs]) -> None:
        self.trained = trained
        self.views = [parameter.detach().chunk(len(knobs)) for _, parameter in trained.all]
        self.decoupled = options.decoupled
        as_numbers = takes_decays(trained.all[0][1].device)
        groups = _groups(options, trained, knobs, as_numbers)
        for index, group in enumerate(groups):
            group["params"] = [views[index] for views in self.views]
        kind = torch.optim.AdamW if options.decoupled else torch.optim.Adam
        self.adam = kind(
            groups, betas=options.betas, eps=options.eps, fused=True, capturable=not as_numbers
        )
        # Of steps that warm up before a capture, too.
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        weights = [parameter.detach() for _, parameter in trained.sphere]
        self.norms = TotalsOf(weights, num_models=len(knobs))
        self.sums = torch.empty(0)
        self.takes_copies = True
        self.copies: dict[Tensor, Tensor] = {}

    def start_(self) -> None:
        """Networks start as they are initialised."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        drop_gradients(self.trained.all, self.copies.values())

    @torch.no_grad()
    def step(self) -> None:
        """Take one step of every model."""
        grads = self._gradients()
        self.sums = self.norms.sums(grads[: len(self.trained.sphere)])
        for views, grad in zip(self.views, grads, strict=True):
            for view, part in zip(views, grad.chunk(len(views)), strict=True):
                # The fused step goes through memory, whatever the strides say.
                same = part.stride() == view.stride()
                view.grad = part if same else laid_out_like(part, view)
        for group in self.adam.param_groups:
            if "decay" in group:
                self._decay(group)
        self.adam.step()
        self._write_copies()

    def _gradients(self) -> list[Tensor]:
        """Of all parameters, in their type as torch's kernel takes them: of copies cast at once."""
        copies, parameters = self.copies, [parameter for _, parameter in self.trained.all]
        found = [copies.get(parameter, parameter).grad for parameter in parameters]
        grads = [grad for grad in found if grad is not None]
        assert len(grads) == len(found), "a parameter without a gradient"
        if not copies:
            return grads
        assert all(parameter.grad is None for parameter in copies), "a weight that was read itself"
        narrow = [index for index, parameter in enumerate(parameters) if parameter in copies]
        wide = [torch.empty_like(grads[index], dtype=parameters[index].dtype) for index in narrow]
        torch._foreach_copy_(wide, [grads[index] for index in narrow])  # type: ignore[attr-defined]
        for index, grad in zip(narrow, wide, strict=True):
            grads[index] = grad
        return grads

    def _decay(self, group: dict[str, Any]) -> None:
        """What the decay of a model does, where it is not torch's kernel that does it."""
        weights = group["params"]
        if self.decoupled:
            torch._foreach_mul_(weights, group["left"])  # type: ignore[attr-defined]
        else:
            grads = [weight.grad for weight in weights]
            pulls = torch._foreach_mul(weights, group["decay"])  # type: ignore[attr-defined]
            torch._foreach_add_(grads, pulls)  # type: ignore[attr-defined]

    def add_effective_grad_norm_(self, total: Tensor) -> None:
        """Add ||g|| * ||theta|| of the sphere weights: (num_models,)."""
        self.norms.totals(self.sums, total)

    def write_copies(self, copies: dict[Tensor, Tensor]) -> None:
        """In an operation of their own: torch's kernel writes none."""
        assert not self.copies or not copies, "copies that another pass reads would stay behind"
        self.copies = copies
        self._write_copies()

    @torch.no_grad()
    def _write_copies(self) -> None:
        if self.copies:
            torch._foreach_copy_([*self.copies.values()], [*self.copies])  # type: ignore[attr-defined]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """That of torch."""
        return [self.adam]

    def state(self) -> dict[str, Tensor]:
        """Both moments, by parameter, and the number of steps."""
        states = [[self.adam.state[view] for view in views] for views in self.views]
        if not states[0][0]:
            return {}
        named = zip(self.trained.all, states, strict=True)
        moments = {
            f"{moment}.{name}": torch.cat([state[moment] for state in of_models])
            for (name, _), of_models in named
            for moment in MOMENTS
        }
        return {**moments, STEP: states[0][0][STEP]}

    def load_(self, state: dict[str, Tensor]) -> None:
        """Go on with these moments."""
        if not state:
            return
        for (name, _), views in zip(self.trained.all, self.views, strict=True):
            parts = [state[f"{moment}.{name}"].chunk(len(views)) for moment in MOMENTS]
            for view, *moments in zip(views, *parts, strict=True):
                copies = (laid_out_like(value, view) for value in moments)
                # As torch keeps it: on the parameters' device, one for each.
                step = state[STEP].to(view.device, torch.float32, copy=True)
                self.adam.state[view] = {STEP: step, **dict(zip(MOMENTS, copies, strict=True))}


def takes_decays(device: torch.device) -> bool:
    """Whether torch's kernel is told the decays, as numbers."""
    return device.type == "cpu"


def _groups(
    options: Adam, trained: Trained, knobs: Sequence[Knobs], as_numbers: bool
) -> list[dict[str, Any]]:
    """The options of every model: rates as tensors, decays as tensors or numbers."""
    rates = rates_of(knobs, trained)
    given = [model.weight_decay for model in knobs]
    decays = [options.weight_decay if decay is None else decay for decay in given]
    if as_numbers:
        return [
            {"lr": rate, "weight_decay": decay} for rate, decay in zip(rates, decays, strict=True)
        ]
    if not options.weight_decay and given == [None] * len(given):
        return [{"lr": rate, "weight_decay": 0.0} for rate in rates]
    # What is left of a weight after a step of the decay alone.
    left = [1 - model.lr * decay for model, decay in zip(knobs, decays, strict=True)]
    columns = zip(rates, rates.new_tensor(decays), rates.new_tensor(left), strict=True)
    return [{"lr": r, "weight_decay": 0.0, "decay": d, "left": x} for r, d, x in columns]
