"""Gradient descent with weight decay and spherical Gaussian noise on the gradient (1907.04595).

    theta <- theta - gamma (g + lambda theta + xi),   xi ~ N(0, tau^2 I)

Left alone, weights come to N(0, tau0^2) with gamma tau^2 = 2 lambda tau0^2 (to first order in gamma
lambda). The noise of a step is a function of seed, epoch and step: training seeds torch's generator
by seed and epoch, so that a run that goes on from a checkpoint draws the same. The models of a pack
share it, as they would share it alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..knobs import Knobs
from .groups import Trained, drop_gradients
from .kinds import NoisyGD


class NoisyPack:
    """One step of all models: their rates and weight decays differ, their noise does not."""

    def __init__(self, options: NoisyGD, trained: Trained, knobs: Sequence[Knobs]) -> None:
        self.trained, self.noise = trained, options.noise
        decays = [
            options.weight_decay if model.weight_decay is None else model.weight_decay
            for model in knobs
        ]
        first = trained.all[0][1]
        self.rates = torch.tensor([model.lr for model in knobs], device=first.device)
        self.decays = torch.tensor(decays, device=first.device)
        self.norms = torch.zeros(trained.num_models, dtype=torch.float64, device=first.device)

    def start_(self) -> None:
        """Nothing: weights start as drawn."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        drop_gradients(self.trained.all)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step of every model."""
        self.norms = self._effective()
        for _, parameter in self.trained.all:
            assert parameter.grad is not None
            rows = self._by_model(parameter)
            noise = torch.randn(rows.shape[1:], dtype=rows.dtype, device=rows.device)
            sides = (-1, *[1] * (rows.ndim - 1))
            rates, decays = self.rates.view(sides), self.decays.view(sides)
            change = self._by_model(parameter.grad) + decays * rows + self.noise * noise
            rows.sub_(rates * change)

    def effective_grad_norm(self) -> Tensor:
        """||g|| * ||theta|| before the last step, of what is on a sphere elsewhere."""
        return self.norms

    def _effective(self) -> Tensor:
        named = self.trained.sphere or self.trained.free
        squares = torch.zeros(2, self.trained.num_models, dtype=torch.float64)
        squares = squares.to(self.rates.device)
        for _, parameter in named:
            assert parameter.grad is not None
            for total, value in zip(squares, (parameter.grad, parameter), strict=True):
                total += self._by_model(value).double().square().flatten(1).sum(1)
        return squares.prod(0).sqrt()

    def _by_model(self, folded: Tensor) -> Tensor:
        return folded.view(self.trained.num_models, -1, *folded.shape[1:])

    def state(self) -> dict[str, Tensor]:
        """Nothing: a step depends on weights, rates and what it draws."""
        return {}

    def load_(self, state: dict[str, Tensor]) -> None:
        """Go on: there is no state."""
