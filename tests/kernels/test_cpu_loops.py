"""numba's loops of a step: angles, and the order of sums."""

import math

import torch

from fasttrain_kernels.norm_relu_pool import cpu_loops as cpu_norm_kernels
from fasttrain_kernels.norm_relu_pool import cpu_sums as cpu_norm_sums
from fasttrain_kernels.norm_relu_pool import cpu_writes as cpu_norm_runs
from fasttrain_kernels.step import reference
from fasttrain_kernels.step.cpu import describe as cpu_describe
from fasttrain_kernels.step.cpu import loops as cpu_kernels
from fasttrain_kernels.step.cpu import rows as cpu_places
from fasttrain_kernels.step.cpu import step as cpu
from fasttrain_kernels.step.layout import make_layout


def test_angles_are_those_of_atan2():
    """Every octant of the upper half plane, its borders, zeros and NaN."""
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    special = torch.tensor([0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi]).double()
    angles = torch.cat([angles, special])
    layout = make_layout([torch.empty(len(angles) + 2, 1)])
    # theta = (1, 0) and g = (1 - cos a, -sin a): a step of 1 ends at angle a.
    sums = torch.stack([torch.ones_like(angles), 1 - angles.cos(), 2 - 2 * angles.cos()])
    edges = torch.tensor([[0.0, 1.0], [0.0, math.nan], [0.0, 1.0]], dtype=torch.float64)
    sums = torch.cat([sums, edges], dim=1)
    eta = torch.ones(1, dtype=torch.float64)
    for factor in (None, torch.full((1,), 0.5, dtype=torch.float64)):
        found = cpu.describe(sums, eta, layout, factor)
        expected = reference.describe(sums, eta, layout, factor)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-7, equal_nan=True)
        # Away from 0 and pi the angle is well conditioned.
        torch.testing.assert_close(found[3][50:-57], expected[3][50:-57], rtol=1e-12, atol=0)
    torch.testing.assert_close(cpu.describe(sums, eta, layout)[3][50:1950], angles[50:1950])


def test_only_the_sums_of_blocks_may_be_reordered():
    """Elsewhere the order of terms would be another one each time that the code is compiled."""
    modules = (
        cpu_describe,
        cpu_kernels,
        cpu_places,
        cpu_norm_kernels,
        cpu_norm_runs,
        cpu_norm_sums,
    )
    free = {
        name
        for module in modules
        for name, function in vars(module).items()
        if "reassoc" in getattr(function, "targetoptions", {}).get("fastmath", ())
    }
    assert free == {"_sum_block"}
