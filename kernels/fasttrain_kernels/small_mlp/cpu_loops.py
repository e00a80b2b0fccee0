"""The loops of `cpu.py`, compiled by numba: steps of small MLPs, model after model.

A thread takes its share of the models. It gathers the batches of a few steps, which all models see,
takes these steps with one model, whose weights stay in the first-level cache meanwhile, and goes on
to the next. So no model knows of another, and bits depend on neither threads nor the pack.

In scratch memory activations are (features, samples): a vector holds one feature of 16 samples
(fp64: 8), so that layer norm, ReLU and loss are sums and products of whole vectors. The product
that makes a weight's gradient runs along the inputs, over activations transposed. Widths are padded
with zeros to whole vectors, samples with whatever was there before: no sum reads those.

Legend: x normalised, a = relu(x), d gradient of x, g gradient of a product, theta weights.
"""

import ctypes
import math

import numba
import numpy as np

from ..numba_runtime.elements import FP64, INLINE, INT64, OPTIONS, array
from ..numba_runtime.team import fields, member, share
from ..numba_runtime.vector_math import where_greater
from ..numba_runtime.vectors import load, splat, store
from .cpu_layers import move, normalise, project, spread, unnormalise
from .cpu_products import back, forward, gradient, turn
from .cpu_vectors import broadcast, exp_negative, log1p_unit


class Job(ctypes.Structure):
    """What the loops are called with."""

    _fields_ = fields(
        (
            *("num_models", "num_layers", "width", "num_inputs", "num_samples"),
            *("num_steps", "trains"),
            # As many as fit into whole vectors: samples of a batch, outputs, inputs.
            *("batch", "outputs", "inputs"),
            # Steps at once.
            "chunk",
            # Addresses: (num_layers,) addresses of weights; (num_models, width); (N, num_inputs),
            # (N,) int64; rows, (num_steps + 1,) first row of each step, int64; (num_models,) fp64.
            *("thetas", "head", "samples", "targets", "order", "bounds", "lr"),
            # (num_models,) fp64, (num_models, 2) int64, (num_models,) fp64.
            *("loss", "hits", "grad_norm"),
            # What every thread has for itself, and its bytes.
            *("scratch", "scratch_size"),
        ),
        ("radius", "eps"),
    )


JOB = np.empty(0, np.dtype(Job))


@numba.njit(**OPTIONS)
def work(address, like):
    """What every thread of a team does: all steps of its share of the models."""
    job = array(address, (1,), JOB)[0]
    thread, threads = member(job)
    first, end = share(job.num_models, thread, threads)
    own = job.scratch + thread * job.scratch_size
    for start in range(0, job.num_steps if first < end else 0, job.chunk):
        count = min(job.chunk, job.num_steps - start)
        for s in range(count):
            _gather(job, like, own, start + s, s)
        for model in range(first, end):
            _load_model(job, like, own, model)
            for s in range(count):
                _step(job, like, own, model, start + s, s)
            if job.trains != 0:
                _store_model(job, like, own, model)


@numba.njit(**INLINE)
def _places(job, like):
    """Offsets in scratch memory, and its size.

    Of the batches' inputs as (inputs, samples) and (samples, inputs) for every step at once; of
    theta; the gradient of one layer's; x and a of every layer; 1 / std; a transposed, d, g; losses.
    """
    size = like.itemsize
    narrow, wide = job.batch * job.inputs * size, job.batch * job.outputs * size
    widest = max(job.inputs, job.outputs)
    columns = 0
    rows = columns + job.chunk * narrow
    theta = rows + job.chunk * narrow
    grad = theta + job.outputs * (job.inputs + (job.num_layers - 1) * job.outputs) * size
    x = grad + job.outputs * widest * size
    a = x + job.num_layers * wide
    scale = a + job.num_layers * wide
    turned = scale + job.num_layers * job.batch * size
    d = turned + wide
    g = d + wide
    losses = g + wide
    return columns, rows, theta, grad, x, a, scale, turned, d, g, losses


@numba.njit(**INLINE)
def _layer(job, like, layer):
    """Offset of a layer's theta; inputs, and as many as fit into whole vectors."""
    if layer == 0:
        return 0, job.num_inputs, job.inputs
    before = job.inputs + (layer - 1) * job.outputs
    return job.outputs * before * like.itemsize, job.width, job.outputs


@numba.njit(**OPTIONS)
def _gather(job, like, own, step, s):
    """The inputs of a batch, and their transpose."""
    columns, rows, _, _, _, _, _, _, _, _, _ = _places(job, like)
    bounds = array(job.bounds, (job.num_steps + 1,), INT64)
    count = bounds[step + 1] - bounds[step]
    order = array(job.order + bounds[step] * 8, (count,), INT64)
    line = job.num_inputs
    offset = s * job.batch * job.inputs * like.itemsize
    for b in range(count):
        source = array(job.samples + order[b] * line * like.itemsize, (line,), like)
        target = own + rows + offset + b * job.inputs * like.itemsize
        row = array(target, (line,), like)
        for i in range(line):
            row[i] = source[i]
    turn(like, own + rows + offset, job.inputs, own + columns + offset, job.batch, count)


@numba.njit(**OPTIONS)
def _load_model(job, like, own, model):
    """Copy weights into scratch memory, zeros around them."""
    _, _, theta, _, _, _, _, _, _, _, _ = _places(job, like)
    thetas = array(job.thetas, (job.num_layers,), INT64)
    for layer in range(job.num_layers):
        offset, count, line = _layer(job, like, layer)
        source = array(
            thetas[layer] + model * job.width * count * like.itemsize, (job.width, count), like
        )
        target = array(own + theta + offset, (job.outputs, line), like)
        for o in range(job.outputs):
            for i in range(line):
                target[o, i] = source[o, i] if o < job.width and i < count else like.dtype.type(0)


@numba.njit(**OPTIONS)
def _store_model(job, like, own, model):
    """Copy them back."""
    _, _, theta, _, _, _, _, _, _, _, _ = _places(job, like)
    thetas = array(job.thetas, (job.num_layers,), INT64)
    for layer in range(job.num_layers):
        offset, count, line = _layer(job, like, layer)
        target = array(
            thetas[layer] + model * job.width * count * like.itemsize, (job.width, count), like
        )
        source = array(own + theta + offset, (job.outputs, line), like)
        for o in range(job.width):
            for i in range(count):
                target[o, i] = source[o, i]


@numba.njit(**OPTIONS)
def _step(job, like, own, model, step, s):
    """Loss and hits of one batch, and the step of the weights if they train."""
    columns, rows, theta, _, x, a, scale, _, d, _, losses = _places(job, like)
    bounds = array(job.bounds, (job.num_steps + 1,), INT64)
    count = bounds[step + 1] - bounds[step]
    offset = s * job.batch * job.inputs * like.itemsize
    wide = job.batch * job.outputs * like.itemsize
    line = job.batch * like.itemsize
    source = own + columns + offset
    for layer in range(job.num_layers):
        at, num_inputs, stride = _layer(job, like, layer)
        y, active = own + x + layer * wide, own + a + layer * wide
        forward(like, own + theta + at, stride, num_inputs, job.outputs, source, y, line, count)
        for c in range(0, count * like.itemsize, 64):
            deviation = own + scale + layer * line + c
            normalise(like, job.width, line, job.eps, y + c, active + c, deviation)
        source = active
    head = job.head + model * job.width * like.itemsize
    order = array(job.order + bounds[step] * 8, (count,), INT64)
    _loss(job, like, model, order, head, source, own + losses, line)
    if job.trains != 0:
        for c in range(0, count * like.itemsize, 64):
            spread(like, job.width, line, head, own + losses + c, own + d + c)
        _backward(job, like, own, model, own + rows + offset, count)


@numba.njit(**OPTIONS)
def _backward(job, like, own, model, batch, count):
    """From the gradient of the last layer's output to new weights."""
    _, _, theta, grad, x, a, scale, turned, d, g, _ = _places(job, like)
    wide = job.batch * job.outputs * like.itemsize
    line = job.batch * like.itemsize
    theta_theta, grad_grad, moved = 0.0, 0.0, 0.0
    eta = array(job.lr, (job.num_models,), FP64)[model]
    for layer in range(job.num_layers - 1, -1, -1):
        at, _, stride = _layer(job, like, layer)
        weights, below = own + theta + at, batch
        for c in range(0, count * like.itemsize, 64):
            normal, deviation = own + x + layer * wide + c, own + scale + layer * line + c
            unnormalise(like, job.width, line, normal, deviation, own + d + c, own + g + c)
        if layer > 0:
            below = own + turned
            turn(like, own + a + (layer - 1) * wide, job.batch, below, job.outputs, job.outputs)
            back(like, weights, stride, job.width, own + g, own + d, line, count)
        gradient(like, own + g, line, count, below, stride, job.outputs, own + grad)
        size = job.outputs * stride * like.itemsize
        before, squares, after = move(like, weights, own + grad, size, eta)
        theta_theta, grad_grad, moved = theta_theta + before, grad_grad + squares, moved + after
    every = job.outputs * (job.inputs + (job.num_layers - 1) * job.outputs) * like.itemsize
    project(like, own + theta, every, job.radius / math.sqrt(moved))
    norms = array(job.grad_norm, (job.num_models,), FP64)
    norms[model] += math.sqrt(grad_grad) * math.sqrt(theta_theta)


@numba.njit(**OPTIONS)
def _loss(job, like, model, order, head, a, losses, line):
    """Add loss and hits of a batch to the sums; the gradients of the logits into `losses`."""
    zero, one = splat(like, 0.0), splat(like, 1.0)
    count = len(order)
    targets = array(job.targets, (job.num_samples,), INT64)
    found, logits = array(losses, (job.batch,), like), array(losses + line, (job.batch,), like)
    for b in range(count):
        found[b] = targets[order[b]]
    share = splat(like, 1.0 / count)
    for c in range(0, count * like.itemsize, 64):
        z0 = z1 = zero
        for f in range(0, job.width - job.width % 2, 2):
            weight = head + f * like.itemsize
            z0 = z0 + broadcast(like, weight) * load(like, a + f * line + c)
            beside = broadcast(like, weight + like.itemsize)
            z1 = z1 + beside * load(like, a + (f + 1) * line + c)
        if job.width % 2 == 1:
            f = job.width - 1
            z0 = z0 + broadcast(like, head + f * like.itemsize) * load(like, a + f * line + c)
        z, y = z0 + z1, load(like, losses + c)
        e = exp_negative(where_greater(z, zero, zero - z, z))
        inverse = one / (one + e)
        probability = where_greater(z, zero, inverse, e * inverse)
        store(like, losses + c, (probability - y) * share)
        store(like, losses + line + c, z)
        softplus = where_greater(zero, z, zero, z) + log1p_unit(e)
        store(like, losses + 2 * line + c, softplus - z * y)
    each = array(losses + 2 * line, (job.batch,), like)
    hits = array(job.hits, (job.num_models, 2), INT64)
    loss = 0.0
    for b in range(count):
        target = targets[order[b]]
        loss += np.float64(each[b])
        hits[model, target] += np.int64((logits[b] > 0) == (target == 1))
    array(job.loss, (job.num_models,), FP64)[model] += loss
