"""Which implementation steps a list of tensors: numba on the CPU, Triton on GPUs, plain PyTorch.

All three give the five functions of `reference.py`. numba and Triton are imported when the first
tensor needs them.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference

DEVICES = {"numba": ("cpu",), "triton": ("cuda",), "reference": ()}
"""Device types of each backend; the reference takes any. torch calls ROCm devices cuda too."""

STORED = (torch.float32, torch.float64, torch.bfloat16)
"""What the fused backends can read and write."""


class Backend(NamedTuple):
    """The five functions of `reference.py`, as one backend has them."""

    name: str
    sphere_step_: Callable[..., Tensor]
    sgd_step_: Callable[..., Tensor]
    group_sums: Callable[..., Tensor]
    scale_: Callable[..., None]
    describe: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


def check_backend(name: str | None) -> None:
    """Refuse a name that is none."""
    if name is not None and name not in DEVICES:
        raise ValueError(f"backend={name!r}: allowed are {', '.join(DEVICES)}")


def choose_backend(tensors: Sequence[Tensor], name: str | None = None) -> str:
    """The name of the backend for these tensors: the given one, or the fastest that takes them.

    Raises:
        ValueError: the given backend does not take tensors of this device or these dtypes.
    """
    device = tensors[0].device.type
    dtypes = {tensor.dtype for tensor in tensors}
    fused = len(dtypes) == 1 and dtypes <= set(STORED)
    if name in (None, "reference"):
        available = {
            "cpu": "numba",
            "cuda": "triton" if importlib.util.find_spec("triton") else "reference",
        }
        return available.get(device, "reference") if fused and name is None else "reference"
    if device not in DEVICES[name] or not fused:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"backend={name!r} takes tensors of one dtype, {', '.join(map(str, STORED))}, on "
            f"{' or '.join(DEVICES[name])}; got {kinds} on {device}"
        )
    return name


def load_backend(name: str) -> Backend:
    """The backend of a name."""
    if name == "triton":
        from . import group_sums, scale, sgd_step, sphere_step

        return Backend(
            name,
            sphere_step.sphere_step_,
            sgd_step.sgd_step_,
            group_sums.group_sums,
            scale.scale_,
            reference.describe,
        )
    if name == "numba":
        from . import cpu as module
    else:
        module = reference
    return Backend(
        name,
        module.sphere_step_,
        module.sgd_step_,
        module.group_sums,
        module.scale_,
        module.describe,
    )
