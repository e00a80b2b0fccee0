"""An optimiser of one's own: Lion (Chen et al. 2023, arXiv 2302.06675), steps of signs.

A factory takes the parameters of one model, its learning rate and the options of the TOML file, and
returns a torch.optim.Optimizer. What it keeps in `state` or counts in its groups is part of every
checkpoint. A network that folds trains in packs, each model with an optimiser of its own.
"""

from collections.abc import Iterable

import torch


class Lion(torch.optim.Optimizer):
    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            (fast, slow), lr = group["betas"], group["lr"]
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * mean.lerp(p.grad, 1 - fast).sign())
                mean.lerp_(p.grad, 1 - slow)
