"""The fused augmentation of `reference.py` on a CPU, compiled by numba.

Threads of torch's own team take equally many images each. The compiled code is kept on disk.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..numba_runtime.ahead import Loop
from ..numba_runtime.team import worker
from .augment import OWNER, ByteMap, Patch, threshold
from .cpu_loops import Job, work
from .philox import MASK

GRAIN = 2**15
"""Values that are worth a thread: some 5 us."""


def augment(
    images: Tensor,
    rows: Tensor,
    samples: Tensor,
    values: ByteMap,
    out: Tensor,
    *,
    seed: int,
    epoch: int,
    key: Tensor | None = None,
    flip: bool,
    padding: int,
    cutout: int,
    patch: Patch | None = None,
    labels: Tensor | None = None,
) -> None:
    """See `augment.augment`."""
    if key is not None:
        # Memory of the host: no operation of torch, and no device waits.
        seed, epoch = (int(word) for word in key.numpy().view(np.uint64))
    _, height, width, channels = images.shape
    scale, shift, _ = values
    rows, samples = rows.contiguous(), samples.contiguous()
    threads = min(torch.get_num_threads(), 1 + out.numel() // GRAIN)
    if os.getpid() != OWNER:
        # GNU OpenMP hangs a forked child that enters a parallel region.
        threads = 1
    # A line of scales, of shifts, and an image; whole lines of cache for each thread.
    size = -(-width * channels * (2 * scale.element_size() + height) // 64) * 64
    scratch = torch.empty(threads * size, dtype=torch.uint8)
    labels = rows if labels is None else labels.contiguous()
    job = Job(
        images=images.data_ptr(),
        rows=rows.data_ptr(),
        samples=samples.data_ptr(),
        out=out.data_ptr(),
        scale=scale.data_ptr(),
        shift=shift.data_ptr(),
        scratch=scratch.data_ptr(),
        scratch_size=size,
        num_rows=len(rows),
        height=height,
        width=width,
        channels=channels,
        seed_low=seed & MASK,
        seed_high=seed >> 32,
        epoch=epoch,
        flip=flip,
        padding=padding,
        cutout=cutout,
        labels=labels.data_ptr(),
        **_patch_fields(patch),
    )
    worker(_make_worker, out.dtype, scale.dtype)(job, threads)


def loop(dtype: torch.dtype) -> Loop:
    """What makes batches of a type."""
    return Loop("augmentation", _make_worker, (dtype, torch.promote_types(dtype, torch.float32)))


def _patch_fields(patch: Patch | None) -> dict[str, Any]:
    """What a job is told of a patch; nothing where there is none."""
    if patch is None:
        return {}
    return {
        "patch_shared": patch.shared.data_ptr(),
        "patch_own": patch.own.data_ptr(),
        "patch_height": patch.shared.shape[0],
        "patch_width": patch.shared.shape[1],
        "patch_top": patch.top,
        "patch_left": patch.left,
        "patch_share": threshold(patch.share),
        "patch_alone": threshold(patch.alone),
        "patch_strength": patch.strength,
        "patch_seed_low": patch.seed & MASK,
        "patch_seed_high": patch.seed >> 32,
        "patch_part": patch.part,
        "patch_blank": patch.blank,
    }


def _make_worker(source: str, like: np.ndarray, number: np.ndarray) -> Callable[[Any], None]:
    def augment_images(address):
        _ = source
        work(address, like, number)

    return augment_images
