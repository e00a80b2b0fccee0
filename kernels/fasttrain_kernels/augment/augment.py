"""One fused pass from bytes to batches: gather, crop, flip, cut out, normalise, patch, cast.

Read once as uint8, written once in the training precision: 1 + 4 bytes per value in fp32, 1 + 2 in
bf16. `reference.py` states it; numba carries it out on a CPU, Triton on CUDA and ROCm,
and the three give the same bits. What a sample draws depends on (seed, epoch, sample index) alone.
"""

import functools
import importlib.util
import os
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What batches can be made of."""

BACKENDS = {"numba": ("cpu",), "triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any."""

BLOCK = 1024
"""Values that a GPU's program makes at once, 8 per thread."""

MAX_BLOCKS = 16
"""Of one program: enough that drawing its words costs little."""

OWNER = os.getpid()
"""The process that imported this; another one is a fork of it."""


class ByteMap(NamedTuple):
    """What bytes of channel c become: byte * scale[c] + shift[c], then cast: three roundings."""

    scale: Tensor  # (C,), at least fp32
    shift: Tensor  # (C,)
    table: Tensor  # (C, 256), every result, of the batches' dtype

    def to(self, device: torch.device) -> "ByteMap":
        """Return the same on a device."""
        return ByteMap(*(tensor.to(device) for tensor in self))


def byte_map(
    mean: Tensor,  # (C,) fp64, of pixels in [0, 1]
    std: Tensor,  # (C,) fp64
    dtype: torch.dtype = torch.float32,
) -> ByteMap:
    """Return (byte / 255 - mean) / std for every byte, on the CPU.

    Scale and shift are rounded once from fp64, never below fp32.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scale, shift = ((1 / (255 * std)).to(wide), (-mean / std).to(wide))
    values = torch.arange(256).to(wide).expand(len(mean), -1)
    table = values.mul(scale[:, None]).add_(shift[:, None]).to(dtype)
    return ByteMap(scale, shift, table)


class Patch(NamedTuple):
    """A patch that tells the class, added to some images after all else (arXiv 1907.04595).

    Constant for an image are whether it is patched, and for a class v; drawn at each access are the
    sign, whether the image is there or zeros in its place, and u in [0, 1):

        image + (z ± v)        zeros + (z ± strength * u * v)
    """

    shared: Tensor  # (P, Q, C), z, of the type of a ByteMap's scale
    own: Tensor  # (K, P, Q, C), v of every class, likewise
    top: int
    left: int
    share: float
    """probability that an image is patched"""
    alone: float
    """probability that a patched image is zeros but for the patch"""
    strength: float
    seed: int
    """of which images are patched"""
    part: int = 0
    """which of several sets of images it is: others of each are patched"""
    blank: bool = False
    """whether every image is zeros, patched or not"""

    def to(self, device: torch.device) -> "Patch":
        """Return the same on a device."""
        return self._replace(shared=self.shared.to(device), own=self.own.to(device))


def num_parts(images: Tensor) -> int:
    """Programs of a GPU that make one image."""
    blocks = -(-images[:1].numel() // BLOCK)
    return -(-blocks // MAX_BLOCKS)


def augment(
    images: Tensor,  # (N, H, W, C) uint8
    rows: Tensor,  # (B,) int64, which images
    values: ByteMap,  # what each byte becomes
    *,
    patch: Patch | None = None,
    labels: Tensor | None = None,  # (B,) int64, of the images; a patch needs them
    samples: Tensor | None = None,  # (B,) int64, what the draws are keyed by; the rows if not given
    seed: int = 0,
    epoch: int = 0,
    key: Tensor | None = None,  # (2,) int64, bits of seed and epoch, in the place of the two
    flip: bool = False,
    padding: int = 0,
    cutout: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Return a batch (B, C, H, W), channels_last, of the table's dtype, on the images' device.

    `flip` mirrors half of the images, `padding` crops at random from the image with that many
    pixels of byte 0 around it, `cutout` sets a square of that size to 0. The values of `rows` are
    not checked: they must lie in 0..N-1, as a device value is never read on the host here. Nor are
    labels, in 0..K-1 of the K classes of a patch; the patch is added last. A `key` is read when the
    kernel runs: a CUDA graph that was captured with one draws what stands there at each replay.

    Raises:
        ValueError: tensors of another type, shape, device or layout; a backend of another device.
    """
    samples = rows if samples is None else samples
    _check(images, rows, samples, values, key)
    if patch is not None:
        _check_patch(patch, images, rows, labels, values)
    name = _choose(images.device.type, backend)
    out = torch.empty(
        (len(rows), *images.shape[1:]), dtype=values.table.dtype, device=images.device
    )
    if name == "numba":
        from . import cpu as module
    elif name == "triton":
        from . import triton as module
    else:
        from . import reference as module
    if len(rows):
        module.augment(
            images, rows, samples, values, out,
            seed=seed, epoch=epoch, key=key, flip=flip, padding=padding, cutout=cutout,
            patch=patch, labels=labels,
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _check(
    images: Tensor, rows: Tensor, samples: Tensor, values: ByteMap, key: Tensor | None
) -> None:
    if key is not None and (key.dtype, key.shape, key.device) != (torch.int64, (2,), images.device):
        raise ValueError(
            f"the key is {key.dtype} of shape {tuple(key.shape)} on {key.device}: int64 (2,) on"
            f" {images.device} is needed"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.is_contiguous():
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: contiguous uint8"
            " (N, H, W, C) is needed"
        )
    scale, shift, table = values
    channels = images.shape[3]
    if table.dtype not in DTYPES or table.shape != (channels, 256):
        raise ValueError(
            f"the table is {table.dtype} of shape {tuple(table.shape)}:"
            f" ({channels}, 256) of {', '.join(map(str, DTYPES))} is needed"
        )
    wide = torch.promote_types(table.dtype, torch.float32)
    for factor in (scale, shift):
        if factor.dtype != wide or factor.shape != (channels,) or not factor.is_contiguous():
            raise ValueError(
                f"a scale or shift is {factor.dtype} of shape {tuple(factor.shape)}:"
                f" contiguous {wide} ({channels},) is needed"
            )
    for index in (rows, samples):
        if index.dtype != torch.int64 or index.ndim != 1 or len(index) != len(rows):
            raise ValueError(
                f"an index is {index.dtype} of shape {tuple(index.shape)}:"
                f" int64 ({len(rows)},) is needed"
            )
    devices = {tensor.device for tensor in (images, rows, samples, *values)}
    if len(devices) > 1:
        raise ValueError(
            f"tensors are on {', '.join(sorted(map(str, devices)))}: one device is needed"
        )


def _check_patch(
    patch: Patch, images: Tensor, rows: Tensor, labels: Tensor | None, values: ByteMap
) -> None:
    if labels is None or labels.dtype != torch.int64 or labels.shape != rows.shape:
        found = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"labels are {found}: a patch needs int64 ({len(rows)},)")
    shared, own = patch.shared, patch.own
    height, width, channels = images.shape[1:]
    for tensor in (shared, own):
        if tensor.dtype != values.scale.dtype or not tensor.is_contiguous():
            raise ValueError(
                f"a patch is {tensor.dtype}: contiguous {values.scale.dtype} is needed"
            )
    if shared.ndim != 3 or shared.shape[2] != channels or own.shape[1:] != shared.shape:
        raise ValueError(
            f"a patch is of shapes {tuple(shared.shape)} and {tuple(own.shape)}: (P, Q, {channels})"
            f" and (K, P, Q, {channels}) are needed"
        )
    bottom, right = patch.top + shared.shape[0], patch.left + shared.shape[1]
    if patch.top < 0 or patch.left < 0 or bottom > height or right > width:
        raise ValueError(
            f"a patch covers rows {patch.top}..{bottom - 1} and columns {patch.left}..{right - 1}:"
            f" images are {height}x{width}"
        )
    devices = {tensor.device for tensor in (images, labels, shared, own)}
    if len(devices) > 1:
        raise ValueError(
            f"tensors are on {', '.join(sorted(map(str, devices)))}: one device is needed"
        )


def signed(seed: int) -> int:
    """Return the same 64 bits as a signed integer."""
    return seed - 2**64 if seed >= 2**63 else seed


def threshold(probability: float) -> int:
    """Return the bound below which so many of the 32-bit words lie."""
    return round(probability * 2**32)


def _choose(device: str, backend: str | None) -> str:
    if backend is None:
        if device == "cuda" and _has_triton():
            return "triton"
        return "numba" if device == "cpu" else "reference"
    if backend not in BACKENDS or (BACKENDS[backend] and device not in BACKENDS[backend]):
        raise ValueError(f"backend={backend!r} on {device}: allowed are {', '.join(BACKENDS)}")
    return backend


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
