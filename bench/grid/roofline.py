"""A training step on an H100, on paper: `python -m bench roofline`.

A prediction from counts and data-sheet numbers; nothing here is measured on a GPU. Data sheet (H100
SXM): 989 TFLOP/s of dense bf16 matrix products, 3.35 TB/s of memory. Assumed: 5 us of host time for
an operation launched eagerly, 2 us for a kernel in a CUDA graph, one kernel per operation of plain
torch modules.
"""

import math
from dataclasses import dataclass

from fasttrain.settings.networks.kinds import ConvNet, ResNet18

from .counts import Work, plain_operations, traffic_bytes, work

FLOPS_PER_S = 989e12
BYTES_PER_S = 3.35e12
EAGER_S = 5e-6
GRAPH_S = 2e-6
STEP_BYTES = 20 + 10
"""per parameter: the exact step, a bf16 copy of the weight, and its gradient"""
STEP_LAUNCHES = 2
NETWORKS = {
    "ResNet-18 c=32, 32x32, batch 128": (ResNet18(width=32), 32, 3, 128),
    "ConvNet c=32, 32x32, batch 128": (ConvNet(width=32), 32, 3, 128),
    "ConvNet c=8, 32x32, batch 128": (ConvNet(width=8), 32, 3, 128),
    "ConvNet c=8, 8x8, batch 64": (ConvNet(width=8), 8, 1, 64),
}


@dataclass(frozen=True)
class Roofs:
    """Microseconds that each limit alone takes: the first three per model, the others per step."""

    flops: float
    eager_bytes: float
    """one operation each for normalisation, ReLU and pooling"""
    fused_bytes: float
    """one for all three"""
    eager_launches: float
    graph_launches: float

    @classmethod
    def of(cls, counted: Work, batch: int, operations: int) -> "Roofs":
        def bytes_us(kind: str) -> float:
            moved = batch * traffic_bytes(counted, "bf16", kind) + STEP_BYTES * counted.parameters
            return moved / BYTES_PER_S * 1e6

        launches = operations + STEP_LAUNCHES
        return cls(
            batch * counted.flops / FLOPS_PER_S * 1e6,
            bytes_us("eager"),
            bytes_us("fused"),
            launches * EAGER_S * 1e6,
            launches * GRAPH_S * 1e6,
        )

    def models_to_fill(self, launches: float) -> int:
        """Models in a pack from which launches no longer take longest."""
        return math.ceil(launches / max(self.flops, self.eager_bytes))


def table() -> str:
    """Markdown: counts and limits of every network, and the pack that makes launches no limit."""
    headings = ["network", "GFLOP", "MB", "MB fused", "kernels", "FLOPs us", "bytes us"]
    headings += ["bytes us fused", "launches us eager", "in a graph", "pack eager", "in a graph"]
    lines = [f"| {' | '.join(headings)} |", f"|---{'|---:' * (len(headings) - 1)}|"]
    for name, (network, side, channels, batch) in NETWORKS.items():
        counted = work(network, side, channels)
        operations = plain_operations(network, side, channels, "bf16")
        roofs = Roofs.of(counted, batch, operations)
        cells = [
            f"{batch * counted.flops / 1e9:.1f}",
            f"{roofs.eager_bytes * BYTES_PER_S / 1e12:.1f}",
            f"{roofs.fused_bytes * BYTES_PER_S / 1e12:.1f}",
            f"{operations + STEP_LAUNCHES}",
            f"{roofs.flops:.1f}",
            f"{roofs.eager_bytes:.1f}",
            f"{roofs.fused_bytes:.1f}",
            f"{roofs.eager_launches:.0f}",
            f"{roofs.graph_launches:.0f}",
            f"{roofs.models_to_fill(roofs.eager_launches)}",
            f"{roofs.models_to_fill(roofs.graph_launches)}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
