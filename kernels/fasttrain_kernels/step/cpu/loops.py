"""The loops of `step.py`, compiled by numba: stripes of memory, sums of chunks.

Every thread of a team runs `work` on the same `Job`: first on its share of the stripes; then,
behind a barrier, when all sums are known, on the same stripes again if they have to be written
(again). A stripe is a place (`rows.py`) small enough to stay in the second-level cache
meanwhile. In plain SGD a tensor without a gradient, at the address 0, is passed over.

Legend: theta parameters, grad gradients; new parameters are keep * theta - eta * grad.
"""

import ctypes

import numba
import numpy as np

from ...numba_runtime.elements import FP64, INLINE, INT32, INT64, OPTIONS, array, fits, load
from ...numba_runtime.team import NUM_SPANS, fields, member, wait
from .moves import sum_and_accelerate, sum_and_combine
from .rows import accelerate, combine, row_of, scale, sum_row, write

EXACT, DEFERRED, PER_GROUP, PLAIN, UNTRACKED, SUMS, SCALE = range(7)


class Job(ctypes.Structure):
    """What the loops are called with; the integers but the first line's are addresses."""

    _fields_ = fields(
        (
            *("mode", "num_tensors", "num_stripes", "num_chunks"),
            *("num_long", "num_groups", "num_models"),
            # Tables of the layout, see `step.py`.
            *("stripes", "tensors", "spans", "long_groups", "model_of_group"),
            # (num_tensors,) int64, addresses; buffers is 0 without momentum, sums if not tracked.
            *("thetas", "grads", "buffers"),
            # (num_models,) or (num_groups,) fp64; scale is 0 where it is 1, decays where all have
            # the weight decay below.
            *("eta", "radius", "scale", "decays"),
            # (3, num_groups), (4, num_chunks), (threads, num_models) fp64; of Adam 6 sums each.
            *("sums", "parts", "totals"),
            # (num_tensors, 2) fp64: see `adam.py`, as of beta1, beta2 and eps.
            "corrections",
        ),
        ("momentum", "nesterov", "weight_decay", "beta1", "beta2", "eps"),
    )


JOB = np.empty(0, np.dtype(Job))


@numba.njit(**OPTIONS)
def place_of(job, s):
    """Tensor, model, first chunk, its group, and entry in `long_groups` or -1; place."""
    stripe = array(job.stripes, (job.num_stripes, 9), INT32)[s]
    num_rows, run = array(job.tensors, (job.num_tensors, 2), INT64)[stripe[0]]
    row, rows = np.int64(stripe[5]), np.int64(stripe[6])
    place = row, rows, np.int64(stripe[7]), np.int64(stripe[8]), num_rows, run
    return stripe[0], stripe[1], stripe[2], stripe[3], stripe[4], place


@numba.njit(**INLINE)
def _decay(job, model):
    """Weight decay of a model."""
    if job.decays != 0:
        return array(job.decays, (job.num_models,), FP64)[model]
    return job.weight_decay


@numba.njit(**INLINE)
def _rates(job, like, group, model):
    """Scale before the step, and (keep, eta) rounded as they will be applied."""
    scale = array(job.scale, (job.num_models,), FP64)[model] if job.scale != 0 else 1.0
    eta = array(job.eta, (job.num_groups,), FP64)[group if job.mode == PER_GROUP else model]
    keep = scale * (1.0 - eta * _decay(job, model))
    if fits(keep) and fits(eta):
        return scale, np.float64(load(like, keep)), np.float64(load(like, eta))
    return scale, keep, eta


@numba.njit(**INLINE)
def _acceleration(job, scale, eta, model):
    """Factors of `accelerate`."""
    along, beside = (eta, eta * job.momentum) if job.nesterov != 0.0 else (0.0, eta)
    return scale, scale * _decay(job, model), job.momentum, along, beside


@numba.njit(**OPTIONS)
def _step_stripe(job, like, like_grad, s):
    """The first pass over a stripe: sums, and the move, unless that has to wait for all sums."""
    tensor, model, _, group, _, place = place_of(job, s)
    a_theta = array(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = array(job.grads, (job.num_tensors,), INT64)[tensor]
    if a_grad == 0:
        if job.mode != UNTRACKED:
            _clear_sums(job, s)
    elif job.mode != UNTRACKED:
        _sum_stripe(job, like, like_grad, s, a_theta, a_grad)
    else:
        _move_stripe(job, like, like_grad, a_theta, a_grad, tensor, model, group, place)


@numba.njit(**OPTIONS)
def _clear_sums(job, s):
    """Sums of a stripe that is passed over."""
    _, _, chunk, group, long, place = place_of(job, s)
    for k in range(4):
        array(job.parts, (4, job.num_chunks), FP64)[k, chunk : chunk + place[1]] = 0.0
    for k in range(0 if long >= 0 else 3):
        array(job.sums, (3, job.num_groups), FP64)[k, group : group + place[1]] = 0.0


@numba.njit(**OPTIONS)
def _move_stripe(job, like, like_grad, a_theta, a_grad, tensor, model, group, place):
    """Move a stripe whose rows have one rate."""
    scale, keep, eta = _rates(job, like, group, model)
    if job.buffers == 0:
        combine(a_theta, a_grad, like, like_grad, place, keep, eta)
    else:
        a_buffer = array(job.buffers, (job.num_tensors,), INT64)[tensor]
        factors = _acceleration(job, scale, eta, model)
        accelerate(a_theta, a_grad, a_buffer, like, like_grad, place, factors)


@numba.njit(**OPTIONS)
def _sum_stripe(job, like, like_grad, s, a_theta, a_grad):
    """Sums of every chunk of a stripe: three where the gradient was taken, and of the step.

    What need not wait for all sums is moved meanwhile.
    """
    tensor, model, chunk, group, long, place = place_of(job, s)
    a_buffer = array(job.buffers, (job.num_tensors,), INT64)[tensor] if job.buffers != 0 else 0
    parts = array(job.parts, (4, job.num_chunks), FP64)
    sums = array(job.sums, (3, job.num_groups), FP64)
    moves = job.mode == PLAIN or job.mode == DEFERRED
    again = job.buffers != 0 and job.mode < PLAIN
    scale, keep, eta = _rates(job, like, group, model)
    for i in range(place[1]):
        if job.mode == PER_GROUP:
            scale, keep, eta = _rates(job, like, group + i, model)
        row = row_of(place, i)
        moved = 0.0
        if a_buffer != 0:
            factors = _acceleration(job, scale, eta, model)
            theta_theta, theta_grad, grad_grad, moved = sum_and_accelerate(
                a_theta, a_grad, a_buffer, like, like_grad, row, factors, again
            )
        elif moves:
            theta_theta, theta_grad, grad_grad = sum_and_combine(
                a_theta, a_grad, like, like_grad, row, keep, eta
            )
        else:
            theta_theta, theta_grad, grad_grad = sum_row(a_theta, a_grad, like, like_grad, row)
        if a_buffer == 0:
            moved = keep * keep * theta_theta - 2 * keep * eta * theta_grad + eta * eta * grad_grad
        theta_theta *= scale * scale
        theta_grad *= scale
        c = chunk + i
        parts[0, c], parts[1, c], parts[2, c], parts[3, c] = (
            theta_theta, theta_grad, grad_grad, moved,
        )  # fmt: skip
        if long < 0:
            sums[0, group + i], sums[1, group + i], sums[2, group + i] = (
                theta_theta, theta_grad, grad_grad,
            )  # fmt: skip


@numba.njit(**OPTIONS)
def _project_stripe(job, like, like_grad, s, totals, second):
    """Write a stripe onto its sphere, once it is known how long all there is.

    A sphere of one chunk is known in the first pass, without `totals`.
    """
    tensor, model, chunk, group, long, place = place_of(job, s)
    a_theta = array(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = array(job.grads, (job.num_tensors,), INT64)[tensor]
    radius = array(job.radius, (job.num_groups,), FP64)
    if job.mode == EXACT:
        factor = radius[model] / np.sqrt(totals[model])
        _, keep, eta = _rates(job, like, group, model)
        _move(job, a_theta, a_grad, like, like_grad, place, factor, keep, eta)
    elif second == (long >= 0):
        for i in range(place[1]):
            if second:
                moved = _long_sum(job, long, 3)
            else:
                moved = array(job.parts, (4, job.num_chunks), FP64)[3, chunk + i]
            factor = radius[group + i] / np.sqrt(moved)
            _, keep, eta = _rates(job, like, group + i, model)
            _move(job, a_theta, a_grad, like, like_grad, row_of(place, i), factor, keep, eta)


@numba.njit(**OPTIONS)
def _move(job, a_theta, a_grad, like, like_grad, place, factor, keep, eta):
    """Move a place, unless momentum has, and multiply it."""
    if job.buffers == 0:
        combine(a_theta, a_grad, like, like_grad, place, factor * keep, factor * eta)
    elif factor != 1.0:
        scale(a_theta, like, place, factor)


@numba.njit(**OPTIONS)
def _long_sum(job, long, k):
    """Sum number k of a group of several chunks, or none."""
    _, first, end = array(job.long_groups, (job.num_long, 3), INT32)[long]
    total = 0.0
    for c in range(first, end):
        total += array(job.parts, (4, job.num_chunks), FP64)[k, c]
    return total


@numba.njit(**OPTIONS)
def _totals(job, thread):
    """Squared norm of every model after the step."""
    totals = array(job.totals, (thread + 1, job.num_models), FP64)[thread]
    for model in range(job.num_models):
        totals[model] = 0.0
    for s in range(job.num_stripes):
        _, model, chunk, _, _, place = place_of(job, s)
        total = 0.0
        for c in range(chunk, chunk + place[1]):
            total += array(job.parts, (4, job.num_chunks), FP64)[3, c]
        totals[model] += total
    return totals


@numba.njit(**OPTIONS)
def _finish(job, totals):
    """What one thread does for all: sums of long groups, and the scale of a deferred step."""
    sums = array(job.sums, (3, job.num_groups), FP64)
    for long in range(job.num_long):
        group = array(job.long_groups, (job.num_long, 3), INT32)[long, 0]
        for k in range(3):
            sums[k, group] = _long_sum(job, long, k)
    if job.mode == DEFERRED:
        scale = array(job.scale, (job.num_models,), FP64)
        radius = array(job.radius, (job.num_models,), FP64)
        for model in range(job.num_models):
            scale[model] = radius[model] / np.sqrt(totals[model])


@numba.njit(**OPTIONS)
def _scale_stripe(job, like, like_output, s):
    """Multiply a stripe: `thetas` by `eta`, one per group, into `grads`."""
    tensor, _, _, group, _, place = place_of(job, s)
    a_theta = array(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_output = array(job.grads, (job.num_tensors,), INT64)[tensor]
    for i in range(place[1]):
        factor = array(job.eta, (job.num_groups,), FP64)[group + i]
        if a_theta == a_output:
            scale(a_theta, like, row_of(place, i), factor)
        else:
            write(a_theta, a_output, like, like_output, row_of(place, i), factor)


@numba.njit(**OPTIONS)
def work(address, like, like_other):
    """What every thread of a team does; `other` are gradients, or outputs."""
    job = array(address, (1,), JOB)[0]
    thread, threads = member(job)
    spans = array(job.spans, (NUM_SPANS + 1,), INT32)
    begin, end = spans[thread * NUM_SPANS // threads], spans[(thread + 1) * NUM_SPANS // threads]
    if job.mode == SCALE:
        for s in range(begin, end):
            _scale_stripe(job, like, like_other, s)
        return
    totals = array(job.totals, (job.num_models,), FP64)
    for s in range(begin, end):
        _step_stripe(job, like, like_other, s)
        if job.mode == PER_GROUP:
            _project_stripe(job, like, like_other, s, totals, False)
    if job.mode == UNTRACKED:
        return
    wait(job)
    if job.mode == EXACT or job.mode == DEFERRED:
        totals = _totals(job, thread)
    if thread == 0:
        _finish(job, totals)
    if job.mode == EXACT or job.mode == PER_GROUP:
        for s in range(begin, end):
            _project_stripe(job, like, like_other, s, totals, True)
