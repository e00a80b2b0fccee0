"""The fused augmentation of `augment_reference.py` on a CPU, compiled by numba.

Threads take equally many images each. Values are copied from the table as bits, so that one
compiled loop serves all types of a width. The compiled code is kept on disk between processes.
"""

import os
import threading
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from .augment_words import (
    CROP_X,
    CROP_Y,
    CUTOUT,
    FLIP,
    KEY_INCREMENTS,
    MASK,
    MULTIPLIERS,
    NUM_ROUNDS,
)

GRAIN = 2**17
"""Values that are worth a thread: waking one takes some 50 us, as long as these."""

PARTS_PER_THREAD = 4
"""So that a thread that starts late leaves work to the others."""

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

# Only `prange` runs in threads: numba would spread every little array operation too.
ONLY_PRANGE = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
PARALLEL: dict[str, Any] = {**OPTIONS, "parallel": {**ONLY_PRANGE, "prange": True}}

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

# numba's fallback thread pool takes one caller at a time.
_lock = threading.Lock()

# GNU OpenMP kills a forked child that enters a parallel region: such a process uses one thread.
_OWNER = os.getpid()


def augment(
    images: Tensor,
    rows: Tensor,
    samples: Tensor,
    table: Tensor,
    out: Tensor,
    *,
    seed: int,
    epoch: int,
    flip: bool,
    padding: int,
    cutout: int,
) -> None:
    """See `augment.augment`."""
    bits = _BITS[table.element_size()]
    width, channels = images.shape[2:]
    arguments = (
        images.numpy().reshape(len(images), -1),
        rows.contiguous().numpy(),
        samples.contiguous().numpy(),
        table.contiguous().view(bits).numpy().ravel(),
        out.view(bits).numpy().reshape(len(out), -1),
        width,
        channels,
        np.array([seed & MASK, seed >> 32, epoch], np.uint64),
        flip,
        padding,
        cutout,
    )
    most = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    num_threads = min(most, max(1, out.numel() // GRAIN))
    if num_threads == 1 or os.getpid() != _OWNER:
        _some_images(*arguments, 0, len(out))
        return
    with _lock:
        numba.set_num_threads(num_threads)
        _all_images(*arguments, num_threads * PARTS_PER_THREAD)


@numba.njit(**OPTIONS)
def _words(sample, stream, key):
    """The first two words of Philox4x32-10, as in `augment_words.philox`."""
    mask, half = np.uint64(MASK), np.uint64(32)
    c0, c1 = np.uint64(sample) & mask, np.uint64(sample) >> half
    c2, c3 = key[2], np.uint64(stream)
    k0, k1 = key[0], key[1]
    for _ in range(NUM_ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & mask, (p0 >> half) ^ c3 ^ k1, p0 & mask
        k0 = (k0 + np.uint64(KEY_INCREMENTS[0])) & mask
        k1 = (k1 + np.uint64(KEY_INCREMENTS[1])) & mask
    return c0, c1


@numba.njit(**OPTIONS)
def _integer(word, num_values):
    return np.int64((word * np.uint64(num_values)) >> np.uint64(32))


@numba.njit(**OPTIONS)
def _forward(out, source, table, channels):
    """Look up whole pixels: (pixels * C,) bytes to values."""
    # One flat table, and the common case written out: either way else takes twice the time.
    if channels == 3:
        for x in range(len(out) // 3):
            out[3 * x] = table[source[3 * x]]
            out[3 * x + 1] = table[256 + source[3 * x + 1]]
            out[3 * x + 2] = table[512 + source[3 * x + 2]]
    else:
        for x in range(len(out) // channels):
            for c in range(channels):
                out[channels * x + c] = table[256 * c + source[channels * x + c]]


@numba.njit(**OPTIONS)
def _backward(out, source, table, channels):
    """The same with the pixels in reverse order."""
    last = len(out) // channels - 1
    if channels == 3:
        for x in range(last + 1):
            pixel = 3 * (last - x)
            out[3 * x] = table[source[pixel]]
            out[3 * x + 1] = table[256 + source[pixel + 1]]
            out[3 * x + 2] = table[512 + source[pixel + 2]]
    else:
        for x in range(last + 1):
            for c in range(channels):
                out[channels * x + c] = table[256 * c + source[channels * (last - x) + c]]


@numba.njit(**OPTIONS)
def _black(out, table, channels):
    """Pixels from outside the image."""
    for x in range(len(out) // channels):
        for c in range(channels):
            out[channels * x + c] = table[256 * c]


@numba.njit(**OPTIONS)
def _image(out, image, table, width, channels, down, right, mirrored):
    """One image whose window begins `down` rows and `right` pixels inside it: (H * W * C,) each."""
    if down == 0 and right == 0 and not mirrored:
        _forward(out, image, table, channels)
        return
    size = width * channels
    height = len(image) // size
    # Columns of the image that are seen, and where the first of them comes to lie.
    begin, end = max(0, right), min(width, width + right)
    first = (width - (end - right) if mirrored else begin - right) * channels
    last = first + (end - begin) * channels
    for y in range(height):
        row = out[y * size : (y + 1) * size]
        if 0 <= y + down < height:
            start = (y + down) * size
            source = image[start + begin * channels : start + end * channels]
            _black(row[:first], table, channels)
            if mirrored:
                _backward(row[first:last], source, table, channels)
            else:
                _forward(row[first:last], source, table, channels)
            _black(row[last:], table, channels)
        else:
            _black(row, table, channels)


@numba.njit(**OPTIONS)
def _cut(out, width, channels, top, left, size):
    """Set a square of the result to 0, as far as it lies inside."""
    height = len(out) // (width * channels)
    first, last = max(0, left) * channels, min(width, left + size) * channels
    for y in range(max(0, top), min(height, top + size)):
        for element in range(first, last):
            out[y * width * channels + element] = 0


@numba.njit(**OPTIONS)
def _some_images(
    images, rows, samples, table, out, width, channels, key, flip, padding, cutout, first, last
):  # fmt: skip
    height = images.shape[1] // (width * channels)
    for b in range(first, last):
        down, right, mirrored = 0, 0, False
        if padding:
            count = 2 * padding + 1
            down = _integer(_words(samples[b], CROP_Y, key)[0], count) - padding
            right = _integer(_words(samples[b], CROP_X, key)[0], count) - padding
        if flip:
            mirrored = _integer(_words(samples[b], FLIP, key)[0], 2) == 1
        _image(out[b], images[rows[b]], table, width, channels, down, right, mirrored)
        if cutout:
            drawn = _words(samples[b], CUTOUT, key)
            top = _integer(drawn[0], height) - cutout // 2
            left = _integer(drawn[1], width) - cutout // 2
            _cut(out[b], width, channels, top, left, cutout)


@numba.njit(**PARALLEL)
def _all_images(
    images, rows, samples, table, out, width, channels, key, flip, padding, cutout, num_parts
):  # fmt: skip
    size = len(rows)
    for part in numba.prange(num_parts):
        _some_images(
            images, rows, samples, table, out, width, channels, key, flip, padding, cutout,
            part * size // num_parts, (part + 1) * size // num_parts,
        )  # fmt: skip
