"""Which implementation steps a list of tensors: numba on the CPU, Triton on GPUs, plain PyTorch.

All three give the functions of `reference.py`. numba and Triton are imported when the first
tensor needs them.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .layout import Layout, is_dense, lie_alike
from .memory import STORED
from .plain import is_readable, oddity, shown

DEVICES = {"numba": ("cpu",), "triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any. torch calls ROCm devices cuda too."""


class Backend(NamedTuple):
    """The seven functions of `reference.py`, as one backend has them."""

    name: str
    sphere_step_: Callable[..., Tensor]
    sgd_step_: Callable[..., Tensor]
    group_sums: Callable[..., Tensor]
    scale_: Callable[..., None]
    describe: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    totals: Callable[..., Tensor]
    adam_step_: Callable[..., Tensor]


def check_backend(name: str | None) -> None:
    """Refuse a name that is none."""
    if name is not None and name not in DEVICES:
        raise ValueError(f"backend={name!r}: allowed are {', '.join(DEVICES)}")


def choose_backend(tensors: Sequence[Tensor], name: str | None = None) -> str:
    """The name of the backend for these tensors: the given one, or the fastest that takes them.

    Subclasses whose own memory holds their numbers, and tensors with gaps, take the reference.

    Raises:
        ValueError: a tensor whose numbers are elsewhere, as DTensor's; or the given backend does
            not take tensors of this device or these dtypes.
    """
    device = tensors[0].device.type
    dtypes = {tensor.dtype for tensor in tensors}
    odd = [tensor for tensor in tensors if oddity(tensor)]
    for tensor in odd:
        if not is_readable(tensor):
            raise ValueError(
                f"parameters must be dense tensors with memory of their own; got {shown(tensor)}"
            )
    gaps = not all(is_dense(tensor.shape, tensor.stride()) for tensor in tensors)
    fused = not odd and not gaps and len(dtypes) == 1 and dtypes <= set(STORED)
    if name in (None, "reference"):
        available = {
            "cpu": "numba",
            "cuda": "triton" if importlib.util.find_spec("triton") else "reference",
        }
        return available.get(device, "reference") if fused and name is None else "reference"
    if device not in DEVICES[name] or not fused:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        kinds += "".join(f" ({oddity(tensor)})" for tensor in odd[:1])
        kinds += " with gaps in memory" if gaps else ""
        raise ValueError(
            f"backend={name!r} takes plain tensors of one dtype, {', '.join(map(str, STORED))}, on "
            f"{' or '.join(DEVICES[name])}; got {kinds} on {device}"
        )
    return name


def load_backend(name: str) -> Backend:
    """The backend of a name."""
    if name == "triton":
        from .triton import adam_step, group_sums, scale, sgd_step, sphere_step, totals

        return Backend(
            name,
            sphere_step.sphere_step_,
            sgd_step.sgd_step_,
            group_sums.group_sums,
            scale.scale_,
            reference.describe,
            totals.totals,
            adam_step.adam_step_,
        )
    if name == "numba":
        from .cpu import step as module
    else:
        module = reference
    return Backend(
        name,
        module.sphere_step_,
        module.sgd_step_,
        module.group_sums,
        module.scale_,
        module.describe,
        module.totals,
        module.adam_step_,
    )


def write_outputs(
    backend: Backend,
    thetas: Sequence[Tensor],
    layout: Layout,
    factor: Tensor,  # (num_groups,)
    outputs: Sequence[Tensor],
) -> None:
    """Parameters times a factor into outputs of any dtype and memory format.

    Raises:
        ValueError: outputs of other shapes, on another device, or in another number.
    """
    if len(outputs) != len(thetas):
        raise ValueError(f"got {len(outputs)} outputs for {len(thetas)} parameters")
    for theta, output in zip(thetas, outputs, strict=True):
        if output.shape != theta.shape or output.device != theta.device:
            raise ValueError(
                f"an output of shape {tuple(output.shape)} on {output.device} for a parameter of "
                f"shape {tuple(theta.shape)} on {theta.device}"
            )
        if not is_readable(output) or not output.is_floating_point():
            raise ValueError(f"outputs must be plain floating-point tensors; got {shown(output)}")
    dtypes = {output.dtype for output in outputs}
    direct = len(dtypes) == 1 and dtypes <= set(STORED)
    laid_out = [
        output
        if direct and not oddity(output) and lie_alike(theta.shape, output.stride(), theta.stride())
        else torch.empty_like(theta, dtype=output.dtype if direct else None)
        for theta, output in zip(thetas, outputs, strict=True)
    ]
    backend.scale_(thetas, layout, factor, laid_out)
    for output, source in zip(outputs, laid_out, strict=True):
        if source is not output:
            output.copy_(source)
