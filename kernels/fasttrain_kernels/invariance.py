"""Which parameters a network is scale-invariant to, found by measurement.

f is scale-invariant in theta_i if f(c * theta_i) = f(theta_i) for every c > 0. Here c = 2 on a copy
of the network in fp64 and train mode, at parameters with noise added (so that a zero-initialised
scale hides nothing), with the epsilons of its normalisers made tiny: they alone would break it.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-30
TOLERANCE = 1e-8
"""Relative difference of outputs that counts as none: fp64 leaves about 1e-13 in deep networks."""


@torch.no_grad()
def scale_invariant_parameters(
    model: nn.Module, example_input: Tensor | tuple[Any, ...]
) -> list[tuple[str, nn.Parameter]]:
    """Named parameters of `model` that may be scaled, one by one, without changing its output.

    Parameters that do not change the output at all (a bias in front of a batch normalisation, a
    module that is not used) are left out, and so are those that are invariant only together, as the
    convs that add to one residual stream.

    Args:
        model: any network whose output is a tensor, or a tuple, list or dict of such; it is copied
            and stays as it is.
        example_input: a batch, or the tuple of all arguments; of two samples or more, since train
            mode normalises over the batch.

    Raises:
        ValueError: the output is not finite.
    """
    twin = copy.deepcopy(model).double().train()
    for module in twin.modules():
        if isinstance(getattr(module, "eps", None), float):
            module.eps = EPS  # type: ignore[assignment]
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    arguments = tuple(
        a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
    )
    generator = torch.Generator().manual_seed(0)
    parameters = dict(twin.named_parameters())
    noise = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        for name, p in parameters.items()
    }
    for name, parameter in parameters.items():
        size = parameter.std(correction=0) + 0.1 * parameter.abs().mean()
        parameter.add_(0.3 * noise[name] * torch.where(size > 0, size, 1.0))
    base = _output(twin, arguments)
    if not bool(base.isfinite().all()):
        raise ValueError("the network's output for the example input is not finite")

    def changes(parameter: Tensor, value: Tensor) -> bool:
        kept = parameter.clone()
        parameter.copy_(value)
        difference = (_output(twin, arguments) - base).norm() / base.norm()
        parameter.copy_(kept)
        return not bool(difference <= TOLERANCE)

    return [
        (name, original)
        for name, original in model.named_parameters()
        if not changes(parameters[name], 2 * parameters[name])
        and changes(parameters[name], parameters[name] + noise[name])
    ]


def _output(model: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
    """All outputs as one vector; dropout draws the same numbers each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output = model(*arguments)
    return torch.cat([tensor.flatten() for tensor in _tensors(output)])


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
