"""Adam of a pack: torch's fused one on views of each model's rows, a rate for each model.

The rows of a folded parameter that belong to a model are a tensor of their own to torch, so that a
model of a pack takes just the step that it takes alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fasttrain_kernels import group_statistics

from ..knobs import Knobs
from .groups import Trained, drop_gradients, laid_out_like
from .kinds import Adam

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


class AdamPack:
    """Adam of all parameters at raw rates, one per model."""

    def __init__(self, options: Adam, trained: Trained, knobs: Sequence[Knobs]) -> None:
        self.trained = trained
        self.views = [parameter.detach().chunk(len(knobs)) for _, parameter in trained.all]
        kind = torch.optim.AdamW if options.decoupled else torch.optim.Adam
        self.adam = kind(
            [
                {
                    "params": [views[index] for views in self.views],
                    "lr": model.lr,
                    "weight_decay": options.weight_decay
                    if model.weight_decay is None
                    else model.weight_decay,
                }
                for index, model in enumerate(knobs)
            ],
            betas=options.betas,
            eps=options.eps,
            fused=True,
        )
        self.grad_norm = torch.zeros(len(knobs), dtype=torch.float64)

    def start_(self) -> None:
        """Networks start as they are initialised."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        drop_gradients(self.trained.all)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step of every model."""
        weights = [parameter for _, parameter in self.trained.sphere]
        found = [parameter.grad for _, parameter in self.trained.all]
        grads = [grad for grad in found if grad is not None]
        assert len(grads) == len(found), "a parameter without a gradient"
        statistics = group_statistics(
            weights, grads[: len(weights)], num_models=self.trained.num_models
        )
        self.grad_norm = statistics.total_grad_norm * statistics.total_norm
        for views, grad in zip(self.views, grads, strict=True):
            for view, part in zip(views, grad.chunk(len(views)), strict=True):
                # The fused step goes through memory, whatever the strides say.
                same = part.stride() == view.stride()
                view.grad = part if same else laid_out_like(part, view)
        self.adam.step()

    def add_effective_grad_norm_(self, total: Tensor) -> None:
        """Add ||g|| * ||theta|| of the sphere weights: (num_models,)."""
        total += self.grad_norm

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
