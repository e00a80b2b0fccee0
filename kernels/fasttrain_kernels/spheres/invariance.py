"""Which parameters a network is scale-invariant to, found by measurement.

f is scale-invariant in theta_i if f(c * theta_i) = f(theta_i) for every c > 0. A normaliser's
epsilon breaks that a little, and the less the larger c is. So a copy of the network in fp64 and
train mode, at parameters with noise added (so that a zero-initialised scale hides nothing), is
measured on a ladder of factors c:

    ||f(2 c theta_i) - f(c theta_i)|| / ||f(theta_i + noise) - f(theta_i)||  <=  1e-8 + 1e-2 / c

What saturates (a tanh, a softmax) breaks it at the lower rungs, what grows at the upper ones. An
attribute of a module that calls itself an epsilon is made tiny first: where activations are small
it would count for more.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .scale_symmetries import indicators, null_space

EPS = 1e-30
TOLERANCE = 1e-8
"""Relative difference of outputs that counts as none: fp64 leaves about 1e-13 in deep networks."""
EPSILON_AT_ONE = 1e-2
"""What epsilons may change at c = 1, relative to what noise changes."""
LADDER = (1.0, 2.0**3, 2.0**6, 2.0**10, 2.0**20)
STEP = 1e-4
"""of the derivatives with respect to the logarithm of a scale"""


@torch.no_grad()
def scale_invariant_parameters(
    model: nn.Module, example_input: Tensor | tuple[Any, ...]
) -> list[tuple[str, nn.Parameter]]:
    """Named parameters of `model` that may be scaled, one by one, without changing its output.

    Parameters that do not change the output at all (a bias in front of a batch normalisation, a
    module that is not used) are left out. So are those that are invariant only together:
    `scale_invariant_sets` finds them.

    Args:
        model: any network whose output is a tensor, or a tuple, list or dict of such; it is copied
            and stays as it is.
        example_input: a batch, or the tuple of all arguments; of two samples or more, since train
            mode normalises over the batch.

    Raises:
        ValueError: the output is not finite.
    """
    probe = _Probe(model, example_input)
    alone = {name for name in probe.parameters if probe.invariant([name])}
    return [(name, original) for name, original in model.named_parameters() if name in alone]


@torch.no_grad()
def scale_invariant_sets(
    model: nn.Module, example_input: Tensor | tuple[Any, ...]
) -> list[list[tuple[str, nn.Parameter]]]:
    """Sets of named parameters that may be scaled by one factor, and only together.

    All that adds to one residual stream in front of a normaliser is such a set: embeddings, the
    last matrix or conv of every block, their biases. Sets share no parameter and hold none that is
    invariant alone. Where a network has the choice (the values or the output of an attention may
    carry the scale) a smallest set is taken, and of these the one whose parameters come last.

    Candidates are the 0-1 solutions of sum_i s_i df / dlog ||theta_i|| = 0; every set that is
    returned has been scaled, as one parameter is by `scale_invariant_parameters`.

    Args, Raises: as for `scale_invariant_parameters`.
    """
    probe = _Probe(model, example_input)
    names = [n for n in probe.parameters if not probe.invariant([n]) and probe.effect(n)]
    found: list[list[str]] = []
    taken: set[str] = set()
    for members in indicators(null_space(probe.log_derivatives(names))):
        chosen = [names[index] for index in members]
        if len(chosen) > 1 and taken.isdisjoint(chosen) and probe.invariant(chosen):
            found.append(chosen)
            taken.update(chosen)
    originals = dict(model.named_parameters())
    order = {name: index for index, name in enumerate(originals)}
    found.sort(key=lambda chosen: order[chosen[0]])
    return [[(name, originals[name]) for name in chosen] for chosen in found]


class _Probe:
    """A copy of a network that is run with some of its parameters scaled."""

    def __init__(self, model: nn.Module, example_input: Tensor | tuple[Any, ...]) -> None:
        self.twin = copy.deepcopy(model).double().train()
        for module in self.twin.modules():
            for name, value in vars(module).items():
                if "eps" in name and isinstance(value, float):
                    setattr(module, name, EPS)
        inputs = example_input if isinstance(example_input, tuple) else (example_input,)
        self.arguments = tuple(
            a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in inputs
        )
        self.parameters = dict(self.twin.named_parameters())
        self.kept = {name: p.clone() for name, p in self.parameters.items()}
        self.move_to(seed=0)
        if not bool(self.base.isfinite().all()):
            raise ValueError("the network's output for the example input is not finite")
        self._effects: dict[str, float] = {}

    def move_to(self, seed: int) -> None:
        """Take other parameters: those of the network and noise."""
        generator = torch.Generator().manual_seed(seed)
        self.noise = {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
            for name, p in self.parameters.items()
        }
        for name, p in self.parameters.items():
            kept = self.kept[name]
            size = kept.std(correction=0) + 0.1 * kept.abs().mean()
            p.copy_(kept + 0.3 * self.noise[name] * torch.where(size > 0, size, 1.0))
        self.base = self._output()

    def effect(self, name: str) -> float:
        """How much noise on a parameter changes the output; 0 where nothing does."""
        if name not in self._effects:
            parameter = self.parameters[name]
            before = parameter.clone()
            parameter.add_(self.noise[name])
            changed = float((self._output() - self.base).norm() / self.base.norm())
            parameter.copy_(before)
            self._effects[name] = 0.0 if changed <= TOLERANCE else changed
        return self._effects[name]

    def invariant(self, names: Sequence[str]) -> bool:
        """Whether the output depends on these parameters, but not on their common scale."""
        first = self._change(names, 1.0)
        # A NaN is no invariance.
        if not first <= TOLERANCE + EPSILON_AT_ONE:
            return False
        effect = min(1.0, max(self.effect(name) for name in names))
        if effect == 0:
            return False
        # Exactly so where no epsilon is in the way.
        return first <= TOLERANCE * effect or all(
            self._change(names, c) <= TOLERANCE + effect * EPSILON_AT_ONE / c for c in LADDER
        )

    def log_derivatives(self, names: Sequence[str]) -> Tensor:
        """Of the output, with respect to the logarithm of each scale: (num_outputs, num_names).

        At so many points that there are more outputs than names.
        """
        parts: list[Tensor] = []
        for seed in range(1 + 2 * len(names) // self.base.numel()):
            self.move_to(seed)
            ends = [[self._scaled([name], 1 + sign * STEP) for sign in (1, -1)] for name in names]
            parts.append(torch.stack([(up - down) / (2 * STEP) for up, down in ends], dim=1))
        self.move_to(seed=0)
        return torch.cat(parts)

    def _change(self, names: Sequence[str], c: float) -> float:
        once = self.base if c == 1.0 else self._scaled(names, c)
        return float((self._scaled(names, 2 * c) - once).norm() / self.base.norm())

    def _scaled(self, names: Sequence[str], factor: float) -> Tensor:
        before = {name: self.parameters[name].clone() for name in names}
        for name in names:
            self.parameters[name].mul_(factor)
        output = self._output()
        for name, value in before.items():
            self.parameters[name].copy_(value)
        return output

    def _output(self) -> Tensor:
        """All outputs as one vector; dropout draws the same numbers each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            output = self.twin(*self.arguments)
        return torch.cat([tensor.flatten() for tensor in _tensors(output)])


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
