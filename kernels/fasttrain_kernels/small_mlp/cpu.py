"""The training of small MLPs of `reference.py` on a CPU, compiled by numba.

Threads of torch's own team take equally many models each. The compiled code is kept on disk.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..augment.augment import OWNER
from ..numba_runtime.ahead import Loop
from ..numba_runtime.team import worker
from .cpu_loops import Job, work

VECTOR = 64
"""bytes"""

CHUNK = 2**16
"""Bytes of the inputs of the steps at once: with a model's weights they fit into the caches."""


def run(
    weights: Sequence[Tensor],
    head: Tensor,
    inputs: Tensor,
    targets: Tensor,
    order: Tensor,
    bounds: Tensor,
    lr: Tensor | None,
    radius: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `train.train_mlp_`; what is given has been verified."""
    num_models, width = head.shape
    sizes = _sizes(bounds, weights[0].shape[1], width, len(weights), head.element_size())
    threads = 1 if os.getpid() != OWNER else min(torch.get_num_threads(), num_models)
    loss = torch.zeros(num_models, dtype=torch.float64)
    hits = torch.zeros((num_models, 2), dtype=torch.int64)
    grad_norm = torch.zeros(num_models, dtype=torch.float64)
    # Zeros, since padding is read; aligned to lines of the cache.
    scratch = torch.zeros(threads * sizes["scratch_size"] + VECTOR, dtype=torch.uint8)
    addresses = torch.tensor([weight.data_ptr() for weight in weights])
    job = Job(
        num_models=num_models,
        num_layers=len(weights),
        width=width,
        num_inputs=weights[0].shape[1],
        num_samples=len(inputs),
        num_steps=len(bounds) - 1,
        trains=lr is not None,
        thetas=addresses.data_ptr(),
        head=head.data_ptr(),
        samples=inputs.data_ptr(),
        targets=targets.data_ptr(),
        order=order.data_ptr(),
        bounds=bounds.data_ptr(),
        lr=0 if lr is None else lr.data_ptr(),
        loss=loss.data_ptr(),
        hits=hits.data_ptr(),
        grad_norm=grad_norm.data_ptr(),
        scratch=-(-scratch.data_ptr() // VECTOR) * VECTOR,
        radius=radius,
        eps=eps,
        **sizes,
    )
    worker(_make_worker, head.dtype)(job, threads)
    return loss, hits, grad_norm


def loop(dtype: torch.dtype) -> Loop:
    """What trains small MLPs with weights of a type."""
    return Loop("epochs of small MLPs", _make_worker, (dtype,))


def _sizes(
    bounds: Tensor, num_inputs: int, width: int, num_layers: int, size: int
) -> dict[str, int]:
    """Padded sizes, and the scratch memory of a thread: as `cpu_loops._places` divides it."""
    lanes = VECTOR // size
    batch, outputs, inputs = (
        -(-number // lanes) * lanes for number in (int(bounds.diff().max()), width, num_inputs)
    )
    step = 2 * batch * inputs
    chunk = max(1, CHUNK // (step * size))
    theta = outputs * (inputs + (num_layers - 1) * outputs)
    numbers = chunk * step + theta + outputs * max(inputs, outputs)
    numbers += batch * (2 * num_layers * outputs + num_layers + 3 * outputs + 3)
    sizes = {"batch": batch, "outputs": outputs, "inputs": inputs, "chunk": chunk}
    return sizes | {"scratch_size": numbers * size}


def _make_worker(source: str, like: np.ndarray) -> Callable[[Any], None]:
    def train_models(address):
        _ = source
        work(address, like)

    return train_models
