"""The loops of `cpu.py`, compiled by numba: stripes of memory, sums of chunks.

Every thread of a team runs `work` on the same `Job`: first on its share of the stripes; then,
behind a barrier, when all sums are known, on the same stripes again if they have to be written
(again). A stripe is small enough to stay in the second-level cache meanwhile.

Legend: theta parameters, grad gradients; new parameters are keep * theta - eta * grad. A place is
(row, rows, begin, end, num_rows, run): elements begin to end of some rows of a tensor, see
`groups.py`; of several rows only where they are whole and follow each other in memory.
"""

import ctypes

import numba
import numpy as np

from .cpu_elements import (
    INLINE,
    LEAST,
    MOST,
    OPTIONS,
    call,
    fits,
    load,
    narrow,
    piece,
    table,
    widen,
)

EXACT, DEFERRED, PER_GROUP, PLAIN, SUMS, SCALE = range(6)

NUM_SPANS = 64
"""Shares of the stripes, of about equal work; every thread takes as many."""

BLOCK = 1024
"""Elements whose sums may be fp32: a vector's lanes share them, some dozen terms each."""


class Job(ctypes.Structure):
    """What the loops are called with; all but the numbers at its ends are addresses."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("mode", "num_tensors", "num_stripes", "num_chunks"),
                *("num_long", "num_groups", "num_models"),
                # Functions of OpenMP, 0 where it is missing: index of the thread, size of its team.
                *("thread_num", "num_threads", "barrier"),
                # Tables of the layout, see `cpu.py`.
                *("stripes", "tensors", "spans", "long_groups", "model_of_group"),
                # (num_tensors,) int64, addresses; buffers is 0 without momentum.
                *("thetas", "grads", "buffers"),
                # (num_models,) or (num_groups,) fp64; scale is 0 where it is 1.
                *("eta", "radius", "scale"),
                # (3, num_groups), (4, num_chunks), (threads, num_models) fp64.
                *("sums", "parts", "totals"),
            )
        ),
        *((name, ctypes.c_double) for name in ("momentum", "nesterov", "weight_decay")),
    ]


INT32, INT64, FLOAT64 = (np.empty(0, kind) for kind in (np.int32, np.int64, np.float64))
JOB = np.empty(0, np.dtype(Job))


@numba.njit(**INLINE)
def _sum_block(theta, grad, like):
    """||theta||^2, <theta, g>, ||g||^2 of at most a block, in fp64 if fp32 has not the range."""
    zero = load(like, 0.0)
    theta_theta = theta_grad = grad_grad = zero
    for i in range(len(theta)):
        t = load(like, theta[i])
        g = load(like, grad[i])
        theta_theta += t * t
        theta_grad += t * g
        grad_grad += g * g
    if LEAST < theta_theta < MOST and LEAST < grad_grad < MOST:
        return np.float64(theta_theta), np.float64(theta_grad), np.float64(grad_grad)
    wide_theta = wide_both = wide_grad = 0.0
    for i in range(len(theta)):
        t_wide = widen(theta[i])
        g_wide = widen(grad[i])
        wide_theta += t_wide * t_wide
        wide_both += t_wide * g_wide
        wide_grad += g_wide * g_wide
    return wide_theta, wide_both, wide_grad


@numba.njit(**INLINE)
def _sum_row(a_theta, a_grad, like, like_grad, place):
    """||theta||^2, <theta, g>, ||g||^2 of one row of a place."""
    theta_theta = theta_grad = grad_grad = 0.0
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        for first in range(0, len(theta), BLOCK):
            part = _sum_block(theta[first : first + BLOCK], grad[first : first + BLOCK], like)
            theta_theta += part[0]
            theta_grad += part[1]
            grad_grad += part[2]
        element += len(theta)
    return theta_theta, theta_grad, grad_grad


@numba.njit(**OPTIONS)
def _combine(a_theta, a_grad, like, like_grad, place, keep, eta):
    """theta <- keep * theta - eta * grad on a place."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        if fits(keep) and fits(eta):
            a, b = load(like, keep), load(like, eta)
            for i in range(len(theta)):
                theta[i] = narrow(like, a * load(like, theta[i]) - b * load(like, grad[i]))
        else:
            for i in range(len(theta)):
                theta[i] = narrow(like, keep * widen(theta[i]) - eta * widen(grad[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def _accelerate(a_theta, a_grad, a_buffer, like, like_grad, place, factors):
    """Move a place and its momentum buffer.

    d = g + decay * theta; v <- momentum * v + d; theta <- keep * theta - along * d - beside * v.
    """
    keep, decay, momentum, along, beside = factors
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        grad = piece(a_grad, like_grad, place, element)
        buffer = piece(a_buffer, like, place, element)
        if fits(keep) and fits(decay) and fits(along) and fits(beside):
            k, w, m = load(like, keep), load(like, decay), load(like, momentum)
            a, b = load(like, along), load(like, beside)
            for i in range(len(theta)):
                t = load(like, theta[i])
                d = load(like, grad[i]) + w * t
                v = m * load(like, buffer[i]) + d
                buffer[i] = narrow(like, v)
                theta[i] = narrow(like, k * t - a * d - b * v)
        else:
            for i in range(len(theta)):
                t_wide = widen(theta[i])
                d_wide = widen(grad[i]) + decay * t_wide
                v_wide = momentum * widen(buffer[i]) + d_wide
                buffer[i] = narrow(like, v_wide)
                theta[i] = narrow(like, keep * t_wide - along * d_wide - beside * v_wide)
        element += len(theta)


@numba.njit(**OPTIONS)
def _scale(a_theta, like, place, factor):
    """Multiply a place."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        if fits(factor):
            a = load(like, factor)
            for i in range(len(theta)):
                theta[i] = narrow(like, a * load(like, theta[i]))
        else:
            for i in range(len(theta)):
                theta[i] = narrow(like, factor * widen(theta[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def _write(a_theta, a_output, like, like_output, place, factor):
    """Write a place, multiplied, elsewhere: what may not overlap is vectorised."""
    element, end = place[2], place[3]
    while element < end:
        theta = piece(a_theta, like, place, element)
        output = piece(a_output, like_output, place, element)
        for i in range(len(theta)):
            output[i] = narrow(like_output, factor * widen(theta[i]))
        element += len(theta)


@numba.njit(**OPTIONS)
def _stripe(job, s):
    """Tensor, model, first chunk, its group, and entry in `long_groups` or -1; place."""
    stripe = table(job.stripes, (job.num_stripes, 9), INT32)[s]
    num_rows, run = table(job.tensors, (job.num_tensors, 2), INT64)[stripe[0]]
    row, rows = np.int64(stripe[5]), np.int64(stripe[6])
    place = row, rows, np.int64(stripe[7]), np.int64(stripe[8]), num_rows, run
    return stripe[0], stripe[1], stripe[2], stripe[3], stripe[4], place


@numba.njit(**INLINE)
def _row(place, i):
    """One row of a place."""
    return place[0] + i, 1, place[2], place[3], place[4], place[5]


@numba.njit(**INLINE)
def _rates(job, like, group, model):
    """Scale before the step, and (keep, eta) rounded as they will be applied."""
    scale = table(job.scale, (job.num_models,), FLOAT64)[model] if job.scale != 0 else 1.0
    eta = table(job.eta, (job.num_groups,), FLOAT64)[group if job.mode == PER_GROUP else model]
    keep = scale * (1.0 - eta * job.weight_decay)
    if fits(keep) and fits(eta):
        return scale, np.float64(load(like, keep)), np.float64(load(like, eta))
    return scale, keep, eta


@numba.njit(**OPTIONS)
def _sum_stripe(job, like, like_grad, s):
    """Sums of every chunk of a stripe: three where the gradient was taken, and of the step."""
    tensor, model, chunk, group, long, place = _stripe(job, s)
    a_theta = table(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = table(job.grads, (job.num_tensors,), INT64)[tensor]
    parts = table(job.parts, (4, job.num_chunks), FLOAT64)
    sums = table(job.sums, (3, job.num_groups), FLOAT64)
    scale, keep, eta = _rates(job, like, group, model)
    for i in range(place[1]):
        if job.mode == PER_GROUP:
            scale, keep, eta = _rates(job, like, group + i, model)
        row = _row(place, i)
        theta_theta, theta_grad, grad_grad = _sum_row(a_theta, a_grad, like, like_grad, row)
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
def _accelerate_stripe(job, like, like_grad, s):
    """Move a stripe with momentum; the sum of squares of every chunk afterwards."""
    tensor, model, chunk, group, _, place = _stripe(job, s)
    a_theta = table(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = table(job.grads, (job.num_tensors,), INT64)[tensor]
    a_buffer = table(job.buffers, (job.num_tensors,), INT64)[tensor]
    parts = table(job.parts, (4, job.num_chunks), FLOAT64)
    for i in range(place[1]):
        scale, _, eta = _rates(job, like, group + i, model)
        along, beside = (eta, eta * job.momentum) if job.nesterov != 0.0 else (0.0, eta)
        factors = scale, scale * job.weight_decay, job.momentum, along, beside
        row = _row(place, i)
        _accelerate(a_theta, a_grad, a_buffer, like, like_grad, row, factors)
        parts[3, chunk + i] = _sum_row(a_theta, a_theta, like, like, row)[0]


@numba.njit(**OPTIONS)
def _write_stripe(job, like, like_grad, s, totals, second):
    """Move a stripe, unless momentum has, onto the sphere, if it is known how long all there is.

    Without `totals` it is the first pass.
    """
    tensor, model, chunk, group, long, place = _stripe(job, s)
    a_theta = table(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_grad = table(job.grads, (job.num_tensors,), INT64)[tensor]
    radius = table(job.radius, (job.num_groups,), FLOAT64)
    if job.mode == PER_GROUP:
        if second != (long >= 0):
            return
        for i in range(place[1]):
            if second:
                moved = _long_sum(job, long, 3)
            else:
                moved = table(job.parts, (4, job.num_chunks), FLOAT64)[3, chunk + i]
            factor = radius[group + i] / np.sqrt(moved)
            _, keep, eta = _rates(job, like, group + i, model)
            _move(job, a_theta, a_grad, like, like_grad, _row(place, i), factor, keep, eta)
    elif second == (job.mode == EXACT):
        factor = radius[model] / np.sqrt(totals[model]) if second else 1.0
        _, keep, eta = _rates(job, like, group, model)
        _move(job, a_theta, a_grad, like, like_grad, place, factor, keep, eta)


@numba.njit(**OPTIONS)
def _move(job, a_theta, a_grad, like, like_grad, place, factor, keep, eta):
    """Move a place, unless momentum has, and multiply it."""
    if job.buffers == 0:
        _combine(a_theta, a_grad, like, like_grad, place, factor * keep, factor * eta)
    elif factor != 1.0:
        _scale(a_theta, like, place, factor)


@numba.njit(**OPTIONS)
def _long_sum(job, long, k):
    """Sum number k of a group of several chunks, or none."""
    _, first, end = table(job.long_groups, (job.num_long, 3), INT32)[long]
    total = 0.0
    for c in range(first, end):
        total += table(job.parts, (4, job.num_chunks), FLOAT64)[k, c]
    return total


@numba.njit(**OPTIONS)
def _totals(job, thread):
    """Squared norm of every model after the step."""
    totals = table(job.totals, (thread + 1, job.num_models), FLOAT64)[thread]
    for model in range(job.num_models):
        totals[model] = 0.0
    for s in range(job.num_stripes):
        _, model, chunk, _, _, place = _stripe(job, s)
        total = 0.0
        for c in range(chunk, chunk + place[1]):
            total += table(job.parts, (4, job.num_chunks), FLOAT64)[3, c]
        totals[model] += total
    return totals


@numba.njit(**OPTIONS)
def _finish(job, totals):
    """What one thread does for all: sums of long groups, and the scale of a deferred step."""
    sums = table(job.sums, (3, job.num_groups), FLOAT64)
    for long in range(job.num_long):
        group = table(job.long_groups, (job.num_long, 3), INT32)[long, 0]
        for k in range(3):
            sums[k, group] = _long_sum(job, long, k)
    if job.mode == DEFERRED:
        scale = table(job.scale, (job.num_models,), FLOAT64)
        radius = table(job.radius, (job.num_models,), FLOAT64)
        for model in range(job.num_models):
            scale[model] = radius[model] / np.sqrt(totals[model])


@numba.njit(**OPTIONS)
def _scale_stripe(job, like, like_output, s):
    """Multiply a stripe: `thetas` by `eta`, one per group, into `grads`."""
    tensor, _, _, group, _, place = _stripe(job, s)
    a_theta = table(job.thetas, (job.num_tensors,), INT64)[tensor]
    a_output = table(job.grads, (job.num_tensors,), INT64)[tensor]
    for i in range(place[1]):
        factor = table(job.eta, (job.num_groups,), FLOAT64)[group + i]
        if a_theta == a_output:
            _scale(a_theta, like, _row(place, i), factor)
        else:
            _write(a_theta, a_output, like, like_output, _row(place, i), factor)


@numba.njit(**OPTIONS)
def work(address, like, like_other):
    """What every thread of a team does; `other` are gradients, or outputs."""
    job = table(address, (1,), JOB)[0]
    thread, threads = 0, 1
    if job.num_threads != 0:
        thread, threads = call(job.thread_num), call(job.num_threads)  # type: ignore
    spans = table(job.spans, (NUM_SPANS + 1,), INT32)
    begin, end = spans[thread * NUM_SPANS // threads], spans[(thread + 1) * NUM_SPANS // threads]
    if job.mode == SCALE:
        for s in range(begin, end):
            _scale_stripe(job, like, like_other, s)
        return
    totals = table(job.totals, (job.num_models,), FLOAT64)
    for s in range(begin, end):
        _sum_stripe(job, like, like_other, s)
        if job.buffers != 0:
            _accelerate_stripe(job, like, like_other, s)
        if job.mode < SUMS:
            _write_stripe(job, like, like_other, s, totals, False)
    if threads > 1:
        call(job.barrier)  # type: ignore
    totals = _totals(job, thread)
    if thread == 0:
        _finish(job, totals)
    if job.mode == EXACT or job.mode == PER_GROUP:
        for s in range(begin, end):
            _write_stripe(job, like, like_other, s, totals, True)


@numba.njit(**INLINE)
def _angle(y, x):
    """atan2(y, x) for y >= 0, without branches; Cephes' rational function, to 2 ulp."""
    most, least = max(y, abs(x)), min(y, abs(x))
    # Beyond tan(pi / 8) by the tangent of the difference to pi / 4.
    high = least > 0.41421356237309503 * most
    top = least - most if high else least
    bottom = least + most if high else most
    q = top / (bottom if bottom != 0.0 else 1.0)
    z = q * q
    numerator = -8.750608600031904122785e-1
    for c in (-1.615753718733365076637e1, -7.500855792314704667340e1,
              -1.228866684490136173410e2, -6.485021904942025371773e1):  # fmt: skip
        numerator = numerator * z + c
    denominator = 1.0
    for c in (2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
              4.853903996359136964868e2, 1.945506571482613964425e2):  # fmt: skip
        denominator = denominator * z + c
    angle = q + q * (z * numerator / denominator)
    angle = angle + np.pi / 4 if high else angle
    angle = np.pi / 2 - angle if y > abs(x) else angle
    return np.pi - angle if x < 0.0 else angle


@numba.njit(**OPTIONS)
def describe(address):
    """Norm, gradient norm, effective rate and step angle of every group, both norms of every model.

    They go to `parts`, (4, num_groups), and `totals`; `scale` multiplies the gradients. See
    `reference.describe`.
    """
    job = table(address, (1,), JOB)[0]
    models = table(job.model_of_group, (job.num_groups,), INT32)
    theta_theta, theta_grad, grad_grad = table(job.sums, (3, job.num_groups), FLOAT64)
    out = table(job.parts, (4, job.num_groups), FLOAT64)
    totals = table(job.totals, (2, job.num_models), FLOAT64)
    totals[:] = 0.0
    for group in range(job.num_groups):
        model = models[group]
        factor = table(job.scale, (job.num_models,), FLOAT64)[model] if job.scale else 1.0
        totals[0, model] += theta_theta[group]
        totals[1, model] += factor * factor * grad_grad[group]
        out[2, group] = table(job.eta, (job.num_groups,), FLOAT64)[
            group if job.mode == PER_GROUP else model
        ]
        out[3, group] = factor
    totals[:] = np.sqrt(totals)
    for group in range(job.num_groups):
        norm, both, grad = theta_theta[group], theta_grad[group], grad_grad[group]
        eta, factor = out[2, group], out[3, group]
        # Lagrange's identity: the squared area that theta and the gradient span; NaN stays NaN.
        area = norm * grad - both * both
        area = 0.0 if area < 0.0 else area
        out[0, group] = np.sqrt(norm)
        out[1, group] = factor * np.sqrt(grad)
        out[2, group] = eta / norm
        step = eta * factor
        out[3, group] = _angle(step * np.sqrt(area), norm - step * both)
