"""The loops of `cpu.py`, compiled by numba: bytes of images to batches.

A line is one row of pixels, W * C values. Bytes are multiplied by a line of scales, a line of
shifts is added and the sum is cast, each rounded by itself as in `augment.byte_map`: the loops are
compiled without contraction. `like` and `number` are arrays without elements of the stored type and
of that computed in; addresses are int64.
"""

import ctypes

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from ..numba_runtime.elements import BASE, INT64, array, intrinsic, load, narrow
from ..numba_runtime.team import fields, member, share
from .philox import (
    CROP_X,
    CROP_Y,
    CUTOUT,
    FLIP,
    KEY_INCREMENTS,
    MASK,
    MULTIPLIERS,
    NUM_ROUNDS,
    PATCH,
    PATCH_MASK,
)

# Said aloud, for numba hands a caller's `fastmath` down to functions that say nothing.
EXACT = {**BASE, "fastmath": False}
INLINE = {**EXACT, "forceinline": True}


class Job(ctypes.Structure):
    """What a worker is called with."""

    _fields_ = fields(
        (
            # Addresses: uint8 (N, H, W, C); int64 (B,); (B, H, W, C); (C,) to compute in.
            *("images", "rows", "samples", "out", "scale", "shift"),
            # Address of what every thread has for itself, and its bytes: two lines and an image.
            *("scratch", "scratch_size"),
            *("num_rows", "height", "width", "channels"),
            *("seed_low", "seed_high", "epoch", "flip", "padding", "cutout"),
            # Addresses: int64 (B,); (P, Q, C) and (K, P, Q, C) to compute in.
            *("labels", "patch_shared", "patch_own"),
            # No height, no patch.
            *("patch_height", "patch_width", "patch_top", "patch_left"),
            *("patch_share", "patch_alone", "patch_seed_low", "patch_seed_high", "patch_part"),
            "patch_blank",
        ),
        ("patch_strength",),
    )


JOB = np.empty(0, np.dtype(Job))
UINT8 = np.empty(0, np.uint8)


@numba.njit(**INLINE)
def work(address, like, number):
    """What every thread of a team does: its share of the images."""
    job = array(address, (1,), JOB)[0]
    thread, threads = member(job)
    size = job.width * job.channels
    own = job.scratch + thread * job.scratch_size
    scale = array(own, (size,), number)
    shift = array(own + size * number.itemsize, (size,), number)
    scales = array(job.scale, (job.channels,), number)
    shifts = array(job.shift, (job.channels,), number)
    for i in range(size):
        scale[i], shift[i] = scales[i % job.channels], shifts[i % job.channels]
    own += 2 * size * number.itemsize
    rows = array(job.rows, (job.num_rows,), INT64)
    samples = array(job.samples, (job.num_rows,), INT64)
    labels = array(job.labels, (job.num_rows,), INT64)
    for b in range(*share(job.num_rows, thread, threads)):
        image = job.images + rows[b] * job.height * size
        out = job.out + b * job.height * size * like.itemsize
        _image(job, samples[b], image, out, like, own, scale, shift)
        if job.patch_height:
            _patch(job, samples[b], labels[b], out, like, number)


@numba.njit(**EXACT)
def _words(job, sample, stream):
    """The first two words of a stream of the batch."""
    return _philox(sample, job.epoch, stream, job.seed_low, job.seed_high)


@numba.njit(**EXACT)
def _philox(sample, epoch, stream, seed_low, seed_high):
    """The first two words of Philox4x32-10, as in `augment_words.philox`."""
    mask, half = np.uint64(MASK), np.uint64(32)
    c0, c1 = np.uint64(sample) & mask, np.uint64(sample) >> half
    c2, c3 = np.uint64(epoch), np.uint64(stream)
    k0, k1 = np.uint64(seed_low), np.uint64(seed_high)
    for _ in range(NUM_ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & mask, (p0 >> half) ^ c3 ^ k1, p0 & mask
        k0 = (k0 + np.uint64(KEY_INCREMENTS[0])) & mask
        k1 = (k1 + np.uint64(KEY_INCREMENTS[1])) & mask
    return c0, c1


@numba.njit(**INLINE)
def _integer(word, num_values):
    return np.int64((word * np.uint64(num_values)) >> np.uint64(32))


@numba.njit(**INLINE)
def _image(job, sample, image, out, like, own, scale, shift):
    """One image, from the address where it lies to that in its batch."""
    down, right, mirrored = 0, 0, False
    if job.padding:
        count = 2 * job.padding + 1
        down = _integer(_words(job, sample, CROP_Y)[0], count) - job.padding
        right = _integer(_words(job, sample, CROP_X)[0], count) - job.padding
    if job.flip:
        mirrored = _integer(_words(job, sample, FLIP)[0], 2) == 1
    if down != 0 or right != 0 or mirrored:
        _window(job, own, image, down, right, mirrored)
        image = own
    size = job.width * job.channels
    for y in range(job.height):
        pixels = array(image + y * size, (size,), UINT8)
        result = array(out + y * size * like.itemsize, (size,), like)
        for i in range(size):
            result[i] = _cast(like, pixels[i] * scale[i] + shift[i])
    if job.cutout:
        _cut(job, sample, out, like)


@numba.njit(**EXACT)
def _window(job, out, image, down, right, mirrored):
    """The bytes of an image whose window begins `down` lines and `right` pixels inside it."""
    width, channels, size = job.width, job.channels, job.width * job.channels
    _clear(out, job.height * size)
    # Columns of the image that are seen, and where the first of them comes to lie.
    begin, end = max(0, right), min(width, width + right)
    first = width - (end - right) if mirrored else begin - right
    if begin >= end:
        return
    for y in range(max(0, -down), min(job.height, job.height - down)):
        to, source = out + y * size + first * channels, image + (y + down) * size
        if mirrored:
            _mirror(to, source + begin * channels, end - begin, channels)
        else:
            _copy(to, source + begin * channels, (end - begin) * channels)


@numba.njit(**INLINE)
def _mirror(out, source, count, channels):
    """Pixels in reverse order."""
    last = source + (count - 1) * channels
    if channels == 3 and count > 1:
        # Four bytes at once, which takes a third of the time, where a fourth may be read and will
        # be overwritten.
        _copy(out, last, 3)
        for x in range(1, count - 1):
            _copy_four(out + 3 * x, last - 3 * x)
        _copy(out + 3 * (count - 1), source, 3)
    elif channels == 1:
        # A constant, so that no function is called for a byte.
        for x in range(count):
            _copy(out + x, last - x, 1)
    else:
        for x in range(count):
            _copy(out + x * channels, last - x * channels, channels)


@intrinsic
def _clear(_, address, count):
    """Set bytes to 0."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        cgutils.memset(builder, pointer, arguments[1], 0)

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _copy(_, address, source, count):
    """Copy bytes between places that do not overlap."""

    def codegen(context, builder, signature, arguments):
        to, source = (builder.inttoptr(a, cgutils.voidptr_t) for a in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _copy_four(_, address, source):
    """Copy four bytes, of any alignment."""

    def codegen(context, builder, signature, arguments):
        kind = ir.IntType(32).as_pointer()
        to, source = (builder.inttoptr(a, kind) for a in arguments)
        builder.store(builder.load(source, align=1), to, align=1)

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _half(_, value):
    """The bits of an fp32 number rounded to fp16."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), codegen


@intrinsic
def _whole(_, bits):
    """The fp32 number of the bits of an fp16 one."""

    def codegen(context, builder, signature, arguments):
        half = builder.bitcast(arguments[0], ir.HalfType())
        return builder.fpext(half, ir.FloatType())

    return types.float32(types.int16), codegen


def _cast(like, value):
    """A number as an element of `like`, rounded to the nearest, ties to even."""
    raise NotImplementedError


@overload(_cast)
def _overload_cast(like, value):
    if like.dtype == types.int16:
        return lambda like, value: _half(value)
    return lambda like, value: narrow(like, value)


def _widened(like, stored):
    """An element of `like` in the type to compute in."""
    raise NotImplementedError


@overload(_widened)
def _overload_widened(like, stored):
    if like.dtype == types.int16:
        return lambda like, stored: _whole(stored)
    return lambda like, stored: load(like, stored)


@numba.njit(**EXACT)
def _cut(job, sample, out, like):
    """Set a square of the result to 0, as far as it lies inside."""
    size, channels = job.cutout, job.channels
    row_size, drawn = job.width * channels, _words(job, sample, CUTOUT)
    top = _integer(drawn[0], job.height) - size // 2
    left = _integer(drawn[1], job.width) - size // 2
    first, last = max(0, left) * channels, min(job.width, left + size) * channels
    result = array(out, (job.height * row_size,), like)
    for y in range(max(0, top), min(job.height, top + size)):
        result[y * row_size + first : y * row_size + last] = 0


@numba.njit(**EXACT)
def _patch(job, sample, label, out, like, number):
    """Add the patch to an image that has one, as `augment_reference` says."""
    first, second = _words(job, sample, PATCH)
    seed = job.patch_seed_low, job.patch_seed_high
    chosen = _philox(sample, job.patch_part, PATCH_MASK, *seed)[0] < np.uint64(job.patch_share)
    alone = first < np.uint64(job.patch_alone)
    line = job.width * job.channels
    if job.patch_blank or (chosen and alone):
        array(out, (job.height * line,), like)[:] = 0
    if not chosen:
        return
    factor = narrow(number, 1.0)
    if alone:
        uniform = narrow(number, np.float64(second & np.uint64(0xFFFFFF)) * 2.0**-24)
        factor = narrow(number, job.patch_strength) * uniform
    if second >> np.uint64(31):
        factor = -factor
    size = job.patch_width * job.channels
    count = job.patch_height * size
    shared = array(job.patch_shared, (count,), number)
    own = array(job.patch_own + label * count * number.itemsize, (count,), number)
    for y in range(job.patch_height):
        begin = (job.patch_top + y) * line + job.patch_left * job.channels
        result = array(out + begin * like.itemsize, (size,), like)
        for i in range(size):
            added = shared[y * size + i] + factor * own[y * size + i]
            result[i] = _cast(like, _widened(like, result[i]) + added)
