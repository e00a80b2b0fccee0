"""Normalisation, ReLU and pooling: our kernels against torch's operations and torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasttrain_kernels import NormReLUPool

from .machine import Size, seconds

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


def normalisation(
    size: Size, device: torch.device, ceilings: dict[str, float]
) -> list[dict[str, Any]]:
    """Microseconds of a pass in bf16; `of the copy`: what a copy of our bytes takes, over it."""
    rows: list[dict[str, Any]] = []
    for name, (shape, pool) in (TINY if size.tiny else SHAPES).items():
        y = torch.randn(shape, device=device, dtype=torch.bfloat16)
        y = y.to(memory_format=torch.channels_last).requires_grad_()  # type: ignore[call-overload]
        for which in PASSES:
            functions = _ways(y, pool, which, not size.tiny)
            _check(functions)
            moved = least_bytes(y, pool, which)
            for way, taken in seconds(functions, size, device).items():
                row = {"normalisation": name, "pass": which, "way": way, "us": taken * 1e6}
                row |= {"MB": moved / 1e6, "GB/s": moved / taken / 1e9}
                rows.append(row | {"of the copy": moved / taken / 1e9 / ceilings["copy GB/s"]})
    return rows


def _ways(y: Tensor, pool: int, which: str, compiled: bool) -> dict[str, Callable[[], Any]]:
    def pass_of(make: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        if which != "forward and backward":
            return torch.no_grad()(lambda: make(y))
        grad = torch.randn_like(make(y))
        return lambda: torch.autograd.grad(make(y), y, grad)[0]

    def module(kind: type[NormReLUPool]) -> NormReLUPool:
        return kind(y.shape[1], device=y.device).train(which != "evaluation")

    ours, plain = module(NormReLUPool), module(InTorch)
    torch.manual_seed(0)
    ways = {"ours": pass_of(lambda y: ours(y, pool))}
    torch.manual_seed(0)
    ways["eager"] = pass_of(lambda y: plain(y, pool))
    # Compilation takes seconds: of the pass that training takes.
    if compiled and which == "forward and backward":
        traced = torch.compile(module(InTorch), dynamic=False)
        torch.manual_seed(0)
        ways["torch.compile"] = pass_of(lambda y: traced(y, pool))
    return ways


def _check(functions: dict[str, Callable[[], Any]]) -> None:
    """That all ways find the same, to the digits that bf16 has."""
    expected = functions["eager"]().float()
    for function in functions.values():
        error = (function().float() - expected).norm() / expected.norm()
        assert error < 2e-2, f"normalisation: an error of {error:.3g}"
