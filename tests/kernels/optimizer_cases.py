"""Every kind of step of our optimisers, on small parameters of all shapes, for their tests."""

import torch
from torch import Tensor, nn

from fasttrain_kernels import FusedSGD, SphereAdam, SphereSGD

# Optimisers and formulas round differently in a handful of fp64 operations on numbers near 1.
CLOSE = dict(rtol=1e-12, atol=1e-14)

MAKERS = {
    "exact": lambda p, **o: SphereSGD(p, elr=0.01, momentum=0.9, **o),
    "deferred": lambda p, **o: SphereSGD(p, elr=0.01, projection="deferred", **o),
    "group": lambda p, **o: SphereSGD(p, elr=0.01, scope="group", nesterov=True, momentum=0.5, **o),
    "sgd": lambda p, **o: FusedSGD(p, 0.01, momentum=0.9, weight_decay=1e-3, **o),
    "adam": lambda p, **o: SphereAdam(p, 0.01, **o),
    "mixed": lambda p, **o: SphereSGD(
        [{"params": p[:2]}, {"params": p[2:], "sphere": False, "lr": 0.1, "weight_decay": 0.01}],
        elr=0.01,
        **o,
    ),
}
BACKENDS = ["numba", "reference"]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 3, 3, 3), (4, 7), (8, 2, 1, 1), (9,)]
    made = [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]
    refresh(made, seed + 1)
    return made


def refresh(params: list[nn.Parameter], seed: int) -> None:
    """New gradients."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def copied(params: list[nn.Parameter]) -> list[nn.Parameter]:
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    for twin, p in zip(twins, params, strict=True):
        twin.grad = None if p.grad is None else p.grad.clone()
    return twins


def flat(params) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params])
