"""The Triton kernel of small MLPs against the reference; run by `test_triton_kernels.py`, or:

TRITON_INTERPRET=1 pytest tests/kernels/mlp_triton_cases.py
"""

import os

import pytest
import torch

from fasttrain_kernels.small_mlp import reference as mlp_reference
from fasttrain_kernels.small_mlp import triton as mlp_triton

from .mlp_problem import CASES, batches, norms, problem

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def trained(run, name, dtype, device=DEVICE, *, trains=True, weights=None):
    """Weights after the steps and every sum, by the given function."""
    own, *rest = problem(name, dtype, device)
    weights = own if weights is None else weights
    order, bounds, rates = batches(name, device)
    sums = run(weights, *rest, order, bounds, rates if trains else None, 1.0, 1e-7)
    return [value.cpu() for value in (*weights, *sums)]


@pytest.mark.parametrize("name", CASES)
def test_fp64_is_plain_torch(name):
    found = trained(mlp_triton.run, name, torch.float64)
    expected = trained(mlp_reference.run, name, torch.float64, "cpu")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_fp32_is_as_near_to_fp64_as_plain_torch(name):
    truth = trained(mlp_reference.run, name, torch.float64, "cpu")
    eager = trained(mlp_reference.run, name, torch.float32, "cpu")
    found = trained(mlp_triton.run, name, torch.float32)
    for ours, theirs, true in zip(found, eager, truth, strict=True):
        scale = true.abs().max() + 1e-30
        error, allowed = ((x.double() - true).abs().max() / scale for x in (ours, theirs))
        assert error <= 2 * allowed + 4e-7


def test_scores_move_nothing():
    before = problem("tick", torch.float64)[0]
    found = trained(mlp_triton.run, "tick", torch.float64, trains=False)
    expected = trained(mlp_reference.run, "tick", torch.float64, "cpu", trains=False)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(found, before, strict=False))


def test_a_neighbour_without_a_number_changes_nothing():
    healthy = trained(mlp_triton.run, "tick", torch.float32)
    weights = problem("tick", torch.float32, DEVICE)[0]
    for weight in weights:
        weight.chunk(3)[1].fill_(torch.nan)
    beside = trained(mlp_triton.run, "tick", torch.float32, weights=weights)
    for found, expected in zip(beside, healthy, strict=True):
        for k in (0, 2):
            assert torch.equal(found.chunk(3)[k], expected.chunk(3)[k])
    assert beside[2][1].isnan()


def test_weights_stay_on_their_spheres():
    found = trained(mlp_triton.run, "odd", torch.float64)
    assert (norms(found[:3], 3) - 1).abs().max() < 1e-13
