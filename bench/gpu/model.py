"""A training step on paper: bytes, FLOPs and launches, and the time that each alone would take.

Counts are those of `bench.grid.counts`; speeds are the ceilings that were measured on the device.
These are predictions: they stand beside what was measured, and are named so.
"""

import contextlib
from typing import Any, NamedTuple

import torch

from fasttrain.machine.precision import autocast
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.training.working_copies import WorkingCopies
from fasttrain_kernels import NormReLUPool

from ..grid.counts import Operations, traffic_bytes, work
from ..grid.roofline import GRAPH_S

OUTSIDE = 5
"""launches of a step outside of forward and backward pass: augmentation, loss, optimiser"""
OPTIMISER = 3
"""of those"""
CONVOLVED = 6
"""bytes per parameter of convolutions: two passes read the bf16 weight, one writes its gradient"""
OPTIMISED = {True: 18, False: 20}
"""of the exact step: with bf16 gradients and the copy that it writes, or all in fp32"""
CAST = {True: 0, False: 12}
"""of autocast: weights to bf16, gradients back; or none, where the step writes copies"""
NO_LAUNCH = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.promote_types", "profiler.")
COUNTED = ("aten.convolution", "fasttrain_kernels.norm_relu_pool")
"""operations, forward and backward, that are counted by the modules that take them"""


class Launches(NamedTuple):
    """Of a forward and a backward pass."""

    convolutions: int
    """three passes each"""
    norms: int
    """six each"""
    others: int


def launches_of(
    network: ConvNet | ResNet18, side: int, channels: int, *, copies: bool = True
) -> Launches:
    """Launches of a step by what takes them, in bf16; packs of any size have the same.

    Without copies of the weights autocast casts them and their gradients.
    """
    model = network.build((channels, side, side), 10, 1, on_sphere=True)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    convs = norms = 0
    for module in model.modules():
        convs += isinstance(module, torch.nn.Conv2d)
        if isinstance(module, NormReLUPool):
            norms += 1
            # They are kept by the kernels, and in operations of torch only where these are watched.
            module.running_mean = module.running_var = module.num_batches_tracked = None
    images, reads = torch.randn(4, channels, side, side).bfloat16(), contextlib.nullcontext
    if copies:
        reads = WorkingCopies(model, lambda _: None).in_place
        for _ in range(2):
            with autocast("bf16", torch.device("cpu")), reads():
                model(images)
    with Operations((*NO_LAUNCH, *COUNTED)) as others:
        with autocast("bf16", torch.device("cpu")), reads():
            logits = model(images)
        # As our loss leaves it: the gradient is there already.
        logits.backward(torch.empty_like(logits))
    return Launches(3 * convs, 6 * norms, others.count)


def predicted(
    network: ConvNet | ResNet18,
    side: int,
    channels: int,
    batch: int,
    num_models: int,
    ceilings: dict[str, float],
    *,
    copies: bool = True,
) -> dict[str, Any]:
    """Of a step of a pack in bf16: counts, and microseconds per model."""
    counted = work(network, side, channels)
    each = CONVOLVED + OPTIMISED[copies] + CAST[copies]
    moved = {
        kind: batch * traffic_bytes(counted, "bf16", kind) + each * counted.parameters
        for kind in ("eager", "fused")
    }
    launches = sum(launches_of(network, side, channels, copies=copies)) + OUTSIDE
    flops = batch * counted.flops
    return {
        "MB": moved["eager"] / 1e6,
        "MB fused": moved["fused"] / 1e6,
        "GFLOP": flops / 1e9,
        "launches": launches,
        "bytes us": moved["eager"] / ceilings["copy GB/s"] / 1e3,
        "bytes us fused": moved["fused"] / ceilings["copy GB/s"] / 1e3,
        "FLOPs us": flops / ceilings["bf16 TFLOP/s"] / 1e6,
        "launches us": launches * GRAPH_S * 1e6 / num_models,
    }


def roof_us(prediction: dict[str, Any]) -> float:
    """What bounds a step, whatever the number of launches: bytes, one operation each, or FLOPs."""
    return max(prediction["bytes us"], prediction["FLOPs us"])
