"""Every kernel against other ways to do the same, and the convolutions that packs are made of."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from fasttrain_kernels.augment.augment import augment, byte_map
from fasttrain_kernels.cross_entropy.loss import LossSums, cross_entropy

from ..optimizer_variants import CASES, Problem, variants
from .machine import Size, seconds


def optimizer_steps(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Steps on the sphere: ours, eager, foreach, fused, torch.compile; checked before timed."""
    rows = []
    for name in ("convnet-32",) if size.tiny else ("resnet18-64", "resnet18-32", "pack"):
        case, expected = CASES[name], None
        functions: dict[str, Callable[[], object]] = {}
        bytes_of: dict[str, int] = {}
        for label, variant in variants(not size.tiny).items():
            step, result = variant.make(Problem.of(case).on(device))
            step()
            if variant.joint:
                found = result()
                expected = found if expected is None else expected
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
            functions[label], bytes_of[label] = step, variant.bytes_per_param
        count = Problem.of(case).num_params()
        for label, taken in seconds(functions, size, device).items():
            moved = bytes_of[label] * count
            row = {"case": case.name, "step": label, "us": taken * 1e6}
            rows.append(row | {"bytes": bytes_of[label], "GB/s": moved / taken / 1e9})
    return rows


def augmentation(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Batches from bytes: one kernel, and gather and normalisation in torch without any draw."""
    batch, count = (8, 16) if size.tiny else (128, 50_000)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, device=device)
    rows = torch.randperm(count, device=device)[:batch]
    mean = torch.full((3,), 0.5, dtype=torch.float64)
    values = byte_map(mean, mean, torch.bfloat16).to(device)
    draws = {"flip": True, "padding": 4}
    key = torch.zeros(2, dtype=torch.int64, device=device)

    def torch_alone() -> object:
        return ((images[rows].float() / 255 - 0.5) / 0.5).bfloat16().permute(0, 3, 1, 2)

    found = augment(images, rows, values, epoch=3, **draws)
    expected = augment(images, rows, values, epoch=3, backend="reference", **draws)
    assert torch.equal(found, expected), "augmentation: other bits than the reference"
    functions: dict[str, Callable[[], object]] = {
        "ours, crop and flip": lambda: augment(images, rows, values, **draws),
        "ours, key on the device": lambda: augment(images, rows, values, key=key, **draws),
        "torch, no draw": torch_alone,
    }
    moved = 3 * batch * 32 * 32 * 3
    times = seconds(functions, size, device)
    return [{"batch": n, "us": t * 1e6, "GB/s": moved / t / 1e9} for n, t in times.items()]


def losses(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Loss, hits, gradient and sums of a batch: our kernel, torch's operations, torch.compile."""
    rows = []
    cases = [(1, 128, 10), (16, 128, 10), (64, 64, 10), (4, 128, 100)]
    for num_models, batch, num_classes in [(2, 8, 10)] if size.tiny else cases:
        shape = (num_models, batch, num_classes)
        logits = torch.randn(shape, device=device, dtype=torch.bfloat16)
        labels = torch.randint(num_classes, (batch,), device=device)
        ways = {"ours": cross_entropy, "eager": _loss_in_torch}
        if not size.tiny:
            ways["torch.compile"] = torch.compile(_loss_in_torch, dynamic=False)
        sums = {way: _no_sums(num_models, num_classes, device) for way in ways}
        for way, function in ways.items():
            gradient = function(logits, labels, sums[way])[-1]
            torch.testing.assert_close(gradient, cross_entropy(logits, labels)[-1])
            for found, expected in zip(sums[way], sums["ours"], strict=True):
                # Sums of fp32 losses, in another order; counts are exact.
                rtol = 1e-5 if found.is_floating_point() else 0
                torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
        functions: dict[str, Callable[[], object]] = {
            way: functools.partial(function, logits, labels, sums[way])
            for way, function in ways.items()
        }
        case = f"{num_models} x {batch} x {num_classes}"
        for way, taken in seconds(functions, size, device).items():
            rows.append({"models x images x classes": case, "way": way, "us": taken * 1e6})
    return rows


def _no_sums(num_models: int, num_classes: int, device: torch.device) -> LossSums:
    whole = torch.zeros(num_models + 1, num_classes, dtype=torch.int64, device=device)
    loss = torch.zeros(num_models, dtype=torch.float64, device=device)
    return LossSums(loss, whole[:-1], whole[-1])


def _loss_in_torch(logits: torch.Tensor, labels: torch.Tensor, sums: LossSums) -> Any:
    """The same in torch's operations, with their gradient."""
    wide, count = logits.float().requires_grad_(), len(labels)
    targets = labels.expand(logits.shape[:2])
    every = F.cross_entropy(wide.flatten(0, 1), targets.reshape(-1), reduction="none")
    losses = every.view_as(targets).mean(dim=1)
    (gradient,) = torch.autograd.grad(losses.sum(), wide)
    hits = wide.detach().argmax(dim=2) == targets
    sums.loss.add_(losses.detach() * count)
    sums.hits.index_add_(1, labels, hits.long())
    sums.images.index_add_(0, labels, torch.ones_like(labels))
    return losses.detach(), hits, gradient.to(logits.dtype)


def convolutions(size: Size, device: torch.device) -> list[dict[str, Any]]:
    """Forward and backward of a stem of 3, 4 or 8 channels, and of packs: grouped, one by one."""
    batch, cases = (4, [(8, 2)]) if size.tiny else (128, [(8, 4), (8, 16), (32, 4), (64, 4)])
    functions: dict[str, Callable[[], object]] = {}
    for channels in (3, 4, 8):
        functions[f"stem of {channels} channels, 32 filters"] = _convolution(
            batch, channels, 32, 1, device, reads_images=True
        )
    for width, models in cases:
        functions[f"{models} models of {width}: grouped"] = _convolution(
            batch, width * models, width * models, models, device
        )
        alone = _convolution(batch, width, width, 1, device)
        functions[f"{models} models of {width}: one of them"] = alone
    return [
        {"convolution": name, "us": t * 1e6} for name, t in seconds(functions, size, device).items()
    ]


def _convolution(
    batch: int,
    inputs: int,
    outputs: int,
    groups: int,
    device: torch.device,
    *,
    reads_images: bool = False,
) -> Callable[[], object]:
    last: Any = torch.channels_last
    x = torch.randn(batch, inputs, 32, 32, device=device, dtype=torch.bfloat16)
    x = x.to(memory_format=last).requires_grad_(not reads_images)
    weight = torch.randn(outputs, inputs // groups, 3, 3, device=device, dtype=torch.bfloat16)
    weight = weight.to(memory_format=last).requires_grad_()
    wanted = [weight] if reads_images else [x, weight]
    shape = (batch, outputs, 32, 32)
    grad = torch.randn(shape, device=device, dtype=torch.bfloat16).to(memory_format=last)

    def both() -> object:
        return torch.autograd.grad(F.conv2d(x, weight, padding=1, groups=groups), wanted, grad)

    return both
