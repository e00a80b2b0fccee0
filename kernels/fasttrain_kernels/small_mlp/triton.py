"""The training of small MLPs of `reference.py` on CUDA and ROCm: one launch for all steps.

A program trains a model: what one step writes to memory, the next one reads, behind a barrier, so
that models of any number of layers fit. Products are of fp32, not TF32. A layer's inputs are taken
`BLOCK` at a time in the first layer, all at once in those above.

Legend: theta weights, x normalised, a = relu(x), d gradient of x, g gradient of a product.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32
"""Inputs of the first layer at once."""

LAUNCH = {"num_warps": 4, "num_stages": 1}
"""Compile options."""


@triton.jit
def _mlp_kernel(
    p_theta,  # (num_models, size of a model): its layers, one after another
    p_head,  # (num_models, WIDTH)
    p_inputs,  # (N, INPUTS)
    p_targets,
    p_order,
    p_bounds,  # (num_steps + 1,)
    p_eta,  # (num_models,)
    p_loss,  # (num_models, num_steps) out
    p_norm,  # (num_models, num_steps) out: ||g|| * ||theta||
    p_hits,  # (num_models, 2) out
    p_x,  # (num_models, LAYERS, B, W) scratch
    p_scale,  # (num_models, LAYERS, B) scratch: 1 / std
    num_steps,
    radius,
    eps,
    LAYERS: tl.constexpr,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    TRAINS: tl.constexpr,
    B: tl.constexpr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    model = tl.program_id(0).to(tl.int64)
    p_theta += model * (WIDTH * INPUTS + (LAYERS - 1) * WIDTH * WIDTH)
    p_x += model * (LAYERS * B * W)
    p_scale += model * (LAYERS * B)
    feature = tl.arange(0, W)
    head = tl.load(p_head + model * WIDTH + feature, mask=feature < WIDTH, other=0.0)
    hits_0, hits_1 = 0, 0
    for step in range(num_steps):
        begin = tl.load(p_bounds + step)
        count = (tl.load(p_bounds + step + 1) - begin).to(tl.int32)
        sample = tl.arange(0, B)
        m_sample = sample < count
        row = tl.load(p_order + begin + sample, mask=m_sample, other=0)
        target = tl.load(p_targets + row, mask=m_sample, other=0)
        active = tl.zeros((B, W), ACC)
        for layer in tl.static_range(LAYERS):
            active = _forward(
                p_theta, p_inputs, p_x, p_scale, row, m_sample, eps,
                layer, WIDTH, INPUTS, B, W, BLOCK, ACC,
            )  # fmt: skip
        logit = tl.sum(active * head[None, :], axis=1)
        truth = target.to(ACC)
        small = tl.exp(-tl.abs(logit))
        # log(1 + small) where 1 + small has lost small's digits.
        more = 1.0 + small
        rest = small - (more - 1.0)
        losses = tl.where(logit < 0, 0.0, logit) - logit * truth + tl.log(more) + rest / more
        tl.store(p_loss + model * num_steps + step, tl.sum(tl.where(m_sample, losses, 0.0)))
        right = m_sample & ((logit > 0) == (target == 1))
        hits_0 += tl.sum((right & (target == 0)).to(tl.int32))
        hits_1 += tl.sum((right & (target == 1)).to(tl.int32))
        if TRAINS:
            probability = tl.where(logit > 0, 1.0, small) / more
            of_logit = tl.where(m_sample, probability - truth, 0.0) / count
            norm = _backward(
                p_theta, p_inputs, p_x, p_scale, row, m_sample, of_logit[:, None] * head[None, :],
                tl.load(p_eta + model), radius, LAYERS, WIDTH, INPUTS, B, W, BLOCK, ACC,
            )  # fmt: skip
            tl.store(p_norm + model * num_steps + step, norm)
    tl.store(p_hits + 2 * model, hits_0)
    tl.store(p_hits + 2 * model + 1, hits_1)


@triton.jit
def _block(
    p_theta, p_inputs, p_x, row, m_sample, layer: tl.constexpr, first,
    WIDTH: tl.constexpr, INPUTS: tl.constexpr, B: tl.constexpr, W: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """`SIZE` inputs of a layer from `first` on: pointers and mask of theta, values of both."""
    NUM: tl.constexpr = INPUTS if layer == 0 else WIDTH
    BEFORE: tl.constexpr = 0 if layer == 0 else WIDTH * (INPUTS + (layer - 1) * WIDTH)
    column = first + tl.arange(0, SIZE)
    output = tl.arange(0, W)
    m_theta = (output < WIDTH)[:, None] & (column < NUM)[None, :]
    p_block = p_theta + BEFORE + output[:, None] * NUM + column[None, :]
    theta = tl.load(p_block, mask=m_theta, other=0.0)
    m_below = m_sample[:, None] & (column < NUM)[None, :]
    if layer == 0:
        below = tl.load(p_inputs + row[:, None] * INPUTS + column[None, :], mask=m_below, other=0.0)
    else:
        place = (layer - 1) * B * W + tl.arange(0, B)[:, None] * W + column[None, :]
        x = tl.load(p_x + place, mask=m_below, other=0.0)
        below = tl.where(x < 0, 0.0, x)
    return p_block, m_theta, theta, below


@triton.jit
def _forward(
    p_theta, p_inputs, p_x, p_scale, row, m_sample, eps, layer: tl.constexpr,
    WIDTH: tl.constexpr, INPUTS: tl.constexpr, B: tl.constexpr, W: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A layer's output; x and 1 / std into scratch memory."""
    SIZE: tl.constexpr = BLOCK if layer == 0 else W
    NUM: tl.constexpr = INPUTS if layer == 0 else WIDTH
    y = tl.zeros((B, W), ACC)
    for first in range(0, NUM, SIZE):
        _, _, theta, below = _block(
            p_theta, p_inputs, p_x, row, m_sample, layer, first, WIDTH, INPUTS, B, W, SIZE
        )
        y += tl.dot(below, tl.trans(theta), input_precision="ieee", out_dtype=ACC)
    feature = tl.arange(0, W)
    mean = tl.sum(y, axis=1) / WIDTH
    centred = tl.where((feature < WIDTH)[None, :], y - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
    x = centred * scale[:, None]
    sample = tl.arange(0, B)
    tl.store(p_x + layer * B * W + sample[:, None] * W + feature[None, :], x)
    tl.store(p_scale + layer * B + sample, scale)
    tl.debug_barrier()
    return tl.where(x < 0, 0.0, x)


@triton.jit
def _backward(
    p_theta, p_inputs, p_x, p_scale, row, m_sample, d, eta, radius,
    LAYERS: tl.constexpr, WIDTH: tl.constexpr, INPUTS: tl.constexpr, B: tl.constexpr,
    W: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """From the gradient of the last layer's output to new weights; the effective gradient norm."""
    before, squares, after = tl.zeros((), ACC), tl.zeros((), ACC), tl.zeros((), ACC)
    for up in tl.static_range(LAYERS):
        d, theta_theta, grad_grad, moved = _backward_layer(
            p_theta, p_inputs, p_x, p_scale, row, m_sample, d, eta,
            LAYERS - 1 - up, WIDTH, INPUTS, B, W, BLOCK, ACC,
        )  # fmt: skip
        before += theta_theta
        squares += grad_grad
        after += moved
    factor = radius / tl.sqrt(after)
    TOTAL: tl.constexpr = WIDTH * (INPUTS + (LAYERS - 1) * WIDTH)
    SPAN: tl.constexpr = W * BLOCK
    for first in range(0, TOTAL, SPAN):
        place = first + tl.arange(0, SPAN)
        theta = tl.load(p_theta + place, mask=place < TOTAL, other=0.0)
        tl.store(p_theta + place, theta * factor, mask=place < TOTAL)
    tl.debug_barrier()
    return tl.sqrt(squares) * tl.sqrt(before)


@triton.jit
def _backward_layer(
    p_theta, p_inputs, p_x, p_scale, row, m_sample, d, eta, layer: tl.constexpr,
    WIDTH: tl.constexpr, INPUTS: tl.constexpr, B: tl.constexpr, W: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Move a layer; the gradient of the output below, and sums of squares.

    Of theta, of its gradient, and of theta after the move.
    """
    sample, feature = tl.arange(0, B), tl.arange(0, W)
    x = tl.load(p_x + layer * B * W + sample[:, None] * W + feature[None, :])
    scale = tl.load(p_scale + layer * B + sample)
    d = tl.where(x > 0, d, 0.0)
    mean, along = tl.sum(d, axis=1) / WIDTH, tl.sum(d * x, axis=1) / WIDTH
    g = (d - mean[:, None] - x * along[:, None]) * scale[:, None]
    g = tl.where((feature < WIDTH)[None, :], g, 0.0)
    SIZE: tl.constexpr = BLOCK if layer == 0 else W
    NUM: tl.constexpr = INPUTS if layer == 0 else WIDTH
    before, squares, after = tl.zeros((), ACC), tl.zeros((), ACC), tl.zeros((), ACC)
    for first in range(0, NUM, SIZE):
        p_block, m_theta, theta, below = _block(
            p_theta, p_inputs, p_x, row, m_sample, layer, first, WIDTH, INPUTS, B, W, SIZE
        )
        if layer > 0:
            d = tl.dot(g, theta, input_precision="ieee", out_dtype=ACC)
        grad = tl.dot(tl.trans(g), below, input_precision="ieee", out_dtype=ACC)
        before += tl.sum(theta * theta)
        squares += tl.sum(grad * grad)
        theta -= eta * grad
        after += tl.sum(theta * theta)
        # Not before every thread has read what it needs.
        tl.debug_barrier()
        tl.store(p_block, theta, mask=m_theta)
    tl.debug_barrier()
    return d, before, squares, after


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
    num_steps, device, dtype = len(bounds) - 1, head.device, head.dtype
    batch = int(bounds.diff().max()) if num_steps else 1
    sizes = constants(len(weights), width, inputs.shape[1], batch, trains=lr is not None)
    theta = torch.cat([weight.detach().view(num_models, -1) for weight in weights], dim=1)
    loss = torch.empty(num_models, num_steps, dtype=dtype, device=device)
    norm = torch.zeros_like(loss)
    hits = torch.zeros(num_models, 2, dtype=torch.int32, device=device)
    places = num_models, len(weights), sizes["B"]
    x = torch.empty(*places, sizes["W"], dtype=dtype, device=device)
    _mlp_kernel[(num_models,)](
        theta,
        head,
        inputs,
        targets,
        order,
        bounds.to(device),
        torch.zeros_like(head[:, 0]) if lr is None else lr.to(dtype),
        loss,
        norm,
        hits,
        x,
        torch.empty(places, dtype=dtype, device=device),
        num_steps,
        radius,
        eps,
        ACC=tl.float64 if dtype == torch.float64 else tl.float32,
        **sizes,
        **LAUNCH,
    )
    if lr is not None:
        parts = theta.split([weight.numel() // num_models for weight in weights], dim=1)
        for weight, part in zip(weights, parts, strict=True):
            weight.detach().copy_(part.reshape(weight.shape))
    return loss.double().sum(dim=1), hits.long(), norm.double().sum(dim=1)


def constants(
    num_layers: int, width: int, num_inputs: int, batch: int, *, trains: bool
) -> dict[str, int | bool]:
    """What the kernel is compiled for."""
    # A product needs 16 of everything.
    return {
        "LAYERS": num_layers,
        "WIDTH": width,
        "INPUTS": num_inputs,
        "TRAINS": trains,
        "B": max(16, triton.next_power_of_2(batch)),
        "W": max(16, triton.next_power_of_2(width)),
        "BLOCK": BLOCK,
    }
