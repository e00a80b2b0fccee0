"""A training step on paper: bytes, FLOPs and launches, and the time that each alone would take.

Counts are those of `bench.grid.counts`; speeds are the ceilings that were measured on the device.
These are predictions: they stand beside what was measured, and are named so.
"""

from typing import Any

from fasttrain.settings.networks.kinds import ConvNet, ResNet18

from ..grid.counts import plain_operations, traffic_bytes, work
from ..grid.roofline import GRAPH_S, STEP_BYTES

OUTSIDE = 25
"""launches of a step outside of forward and backward pass"""


def predicted(
    network: ConvNet | ResNet18,
    side: int,
    channels: int,
    batch: int,
    num_models: int,
    ceilings: dict[str, float],
) -> dict[str, Any]:
    """Of a step of a pack in bf16: counts, and microseconds per model."""
    counted = work(network, side, channels)
    moved = {
        kind: batch * traffic_bytes(counted, "bf16", kind) + STEP_BYTES * counted.parameters
        for kind in ("eager", "fused")
    }
    launches = plain_operations(network, side, channels, "bf16") + OUTSIDE
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
