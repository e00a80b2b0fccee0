"""Parameters, losses and steps for tests of `OnSphere`."""

import torch
from torch import Tensor, nn

WRAPPED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.02, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "muon": lambda p: torch.optim.Muon(p, lr=0.02),
}
KINDS = {
    "joint": {"scope": "joint"},
    "tensor": {"scope": "group", "groups": "tensor"},
    "rows": {"scope": "group", "groups": "filter"},
}


def weights(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in [(6, 5), (4, 9), (8, 3)]
    ]


def loss_of(parameters: list[nn.Parameter], shift: float = 0.0) -> Tensor:
    """Not scale-invariant: quadratic about points that are not on the spheres."""
    return sum(
        ((p - 2.0 - shift) * (1 + torch.arange(p.numel(), dtype=p.dtype).view_as(p)))
        .square()
        .mean()
        for p in parameters
    )  # type: ignore[return-value]


def norms(parameters: list[nn.Parameter], kind: str) -> Tensor:
    if kind == "joint":
        return torch.cat([p.detach().flatten() for p in parameters]).norm()[None]
    if kind == "tensor":
        return torch.stack([p.detach().norm() for p in parameters])
    return torch.cat([p.detach().norm(dim=1) for p in parameters])


def train(optimizer, parameters: list[nn.Parameter], steps: int = 4, shift: float = 0.0) -> None:
    for step in range(steps):

        def closure(step=step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(parameters, shift * step)
            loss.backward()
            return loss

        optimizer.step(closure)


def close(actual, expected, bound: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)
