"""The cross-entropy of every model of a pack, with its gradient, its hits and sums of an epoch.

    loss_k = mean over b of -log softmax(f_kb)_y        gradient = (softmax(f_kb) - e_y) / B

The gradient of the sum of all losses comes with them, so that `logits.backward(found.gradient)` is
the backward pass, without a launch for the loss. `reference.py` states it in plain torch; Triton
carries it out in one launch on CUDA and ROCm, where torch takes more than a dozen.

Legend: f logits, y label, e_y its unit vector, B images of a batch, K models, C classes.
"""

import functools
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from ..step.plain import oddity, shown

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What logits may be stored in; arithmetic is fp32, fp64 for fp64."""

BACKENDS = {"triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any."""

MOST_CLASSES = 4096
"""Of the Triton kernel, which holds a row of logits at once."""


class LossSums(NamedTuple):
    """What an epoch adds up on the device, in place; contiguous."""

    loss: Tensor  # (K,) fp64, sums over images
    hits: Tensor  # (K, C) int64, by class
    images: Tensor  # (C,) int64, by class; (K, C) where every model has labels of its own


class PackLoss(NamedTuple):
    """Of a batch; losses are fp32, or fp64 for fp64."""

    losses: Tensor  # (K,), means over images
    hits: Tensor  # (K,) int64
    gradient: Tensor  # (K, B, C), like the logits: of the sum of the losses


def cross_entropy(
    logits: Tensor,  # (K, B, C)
    labels: Tensor,  # (B,) int64, or (K, B)
    sums: LossSums | None = None,
    *,
    backend: str | None = None,
) -> PackLoss:
    """The losses of a batch, hits and the gradient; with `sums` the batch is added to them.

    A prediction is the first of the greatest logits, or the first NaN, as argmax has it. Logits of
    a model that are no numbers make its loss NaN, as in torch, and reach no other model. Labels
    must lie in 0..C-1, as a device value is never read on the host here: Triton makes loss and
    gradient of an image with another label NaN, and no label is left out of the mean.

    Raises:
        ValueError: tensors of another type, shape, device or layout; a backend of another device;
            labels outside 0..C-1, where the reference finds them on a CPU.
    """
    _check(logits, labels)
    if sums is not None:
        _check_sums(logits, labels, sums)
    name = choose_loss_backend(logits.device.type, logits.shape[2], backend)
    if name == "triton":
        from . import triton as module
    else:
        from . import reference as module
    return module.cross_entropy(logits.detach(), labels, sums)


def choose_loss_backend(device: str, num_classes: int, name: str | None = None) -> str:
    """The backend for a type of device and a number of classes: the given one, or the fastest.

    Raises:
        ValueError: none of that name, or it does not take that device or so many classes.
    """
    fits = num_classes <= MOST_CLASSES
    if name is None:
        return "triton" if device == "cuda" and fits and _has_triton() else "reference"
    if name not in BACKENDS or (BACKENDS[name] and device not in BACKENDS[name]):
        raise ValueError(f"backend={name!r} on {device}: allowed are {', '.join(BACKENDS)}")
    if name == "triton" and not fits:
        raise ValueError(
            f"backend='triton' with {num_classes} classes: allowed are at most {MOST_CLASSES}"
        )
    return name


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 3 or logits.dtype not in DTYPES or not logits.numel():
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}: (models, images, classes),"
            f" none of them 0, of {', '.join(map(str, DTYPES))} is needed"
        )
    num_models, batch, _ = logits.shape
    if labels.dtype != torch.int64 or labels.shape not in ((batch,), (num_models, batch)):
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: int64 ({batch},) or"
            f" ({num_models}, {batch}) is needed"
        )
    _check_plain(logits, labels)


def _check_sums(logits: Tensor, labels: Tensor, sums: LossSums) -> None:
    num_models, _, num_classes = logits.shape
    each = (num_models, num_classes)
    wanted = {
        "loss": (torch.float64, each[:1]),
        "hits": (torch.int64, each),
        "images": (torch.int64, each[1:] if labels.ndim == 1 else each),
    }
    for (name, (dtype, shape)), tensor in zip(wanted.items(), sums, strict=True):
        if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(
                f"sums of {name} are {tensor.dtype} of shape {tuple(tensor.shape)}: contiguous"
                f" {dtype} {shape} is needed"
            )
    _check_plain(logits, *sums)


def _check_plain(*tensors: Tensor) -> None:
    odd = next((tensor for tensor in tensors if oddity(tensor)), None)
    if odd is not None:
        raise ValueError(f"plain tensors are needed; got {shown(odd)}")
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(
            f"tensors are on {', '.join(sorted(map(str, devices)))}: one device is needed"
        )
