"""Many steps of a pack of small MLPs in one call: forward, backward and the step on the sphere.

`reference.py` states the network and the step. Models share inputs and batches, and have
weights, a head and a learning rate each. numba carries it out on a CPU, Triton on CUDA and ROCm.
A model's bits depend on neither the other models nor the number of threads, nor on how steps are
divided among calls.
"""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..step.memory import check_storage
from ..step.plain import oddity, refuse_tracing, shown
from . import reference as mlp_reference

BACKENDS = {"numba": ("cpu",), "triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any."""

DTYPES = (torch.float32, torch.float64)

MOST = {"layers": 8, "width": 128, "inputs": 1024, "batch": 128}
"""The largest networks and batches."""

MOST_TRITON = {"width": 32, "batch": 32}
"""The largest ones that a GPU's registers hold; larger ones take the reference there."""

RATES, RADII = (1e-20, 1e20), (1e-6, 1e6)
"""Learning rates, other than 0, and radii at which fp32 neither overflows nor loses digits."""

SCORED = 32
"""Samples at once without training."""


class MLPTotals(NamedTuple):
    """Sums over the steps of a call."""

    loss: Tensor
    """(num_models,) fp64, over samples, each at the weights of its step"""
    hits: Tensor
    """(num_models, 2) int64, right answers by class, likewise"""
    grad_norm: Tensor
    """(num_models,) fp64, over steps: ||g|| * ||theta||, the effective gradient norm"""


def train_mlp_(
    weights: Sequence[Tensor],  # (num_models * width, inputs of the layer), models in order
    head: Tensor,  # (num_models, width)
    inputs: Tensor,  # (N, inputs)
    targets: Tensor,  # (N,) int64, 0 or 1
    order: Tensor,  # (M,) int64, rows of the inputs
    bounds: Tensor,  # (steps + 1,) int64 on the host, where in `order` each batch begins, and M
    lr: Tensor,  # (num_models,) fp64, raw rates
    *,
    radius: float = 1.0,
    eps: float = 1e-7,
    backend: str | None = None,
) -> MLPTotals:
    """Take a step for every batch, of weights that lie on the sphere, in place.

    On a GPU the values of `order` and `targets` are not checked: nothing is read from the device.

    Raises:
        ValueError: tensors of another type, shape, device or layout, or too large; rows or targets
            that are none; rates or a radius beyond fp32's range; a backend of another device.
    """
    name = _check(weights, head, inputs, targets, order, bounds, eps, backend)
    if lr.dtype != torch.float64 or lr.shape != head.shape[:1] or not lr.is_contiguous():
        raise ValueError(
            f"rates are {lr.dtype} of shape {tuple(lr.shape)}: contiguous fp64 ({len(head)},) is"
            " needed"
        )
    _check_plain([lr], head.device)
    if not RADII[0] <= radius <= RADII[1]:
        raise ValueError(f"radius = {radius:g}: allowed are {RADII[0]:g} to {RADII[1]:g}")
    if lr.device.type == "cpu" and head.dtype == torch.float32:
        odd = lr[(lr != 0) & ~((lr >= RATES[0]) & (lr <= RATES[1]))]
        if len(odd):
            raise ValueError(
                f"a rate is {float(odd[0]):g}: allowed are 0 and {RATES[0]:g} to {RATES[1]:g}"
            )
    _check_apart(weights, [head, inputs])
    if len(bounds) > 1:
        torch.autograd.graph.increment_version(weights)
    run = _run(name) if len(bounds) > 1 else mlp_reference.run
    sums = run(weights, head, inputs, targets, order, bounds, lr, radius, eps)
    return MLPTotals(*sums)


def score_mlp(
    weights: Sequence[Tensor],
    head: Tensor,
    inputs: Tensor,
    targets: Tensor,
    *,
    eps: float = 1e-7,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the losses over all samples, (num_models,) fp64, and right answers, (num_models,).

    Arguments and errors are those of `train_mlp_`.
    """
    order = torch.arange(len(inputs), device=inputs.device)
    edges = [*range(0, len(inputs), SCORED), len(inputs)]
    bounds = torch.tensor(edges)
    name = _check(weights, head, inputs, targets, order, bounds, eps, backend)
    run = _run(name) if len(bounds) > 1 else mlp_reference.run
    loss, hits, _ = run(weights, head, inputs, targets, order, bounds, None, 1.0, eps)
    return loss, hits.sum(dim=1)


def choose_mlp_backend(device: str, width: int, batch: int, name: str | None = None) -> str:
    """The backend for a type of device and sizes: the given one, or the fastest.

    Raises:
        ValueError: none of that name, or it does not take tensors of that device or sizes.
    """
    small = width <= MOST_TRITON["width"] and batch <= MOST_TRITON["batch"]
    if name is None:
        if device == "cuda" and small and _has_triton():
            return "triton"
        return "numba" if device == "cpu" else "reference"
    if name not in BACKENDS or (BACKENDS[name] and device not in BACKENDS[name]):
        raise ValueError(f"backend={name!r} on {device}: allowed are {', '.join(BACKENDS)}")
    if name == "triton" and not small:
        raise ValueError(
            f"backend='triton' with width = {width}, batch = {batch}: allowed are at most"
            f" {MOST_TRITON['width']} and {MOST_TRITON['batch']}"
        )
    return name


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _run(name: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The `run` of a backend, of the arguments of `train_mlp_`; without rates nothing trains."""
    if name == "numba":
        from . import cpu as module
    elif name == "triton":
        from . import triton as module
    else:
        module = mlp_reference
    return module.run


def _check(
    weights: Sequence[Tensor],
    head: Tensor,
    inputs: Tensor,
    targets: Tensor,
    order: Tensor,
    bounds: Tensor,
    eps: float,
    backend: str | None,
) -> str:
    """Check what compiled code will read and write, and return the backend's name."""
    refuse_tracing()
    if head.ndim != 2 or head.dtype not in DTYPES:
        raise ValueError(f"the head is {head.dtype} {shown(head)}: (num_models, width), fp32 or"
                         " fp64, is needed")  # fmt: skip
    if inputs.ndim != 2:
        raise ValueError(f"inputs are {shown(inputs)}: (N, inputs) is needed")
    num_models, width = head.shape
    for name, number in (("layers", len(weights)), ("width", width), ("inputs", inputs.shape[1])):
        if not 1 <= number <= MOST[name]:
            raise ValueError(f"{name} = {number}: allowed are 1 to {MOST[name]}")
    sizes = [inputs.shape[1], *[width] * (len(weights) - 1)]
    for index, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
        if weight.shape != (num_models * width, size):
            raise ValueError(
                f"weights of layer {index} are {shown(weight)}: ({num_models * width}, {size}) is"
                " needed"
            )
    for tensor in (*weights, inputs):
        if tensor.dtype != head.dtype:
            raise ValueError(f"tensors are {head.dtype} and {tensor.dtype}: one type is needed")
    _check_plain([*weights, head, inputs, targets, order], head.device)
    _check_plain([bounds], torch.device("cpu"))
    batch = _check_batches(inputs, targets, order, bounds)
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps = {eps}: a positive number is needed")
    return choose_mlp_backend(head.device.type, width, batch, backend)


def _check_plain(tensors: Sequence[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        if oddity(tensor) or not tensor.is_contiguous():
            raise ValueError(f"plain contiguous tensors are needed; got {shown(tensor)}")
        if tensor.device != device:
            raise ValueError(f"tensors are on {device} and {tensor.device}: one device is needed")
    check_storage(tensors, [tensor.data_ptr() for tensor in tensors])


def _check_apart(weights: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Refuse weights that share memory with each other, or with what is read."""
    written = [(weight.data_ptr(), weight.nbytes) for weight in weights]
    spans = written + [(other.data_ptr(), other.nbytes) for other in others]
    for index, (first, size) in enumerate(written):
        for start, count in spans[index + 1 :]:
            if first < start + count and start < first + size:
                raise ValueError("weights share memory with each other or with what is read")


def _check_batches(inputs: Tensor, targets: Tensor, order: Tensor, bounds: Tensor) -> int:
    """Check indices, and on a CPU their values; the size of the largest batch."""
    for name, index in (("targets", targets), ("order", order), ("bounds", bounds)):
        if index.dtype != torch.int64 or index.ndim != 1:
            raise ValueError(f"{name} are {index.dtype} {shown(index)}: int64 (N,) is needed")
    if len(targets) != len(inputs):
        raise ValueError(f"there are {len(targets)} targets for {len(inputs)} inputs")
    sizes = bounds.diff()
    if len(bounds) < 1 or bounds[0] < 0 or bounds[-1] > len(order) or (sizes < 1).any():
        raise ValueError(f"bounds {bounds.tolist()[:5]}... are not those of batches of {len(order)}"
                         " rows")  # fmt: skip
    batch = int(sizes.max()) if len(sizes) else 0
    if batch > MOST["batch"]:
        raise ValueError(f"batch = {batch}: allowed are 1 to {MOST['batch']}")
    if order.device.type == "cpu":
        for name, index, end in (("order", order, len(inputs)), ("targets", targets, 2)):
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < end:
                raise ValueError(f"{name} are {int(index.min())} to {int(index.max())}: allowed are"
                                 f" 0 to {end - 1}")  # fmt: skip
    return batch
