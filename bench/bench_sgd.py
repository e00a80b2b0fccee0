"""One step of plain SGD: `FusedSGD` with and without sums, and `torch.optim.SGD(fused=True)`.

Run with `pytest bench/bench_sgd.py` (pytest-benchmark). `experts` steps another subset each time.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fasttrain.benchmarks_steps import CASES
from fasttrain_kernels import FusedSGD

SHAPES = {
    "6 small tensors": [(8, 3, 3, 3)] * 6,
    **{case.name: case.shapes() for case in CASES.values() if case.num_models == 1},
}
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "ours, sums": FusedSGD,
    "ours": lambda *given, **options: FusedSGD(*given, track=False, **options),
    "torch, fused": lambda *given, **options: torch.optim.SGD(*given, fused=True, **options),
}


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    return made


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shapes", SHAPES)
def bench_sgd(benchmark, shapes, momentum, maker):
    benchmark.group = f"SGD, {shapes}, momentum {momentum}"
    step = MAKERS[maker](parameters(SHAPES[shapes]), 1e-6, momentum=momentum).step
    step()
    benchmark(step)


@pytest.mark.parametrize("maker", MAKERS)
def bench_experts(benchmark, maker):
    benchmark.group = "SGD, other experts in every step"
    params = parameters([(16, 16)] * 100)
    grads = [p.grad for p in params]
    optimizer = MAKERS[maker](params, 1e-6)
    numbers = itertools.count(1)

    def step() -> None:
        number = next(numbers)
        for index, (p, grad) in enumerate(zip(params, grads, strict=True)):
            p.grad = grad if number >> index % 11 & 1 else None
        optimizer.step()

    benchmark(step)
