"""One fused pass from bytes to training batches: gather, crop, flip, cut out, normalise, cast.

Read once as uint8, written once in the training precision: 1 + 4 bytes per value in fp32, 1 + 2 in
bf16. `augment_reference.py` states it; numba carries it out on a CPU, Triton on CUDA and ROCm,
and the three give the same bits. What a sample draws depends on (seed, epoch, sample index) alone.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What batches can be made of."""

BACKENDS = {"numba": ("cpu",), "triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any."""


def byte_table(
    mean: Tensor,  # (C,) fp64, of pixels in [0, 1]
    std: Tensor,  # (C,) fp64
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return (byte / 255 - mean) / std for every byte: (C, 256), on the CPU.

    Scale and shift are rounded once from fp64, never below fp32; multiplied, added and cast in
    three roundings.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scale, shift = ((1 / (255 * std)).to(wide), (-mean / std).to(wide))
    values = torch.arange(256).to(wide).expand(len(mean), -1)
    return values.mul(scale[:, None]).add_(shift[:, None]).to(dtype)


def augment(
    images: Tensor,  # (N, H, W, C) uint8
    rows: Tensor,  # (B,) int64, which images
    table: Tensor,  # (C, 256), what each byte becomes
    *,
    samples: Tensor | None = None,  # (B,) int64, what the draws are keyed by; the rows if not given
    seed: int = 0,
    epoch: int = 0,
    flip: bool = False,
    padding: int = 0,
    cutout: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Return a batch (B, C, H, W), channels_last, of the table's dtype, on the images' device.

    `flip` mirrors half of the images, `padding` crops at random from the image with that many
    pixels of byte 0 around it, `cutout` sets a square of that size to 0. The values of `rows` are
    not checked: they must lie in 0..N-1, as a device value is never read on the host here.

    Raises:
        ValueError: tensors of another type, shape, device or layout; a backend of another device.
    """
    samples = rows if samples is None else samples
    _check(images, rows, samples, table)
    name = _choose(images.device.type, backend)
    out = torch.empty(len(rows), *images.shape[1:], dtype=table.dtype, device=images.device)
    draws: dict[str, Any] = {
        "seed": seed, "epoch": epoch, "flip": flip, "padding": padding, "cutout": cutout
    }  # fmt: skip
    if name == "numba":
        from . import cpu_augment as module
    elif name == "triton":
        from . import augment_triton as module
    else:
        from . import augment_reference as module
    if len(rows):
        module.augment(images, rows, samples, table, out, **draws)
    return out.permute(0, 3, 1, 2)


def _check(images: Tensor, rows: Tensor, samples: Tensor, table: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.is_contiguous():
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: contiguous uint8"
            " (N, H, W, C) is needed"
        )
    if table.dtype not in DTYPES or table.shape != (images.shape[3], 256):
        raise ValueError(
            f"the table is {table.dtype} of shape {tuple(table.shape)}:"
            f" ({images.shape[3]}, 256) of {', '.join(map(str, DTYPES))} is needed"
        )
    for index in (rows, samples):
        if index.dtype != torch.int64 or index.ndim != 1 or len(index) != len(rows):
            raise ValueError(
                f"an index is {index.dtype} of shape {tuple(index.shape)}:"
                f" int64 ({len(rows)},) is needed"
            )
    devices = {str(tensor.device) for tensor in (images, rows, samples, table)}
    if len(devices) > 1:
        raise ValueError(f"tensors are on {', '.join(sorted(devices))}: one device is needed")


def _choose(device: str, backend: str | None) -> str:
    if backend is None:
        fused = {"cpu": "numba", "cuda": "triton" if importlib.util.find_spec("triton") else ""}
        return fused.get(device) or "reference"
    if backend not in BACKENDS or (BACKENDS[backend] and device not in BACKENDS[backend]):
        raise ValueError(f"backend={backend!r} on {device}: allowed are {', '.join(BACKENDS)}")
    return backend
