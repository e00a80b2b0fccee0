"""The kernels whose numbers are stored in one of several types, as the static report has them."""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from ..cross_entropy import triton as loss_triton
from ..norm_relu_pool import triton_blocks, triton_sums, triton_writes

MAPS = ("p_y", "p_out", "p_grad", "p_dy", "p_logits", "p_gradient")
"""arguments of the type that a kernel's numbers are stored in"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One specialisation of a kernel; parameters are fp32."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    other: torch.dtype | None = None
    """of the gradients or outputs; None for a kernel that touches no parameters"""
    hold: bool = False
    momentum: str = "-"
    stored: torch.dtype | None = None
    """of the map that a kernel normalises, or of the logits"""


def loss_cases(batch: int = 128) -> list[Case]:
    """The cross-entropy of a step, of few classes and of many."""
    step = {"ACC": triton.language.float32, "SHARED": True, "SUMS": True}
    return [
        Case(
            name=f"cross-entropy of {num_classes}",
            kernel=loss_triton._cross_entropy_kernel,
            constants=step | loss_triton.constants(batch, num_classes),
            stored=stored,
        )
        for num_classes in (10, 1000)
        for stored in (torch.float32, torch.bfloat16)
    ]


def norm_cases(images: int = 128, channels: int = 32, side: int = 32) -> list[Case]:
    """The kernels of a normalisation, without a window and with one of 2x2."""
    acc = {"ACC": triton.language.float32}
    chunks = triton_blocks.chunks_of(images * side * side, channels)
    rows = triton_blocks.row_sizes(channels)
    windows = triton_blocks.window_sizes(channels, side, side, (2, 2))
    merges = triton_blocks.merge_sizes(chunks) | acc
    relu = {"RELU": True} | acc
    tracks = {"TRACKS": True, "MOMENTUM": 0.1, "EPS": 1e-5}
    running = triton_blocks.channel_sizes(channels) | {"EPS": 1e-5}
    streaming = {
        "moments": (triton_sums._moments_kernel, chunks.sizes | {"COUNTS": True} | acc),
        "output": (triton_writes._write_kernel, rows | relu),
        "pooled output": (triton_writes._pool_kernel, windows | {"KEEPS_NAN": False} | relu),
        "products": (triton_sums._products_kernel, chunks.sizes | relu),
        "gradient": (triton_writes._gradient_kernel, rows | relu),
        "pooled gradient": (triton_writes._pool_gradient_kernel, windows | relu),
    }
    small = {
        "statistics": (triton_sums._statistics_kernel, merges | tracks),
        "slopes": (triton_sums._slopes_kernel, merges),
        "running": (triton_sums._running_kernel, running),
    }
    return [
        Case(name=f"norm {name}", kernel=kernel, constants=constants, stored=stored)
        for kinds, types in ((streaming, (torch.float32, torch.bfloat16)), (small, (None,)))
        for name, (kernel, constants) in kinds.items()
        for stored in types
    ]
