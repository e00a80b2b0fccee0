"""A training step kernel by kernel: on paper, and beside it what was measured, as far as it was.

`python -m bench gpu-model` prints the table for given ceilings, without a GPU; the kit fills the
last column in. Counts are those of `bench.grid.counts`, of one model, bf16, and of the kernels that
there are: predictions, until the column beside them is filled.
"""

import argparse
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fasttrain.settings.networks.kinds import ConvNet, ResNet18

from ..grid.counts import work
from ..grid.roofline import BYTES_PER_S, FLOPS_PER_S, GRAPH_S
from .machine import wait
from .model import CAST, CONVOLVED, OPTIMISED, OPTIMISER, launches_of

CEILINGS = {"copy GB/s": BYTES_PER_S / 1e9, "bf16 TFLOP/s": FLOPS_PER_S / 1e12}
"""of a data sheet, where none were measured"""
KINDS = {
    "normalisation": re.compile(
        r"_(moments|statistics|running|write|products|slopes|gradient)_ker"
    ),
    "optimiser": re.compile(r"_(step|apply|totals|sums|finish|scale|sgd|adam)_kernel"),
    "augmentation": re.compile(r"_augment_kernel"),
    "loss": re.compile(r"_cross_entropy_kernel"),
    "convolutions": re.compile(r"conv|gemm|wgrad|dgrad|fprop|cutlass|xmma", re.IGNORECASE),
}
"""kernels by name, the first that matches; any other is one of the rest"""
REST = "rest: head, casts, sums"


def rows(
    network: ConvNet | ResNet18,
    side: int,
    channels: int,
    batch: int,
    num_models: int,
    ceilings: dict[str, float],
    *,
    copies: bool = True,
) -> list[dict[str, Any]]:
    """Launches of a step; megabytes, GFLOP and microseconds per model, by kind of kernel.

    The step writes bf16 copies of the weights; without them autocast casts.
    """
    counted = work(network, side, channels)
    weights = counted.parameters
    outputs, inputs = 2 * batch * counted.outputs, 2 * batch * counted.inputs
    launched = launches_of(network, side, channels, copies=copies)
    image = batch * channels * side * side
    # A convolution reads and writes both sides once in each of its three passes.
    table = {
        "convolutions": (
            launched.convolutions,
            3 * (outputs + inputs) + CONVOLVED * weights,
            batch * counted.flops,
        ),
        # It reads what a convolution wrote, and writes what the next one reads.
        "normalisation": (launched.norms, 4 * (outputs + inputs), 0),
        "optimiser": (OPTIMISER, OPTIMISED[copies] * weights, 0),
        "augmentation": (1, 3 * image, 0),
        # Logits and their gradient in bf16, of ten classes, and labels.
        "loss": (1, batch * (2 * 10 * 2 + 8), 0),
        REST: (launched.others, CAST[copies] * weights, 0),
    }
    found = []
    for kernel, (launches, moved, flops) in table.items():
        row = {"kernel": kernel, "launches": launches, "MB": moved / 1e6, "GFLOP": flops / 1e9}
        limits = {
            "bytes": moved / ceilings["copy GB/s"] / 1e3,
            "FLOPs": flops / ceilings["bf16 TFLOP/s"] / 1e6,
            "launches": launches * GRAPH_S * 1e6 / num_models,
        }
        bound = max(limits, key=limits.__getitem__)
        found.append(row | {"predicted us": limits[bound], "bound by": bound, "measured us": ""})
    names = ("launches", "MB", "GFLOP", "predicted us")
    total = {name: sum(row[name] for row in found) for name in names}
    return [*found, {"kernel": "step", **total, "bound by": "", "measured us": ""}]


def filled(
    table: list[dict[str, Any]],
    step: Callable[[], object],
    num_models: int,
    device: torch.device,
    times: int = 5,
) -> list[dict[str, Any]]:
    """The table with microseconds of a step and model that a profiler saw of every kind."""
    on_gpu = device.type == "cuda"
    step()
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(times):
            step()
        wait(device)
    us = dict.fromkeys((row["kernel"] for row in table), 0.0)
    for event in seen.key_averages():
        taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        taken /= times * num_models
        us[_kind(event.key)] += taken
        us["step"] += taken
    return [row | {"measured us": us[row["kernel"]]} for row in table]


def _kind(kernel: str) -> str:
    return next((kind for kind, names in KINDS.items() if names.search(kernel)), REST)


def main(given: list[str] | None = None) -> int:
    """Print the tables of the networks that the kit measures."""
    from .page import page_table
    from .steps import NETWORKS

    parser = argparse.ArgumentParser(prog="python -m bench gpu-model", description=__doc__)
    parser.add_argument("--models", type=int, default=1, help="of the pack")
    parser.add_argument("--copy-gbs", type=float, default=CEILINGS["copy GB/s"])
    parser.add_argument("--bf16-tflops", type=float, default=CEILINGS["bf16 TFLOP/s"])
    parser.add_argument(
        "--casts", action="store_true", help="without the bf16 copies that the optimiser writes"
    )
    told = parser.parse_args(given)
    ceilings = {"copy GB/s": told.copy_gbs, "bf16 TFLOP/s": told.bf16_tflops}
    print(
        f"predictions from counts, {told.copy_gbs:g} GB/s and {told.bf16_tflops:g} TFLOP/s;", end=""
    )
    print(" us per step and model, packs of", told.models)
    for name, network in NETWORKS.items():
        shape = (8, 1, 64) if name == "digits" else (32, 3, 128)
        table = rows(network, *shape, told.models, ceilings, copies=not told.casts)
        print(f"\n{name}\n")
        print("\n".join(page_table(table)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
