"""Training steps with fused normalisation against torch's modules.

Run with `pytest bench/bench_norm.py`; the rows of one group are alternatives for the same work.
"""

import pytest
import torch

from fasttrain.machine.precision import autocast
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS
from fasttrain_kernels import NormReLUPool, SphereSGD

CPU = torch.device("cpu")

# model, width, (channels, height, width), images, precision
STEPS = {
    "ConvNet c=8, fp32": ("convnet", 8, (3, 32, 32), 128, "fp32"),
    "ConvNet c=8, bf16": ("convnet", 8, (3, 32, 32), 128, "bf16"),
    "ConvNet c=32, fp32": ("convnet", 32, (3, 32, 32), 128, "fp32"),
    "ConvNet c=32, bf16": ("convnet", 32, (3, 32, 32), 128, "bf16"),
    "ResNet-18 c=16, bf16": ("resnet18", 16, (3, 32, 32), 128, "bf16"),
    "ConvNet c=8, 8x8x1, bf16": ("convnet", 8, (1, 8, 8), 64, "bf16"),
}

# (N, C, H, W), window
OPERATIONS = {
    "128x8x32x32": ((128, 8, 32, 32), 1),
    "128x16x32x32, pool 2": ((128, 16, 32, 32), 2),
    "128x128x16x16": ((128, 128, 16, 16), 1),
}


class Unfused(NormReLUPool):
    """The same in torch's operations."""

    def fused(self, input: torch.Tensor) -> bool:
        return False


KINDS = {"fused": NormReLUPool, "torch": Unfused}


def network_step(kind: str, case: str):
    model, width, shape, count, precision = STEPS[case]
    torch.manual_seed(0)
    net = MODELS[model](10, in_channels=shape[0], width=width)
    net.to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, NormReLUPool):
            module.__class__ = KINDS[kind]
    images = torch.randn(count, *shape).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (count,))
    optimizer = SphereSGD(net.named_sphere_parameters(), elr=1e-4)

    def step() -> None:
        with autocast(precision, CPU):
            logits = net(images)
        optimizer.zero_grad(set_to_none=True)
        CrossEntropy()(logits, labels)[0].backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", STEPS)
def bench_step(benchmark, case, kind):
    benchmark.group = f"training step, {case}"
    benchmark.pedantic(network_step(kind, case), rounds=15, warmup_rounds=3)


@pytest.mark.parametrize("kind", [*KINDS, "copy of the input"])
@pytest.mark.parametrize("case", OPERATIONS)
def bench_operation(benchmark, case, kind):
    benchmark.group = f"forward and backward alone, bf16, {case}"
    shape, pool = OPERATIONS[case]
    y = torch.randn(shape).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    if kind not in KINDS:
        benchmark.pedantic(y.detach().clone, rounds=50, warmup_rounds=5)
        return
    module = KINDS[kind](shape[1])
    grad = torch.randn_like(module(y, pool))
    benchmark.pedantic(
        lambda: torch.autograd.grad(module(y, pool), y, grad), rounds=50, warmup_rounds=5
    )
