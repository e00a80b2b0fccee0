"""Normalisation, ReLU and pooling: our kernels against torch's operations and torch.compile."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasttrain_kernels import NormReLUPool

from .machine import Size, seconds
from .table import Row

SHAPES = {
    "32 channels, 32x32": ((128, 32, 32, 32), 1),
    "64 channels, 32x32, pool 2": ((128, 64, 32, 32), 2),
    "128 channels, 16x16": ((128, 128, 16, 16), 1),
    "256 channels, 8x8": ((128, 256, 8, 8), 1),
    "16 models of 8 channels, 32x32, pool 2": ((128, 128, 32, 32), 2),
}
TINY = {"4 channels, 8x8, pool 2": ((4, 4, 8, 8), 2)}
PASSES = ("forward", "forward and backward", "evaluation")


class InTorch(NormReLUPool):
    """The same in torch's operations."""

    def fused(self, input: Tensor) -> bool:
        return False


def least_bytes(y: Tensor, pool: int, which: str) -> int:
    """What our kernels read and write in a pass: see `fasttrain_kernels.norm_relu_pool.triton`."""
    whole, pooled = y.nbytes, y.nbytes // pool**2
    forward = 2 * whole + pooled
    return {
        "forward": forward,
        "forward and backward": forward + 2 * whole + 3 * pooled,
        "evaluation": whole + pooled,
    }[which]


def normalisation(size: Size, device: torch.device, ceilings: dict[str, float]) -> list[Row]:
    """Microseconds of a pass in bf16; `of the copy`: what a copy of our bytes takes, over it."""
    rows: list[Row] = []
    for name, (shape, pool) in (TINY if size.tiny else SHAPES).items():
        for which in PASSES:
            ways = ["ours", "eager"]
            # Compilation takes seconds: of the pass that training takes.
            if which == "forward and backward" and not size.tiny:
                ways.append("torch.compile")
            for way in ways:
                given = way, shape, pool, which, size, device, ceilings
                about = {"normalisation": name, "pass": which, "way": way}
                rows.append(Row(about, functools.partial(_measured, *given)))
    return rows


def _measured(
    way: str,
    shape: tuple[int, ...],
    pool: int,
    which: str,
    size: Size,
    device: torch.device,
    ceilings: dict[str, float],
) -> dict[str, Any]:
    y = torch.randn(shape, device=device, dtype=torch.bfloat16)
    y = y.to(memory_format=torch.channels_last).requires_grad_()  # type: ignore[call-overload]
    function = _way(way, y, pool, which)
    _check(function(), _way("eager", y, pool, which)())
    taken, moved = seconds(function, size, device), least_bytes(y, pool, which)
    row = {"us": taken * 1e6, "MB": moved / 1e6, "GB/s": moved / taken / 1e9}
    return row | {"of the copy": moved / taken / 1e9 / ceilings["copy GB/s"]}


def _way(way: str, y: Tensor, pool: int, which: str) -> Callable[[], Tensor]:
    kind = NormReLUPool if way == "ours" else InTorch
    module: Callable[[Tensor, int], Tensor] = kind(y.shape[1], device=y.device).train(
        which != "evaluation"
    )
    if way == "torch.compile":
        module = torch.compile(module, dynamic=False)
    if which != "forward and backward":
        return torch.no_grad()(lambda: module(y, pool))
    torch.manual_seed(0)
    grad = torch.randn_like(module(y, pool))
    return lambda: torch.autograd.grad(module(y, pool), y, grad)[0]


def _check(found: Tensor, expected: Tensor) -> None:
    """That a way finds the same, to the digits that bf16 has."""
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert error < 2e-2, f"an error of {error:.3g}"
