"""Norms of whole models in Triton, from the sums of their groups: one launch after a step.

One program adds up the groups of one model, in a fixed order; torch takes a gather, two stacked
sums and roots for it, each a launch in every training step. What it adds to the sum of an epoch is
its model's alone.

Legend: theta parameters, g gradients; a subscript i means group i.
"""

# Kernels are written in Triton's language, which Python's types do not describe.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import Layout
from .launch import DTYPES, LAUNCH

BLOCK = 1024
"""Groups at once, 8 per thread."""


@triton.jit
def _totals_kernel(
    p_sums,  # (3, num_groups) ||theta_i||^2, <theta_i, g_i>, ||g_i||^2
    p_factor,  # (num_models,) what gradients are multiplied by, read where SCALED
    p_groups,  # (num_models, per_model) int64: the groups of each model
    p_totals,  # (2, num_models) out
    p_product,  # (num_models,) fp64, what both norms make is added to it where ADDS
    num_groups,
    per_model,
    num_models,
    ACC: tl.constexpr,
    SCALED: tl.constexpr,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    model = tl.program_id(0)
    tt = tl.zeros((BLOCK,), ACC)
    gg = tl.zeros((BLOCK,), ACC)
    for first in range(0, per_model, BLOCK):
        index = first + tl.arange(0, BLOCK)
        mask = index < per_model
        group = tl.load(p_groups + model * per_model + index, mask=mask, other=0)
        tt += tl.load(p_sums + group, mask=mask, other=0)
        gg += tl.load(p_sums + 2 * num_groups + group, mask=mask, other=0)
    norm = tl.sqrt(tl.sum(tt))
    grad_norm = tl.sqrt(tl.sum(gg))
    if SCALED:
        grad_norm *= tl.abs(tl.load(p_factor + model))
    tl.store(p_totals + model, norm)
    tl.store(p_totals + num_models + model, grad_norm)
    if ADDS:
        added = (norm * grad_norm).to(tl.float64)
        tl.store(p_product + model, tl.load(p_product + model) + added)


def totals(
    sums: Tensor,  # (3, num_groups)
    layout: Layout,
    factor: Tensor | None = None,  # (num_models,)
    product: Tensor | None = None,  # (num_models,) fp64
) -> Tensor:  # (2, num_models), of the type of the sums
    """See `reference.totals`: 1 launch."""
    sums = sums.contiguous()
    found = torch.empty(2, layout.num_models, dtype=sums.dtype, device=sums.device)
    _totals_kernel[(layout.num_models,)](
        sums,
        sums if factor is None else factor.to(sums.dtype).contiguous(),
        layout.groups_by_model,
        found,
        found if product is None else product,
        layout.num_groups,
        layout.groups_by_model.shape[1],
        layout.num_models,
        ACC=DTYPES[sums.dtype],
        SCALED=factor is not None,
        ADDS=product is not None,
        BLOCK=BLOCK,
        num_warps=4,
        **LAUNCH,
    )
    return found
