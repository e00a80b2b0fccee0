"""Every kernel against other ways to do the same, and the convolutions that packs are made of."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from fasttrain_kernels.augment.augment import augment, byte_map
from fasttrain_kernels.cross_entropy.loss import LossSums, cross_entropy

from ..optimizer_variants import CASES, Case, Problem, Variant, variants
from .machine import Size, seconds
from .table import Row, reason


def optimizer_steps(size: Size, device: torch.device) -> list[Row]:
    """Steps on the sphere: ours, eager, foreach, fused, torch.compile; checked before timed."""
    rows = []
    for name in ("convnet-32",) if size.tiny else ("resnet18-64", "resnet18-32", "pack"):
        ways = variants(not size.tiny)
        expected = functools.cache(functools.partial(_stepped, CASES[name], ways, device))
        for label, variant in ways.items():
            measure = functools.partial(_step, CASES[name], variant, expected, size, device)
            rows.append(Row({"case": CASES[name].name, "step": label}, measure))
    return rows


def _stepped(case: Case, ways: dict[str, Variant], device: torch.device) -> torch.Tensor | str:
    """Where the first way comes with its first step, or why it does not."""
    label, first = next(iter(ways.items()))
    try:
        step, result = first.make(Problem.of(case).on(device))
        step()
        return result()
    except Exception as error:
        return f"{label}: {reason(error)}"


def _step(
    case: Case,
    variant: Variant,
    expected: Callable[[], torch.Tensor | str],
    size: Size,
    device: torch.device,
) -> dict[str, Any]:
    problem = Problem.of(case).on(device)
    step, result = variant.make(problem)
    step()
    unchecked = {}
    if variant.joint:
        other = expected()
        if isinstance(other, str):
            # The first way's failure is that of its own row.
            unchecked = {"nothing to compare with": other}
        else:
            torch.testing.assert_close(result(), other, rtol=1e-3, atol=1e-5)
    taken, moved = seconds(step, size, device), variant.bytes_per_param * problem.num_params()
    row = {"us": taken * 1e6, "bytes": variant.bytes_per_param, "GB/s": moved / taken / 1e9}
    return row | unchecked


def augmentation(size: Size, device: torch.device) -> list[Row]:
    """Batches from bytes: one kernel, and gather and normalisation in torch without any draw."""
    batch, count = (8, 16) if size.tiny else (128, 50_000)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, device=device)
    rows = torch.randperm(count, device=device)[:batch]
    mean = torch.full((3,), 0.5, dtype=torch.float64)
    values = byte_map(mean, mean, torch.bfloat16).to(device)
    draws = {"flip": True, "padding": 4}
    key = torch.zeros(2, dtype=torch.int64, device=device)

    def torch_alone() -> torch.Tensor:
        return ((images[rows].float() / 255 - 0.5) / 0.5).bfloat16().permute(0, 3, 1, 2)

    def measured(function: Callable[[], torch.Tensor], drawn: bool) -> dict[str, Any]:
        if drawn:
            expected = augment(images, rows, values, backend="reference", **draws)
            assert torch.equal(function(), expected), "other bits than the reference"
        taken = seconds(function, size, device)
        return {"us": taken * 1e6, "GB/s": 3 * batch * 32 * 32 * 3 / taken / 1e9}

    ways = {
        "ours, crop and flip": lambda: augment(images, rows, values, **draws),
        "ours, key on the device": lambda: augment(images, rows, values, key=key, **draws),
        "torch, no draw": torch_alone,
    }
    return [
        Row({"batch": name}, functools.partial(measured, way, way is not torch_alone))
        for name, way in ways.items()
    ]


def losses(size: Size, device: torch.device) -> list[Row]:
    """Loss, hits, gradient and sums of a batch: our kernel, torch's operations, torch.compile."""
    rows = []
    cases = [(1, 128, 10), (16, 128, 10), (64, 64, 10), (4, 128, 100)]
    for shape in [(2, 8, 10)] if size.tiny else cases:
        ways = {"ours": cross_entropy, "eager": _loss_in_torch}
        if not size.tiny:
            ways["torch.compile"] = torch.compile(_loss_in_torch, dynamic=False)
        case = " x ".join(map(str, shape))
        for way, function in ways.items():
            measure = functools.partial(_loss, function, shape, size, device)
            rows.append(Row({"models x images x classes": case, "way": way}, measure))
    return rows


def _loss(
    function: Callable[..., Any], shape: tuple[int, int, int], size: Size, device: torch.device
) -> dict[str, Any]:
    num_models, batch, num_classes = shape
    logits = torch.randn(shape, device=device, dtype=torch.bfloat16)
    labels = torch.randint(num_classes, (batch,), device=device)
    mine, ours = (_no_sums(num_models, num_classes, device) for _ in range(2))
    gradient = function(logits, labels, mine)[-1]
    torch.testing.assert_close(gradient, cross_entropy(logits, labels, ours)[-1])
    for found, expected in zip(mine, ours, strict=True):
        # Sums of fp32 losses, in another order; counts are exact.
        rtol = 1e-5 if found.is_floating_point() else 0
        torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    return {"us": seconds(lambda: function(logits, labels, mine), size, device) * 1e6}


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


def convolutions(size: Size, device: torch.device) -> list[Row]:
    """Forward and backward of a stem of 3, 4 or 8 channels, and of packs: grouped, one by one."""
    batch, cases = (4, [(8, 2)]) if size.tiny else (128, [(8, 4), (8, 16), (32, 4), (64, 4)])
    rows = []

    def add(name: str, inputs: int, outputs: int, groups: int, reads_images: bool) -> None:
        def measure() -> dict[str, Any]:
            made = _convolution(batch, inputs, outputs, groups, device, reads_images=reads_images)
            return {"us": seconds(made, size, device) * 1e6}

        rows.append(Row({"convolution": name}, measure))

    for channels in (3, 4, 8):
        add(f"stem of {channels} channels, 32 filters", channels, 32, 1, True)
    for width, models in cases:
        wide = width * models
        add(f"{models} models of {width}: grouped", wide, wide, models, False)
        add(f"{models} models of {width}: one of them", width, width, 1, False)
    return rows


def _convolution(
    batch: int,
    inputs: int,
    outputs: int,
    groups: int,
    device: torch.device,
    *,
    reads_images: bool,
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
