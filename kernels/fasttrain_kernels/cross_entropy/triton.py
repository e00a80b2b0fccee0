"""The cross-entropy of a pack in Triton: one launch, one program per model.

A program walks over its model's images, some at a time, in an order that depends on nothing else:
no atomics, and what it adds to the sums of an epoch is its model's alone. It reads logits and
labels once and writes the gradient. A model of another program is never read.

Legend: f logits, y label, e_y its unit vector, B images of a batch.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .loss import LossSums, PackLoss

TILE = 2048
"""Logits at once, if a row has no more."""

PER_WARP = 256
"""Of those, 8 per thread: with 16 some targets spill."""

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _row_losses(f, column, label, CLASSES: tl.constexpr):
    """Of every row its loss and softmax, without overflow: (ROWS,), (ROWS, COLUMNS).

    -inf stands where there is no class.
    """
    highest = tl.max(tl.where(f != f, float("-inf"), f), axis=1)
    below = f - highest[:, None]
    share = tl.exp(below)
    total = tl.sum(share, axis=1)
    at_label = tl.sum(tl.where(column == label[:, None], below, 0.0), axis=1)
    known = (label >= 0) & (label < CLASSES)
    loss = tl.where(known, tl.log(total) - at_label, float("nan"))
    # NaN passes from the loss of an unknown label to its gradient.
    total = tl.where(known, total, float("nan"))
    return loss, share / total[:, None]


@triton.jit
def _first_greatest(f, column, COLUMNS: tl.constexpr):
    """The first of the greatest numbers of a row, or its first NaN: (ROWS,)."""
    missing = f != f
    highest = tl.max(tl.where(missing, float("-inf"), f), axis=1)
    some = tl.max(missing.to(tl.int32), axis=1) > 0
    best = (some[:, None] & missing) | ((some == 0)[:, None] & (f == highest[:, None]))
    return tl.min(tl.where(best, column, COLUMNS), axis=1)


@triton.jit(do_not_specialize=["batch"])
def _cross_entropy_kernel(
    p_logits,  # (K, B, C)
    p_labels,  # (B,), or (K, B) unless SHARED
    p_gradient,  # (K, B, C) out
    p_losses,  # (K,) out
    p_right,  # (K,) out
    p_loss_sum,  # (K,), the sums of `LossSums`, where SUMS
    p_hits_sum,  # (K, C)
    p_images_sum,  # (C,), or (K, C) unless SHARED
    batch,
    ACC: tl.constexpr,
    CLASSES: tl.constexpr,
    SHARED: tl.constexpr,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    model = tl.program_id(0).to(tl.int64)
    p_logits += model * batch * CLASSES
    p_gradient += model * batch * CLASSES
    if not SHARED:
        p_labels += model * batch
    one = tl.full((), 1.0, ACC)
    each = one / batch
    column = tl.arange(0, COLUMNS)[None, :]
    losses = tl.zeros((ROWS,), ACC)
    right = tl.zeros((ROWS,), tl.int32)
    hits = tl.zeros((COLUMNS,), tl.int32)
    images = tl.zeros((COLUMNS,), tl.int32)
    for first in range(0, batch, ROWS):
        row = first + tl.arange(0, ROWS)
        exists = row < batch
        label = tl.load(p_labels + row, mask=exists, other=0)
        offset = row.to(tl.int64)[:, None] * CLASSES + column
        mask = exists[:, None] & (column < CLASSES)
        f = tl.load(p_logits + offset, mask=mask, other=float("-inf")).to(ACC)
        loss, share = _row_losses(f, column, label, CLASSES)
        losses += tl.where(exists, loss, 0.0)
        wanted = column == label[:, None]
        gradient = tl.where(wanted, share - one, share) * each
        tl.store(p_gradient + offset, gradient.to(p_gradient.dtype.element_ty), mask=mask)
        hit = exists & (_first_greatest(f, column, COLUMNS) == label)
        right += hit.to(tl.int32)
        if SUMS:
            hits += tl.sum((wanted & hit[:, None]).to(tl.int32), axis=0)
            images += tl.sum((wanted & exists[:, None]).to(tl.int32), axis=0)
    total = tl.sum(losses)
    tl.store(p_losses + model, total * each)
    tl.store(p_right + model, tl.sum(right).to(tl.int64))
    if SUMS:
        index = tl.arange(0, COLUMNS)
        mask = index < CLASSES
        tl.store(p_loss_sum + model, tl.load(p_loss_sum + model) + total.to(tl.float64))
        p_mine = p_hits_sum + model * CLASSES + index
        tl.store(p_mine, tl.load(p_mine, mask=mask) + hits, mask=mask)
        if SHARED:
            p_mine = p_images_sum + index
            mask = mask & (model == 0)
        else:
            p_mine = p_images_sum + model * CLASSES + index
        tl.store(p_mine, tl.load(p_mine, mask=mask) + images, mask=mask)


def constants(batch: int, num_classes: int) -> dict[str, int]:
    """What the kernel is compiled for; large batches are alike."""
    columns = triton.next_power_of_2(num_classes)
    rows = min(max(TILE // columns, 1), triton.next_power_of_2(batch))
    num_warps = max(rows * columns // PER_WARP, 4)
    sizes = {"CLASSES": num_classes, "ROWS": rows, "COLUMNS": columns}
    return sizes | {"num_warps": num_warps, "num_stages": 1}


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    sums: LossSums | None,
) -> PackLoss:
    """See `loss.cross_entropy`."""
    num_models, batch, num_classes = logits.shape
    logits, labels = logits.contiguous(), labels.contiguous()
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = torch.empty(num_models, dtype=dtype, device=logits.device)
    hits = torch.empty(num_models, dtype=torch.int64, device=logits.device)
    gradient = torch.empty_like(logits)
    _cross_entropy_kernel[(num_models,)](
        logits,
        labels,
        gradient,
        losses,
        hits,
        # Pointers that are not read without sums.
        *((losses, hits, hits) if sums is None else sums),
        batch,
        ACC=_TYPES[dtype],
        SHARED=labels.ndim == 1,
        SUMS=sums is not None,
        **constants(batch, num_classes),
    )
    return PackLoss(losses, hits, gradient)
