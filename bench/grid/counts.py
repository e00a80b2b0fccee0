"""What a training step has to do, counted; and how fast this machine can do it, measured.

FLOPs are those of convolutions and head, two per multiply-add; training takes three times the
forward pass (the gradient of the first conv's input, which is not needed, included). Operations are
those that eager PyTorch dispatches in a step of ours, views left out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain.machine.precision import autocast
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.settings.networks.modules import MODELS
from fasttrain_kernels import SphereSGD

from .networks import NETWORKS

ACCESSES_OF_OUTPUTS = {"fused": 8, "eager": 16}
"""of an element that a conv writes, in forward and backward of the conv and of the normalisation,
ReLU and pooling that follow: one operation that reads it twice each way, or one each"""
ACCESSES_OF_INPUTS = {"fused": 6, "eager": 3}
"""of an element that a conv reads, beyond those: the fused operation writes it, and reads its
gradient twice"""
ELEMENT_BYTES = {"fp32": 4, "bf16": 2}
MATRIX_SIDE = 2048
COPY_ELEMENTS = 2**25


@dataclass(frozen=True)
class Work:
    """Of one model: what does not depend on how it is run."""

    flops: int
    """of training on one image"""
    outputs: int
    """elements that the convolutions write per image"""
    inputs: int
    """elements that the convolutions read per image"""
    parameters: int
    """on the sphere"""


def work(network: ConvNet | ResNet18, side: int, channels: int, num_classes: int = 10) -> Work:
    """Count by the shapes of every layer, without computing anything."""
    forward = outputs = inputs = parameters = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal forward, outputs, inputs, parameters
        weight: Any = module.weight
        forward += 2 * result[0].numel() * weight[0].numel()
        if isinstance(module, nn.Conv2d):
            outputs += result[0].numel()
            inputs += args[0][0].numel()
            parameters += weight.numel()

    with torch.device("meta"), torch.no_grad():
        make = NETWORKS[network.model]
        model = make(num_classes, in_channels=channels, width=network.width, side=side)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        model.eval()(torch.empty(1, channels, side, side))
    return Work(3 * forward, outputs, inputs, parameters)


def traffic_bytes(counted: Work, precision: str, kind: str = "fused") -> int:
    """Activations read and written in training on one image, nothing staying in a cache."""
    accesses = (
        ACCESSES_OF_OUTPUTS[kind] * counted.outputs + ACCESSES_OF_INPUTS[kind] * counted.inputs
    )
    return ELEMENT_BYTES[precision] * accesses


class Operations(TorchDispatchMode):
    """Counts what is dispatched, views and operations whose name begins so left out."""

    def __init__(self, besides: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.besides = besides
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not (func.is_view or str(func).startswith(self.besides))
        return func(*args, **(kwargs or {}))


def dispatched_operations(
    network: ConvNet | ResNet18, side: int, channels: int, num_models: int, precision: str
) -> int:
    """Operations of one training step of a pack: forward, loss, backward, step, statistics.

    What numba compiles (the fused normalisation, the optimiser) is none.
    """
    make = MODELS[network.model]
    model = make(10, in_channels=channels, width=network.width, num_models=num_models)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _operations(model, side, channels, num_models, precision)


def plain_operations(network: ConvNet | ResNet18, side: int, channels: int, precision: str) -> int:
    """Of one model in plain torch modules: as `dispatched_operations`."""
    with torch.no_grad():
        make = NETWORKS[network.model]
        model = make(10, in_channels=channels, width=network.width, side=side)
    return _operations(model, side, channels, 1, precision)


def _operations(model: nn.Module, side: int, channels: int, num_models: int, precision: str) -> int:
    cpu = torch.device("cpu")
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    rates = torch.full((num_models,), 1e-3, dtype=torch.float64)
    optimizer = SphereSGD(weights, elr=rates, num_models=num_models)
    images, labels = torch.randn(4, channels, side, side), torch.arange(4)

    def step() -> None:
        with autocast(precision, cpu):
            logits = model(images)
        losses, _ = CrossEntropy()(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        optimizer.totals()

    step()
    # The rates of a step are made in memory that it allocates, which is no operation.
    with Operations(("aten.empty_like",)) as operations:
        step()
    return operations.count


def matrix_flops_per_s(dtype: torch.dtype) -> float:
    """The fastest product of large square matrices, with all threads."""
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(dtype) for _ in range(2))
    return 2 * MATRIX_SIDE**3 / _fastest(lambda: torch.mm(a, b))


def copied_bytes_per_s() -> float:
    """Bytes read and written by the fastest copy of 128 MiB, with all threads."""
    source, target = torch.randn(COPY_ELEMENTS), torch.empty(COPY_ELEMENTS)
    return 8 * COPY_ELEMENTS / _fastest(lambda: target.copy_(source))


def _fastest(function: Callable[[], object], repeat: int = 7) -> float:
    times = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times[1:])
