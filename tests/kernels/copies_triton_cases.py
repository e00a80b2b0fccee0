"""Copies in bf16 that Triton's kernels write beside parameters; run as `triton_cases.py` is."""

import pytest
import torch

from fasttrain_kernels.step.triton import scale

from .triton_cases import memory_starts_as_nan as memory_starts_as_nan
from .triton_cases import sizes
from .triton_problem import DEVICE, MOMENTA, STEPS, Problem, error


def rounded(theta):
    """What a copy in bf16 holds; the interpreter cuts digits off instead of rounding."""
    if DEVICE != "cpu":
        return theta.bfloat16()
    return (theta.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()


def copy_of(theta, shift):
    """Like a parameter, `shift` elements behind a boundary, with memory of nobody around it."""
    values = torch.full((theta.numel() + 16,), -7.0, dtype=torch.bfloat16, device=DEVICE)
    return values.as_strided(theta.shape, theta.stride(), 8 + shift), values


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("kind", [kind for kind in STEPS if kind != "deferred"])
def test_copies_hold_what_parameters_round_to(kind, momentum, shift):
    """Every second parameter has one; nothing else that a step writes depends on that."""
    shapes = [(2, 3, 3, 3), (1,), (3, 16, 3, 3), (1, 63), (2, 20), (1, 64), (1, 9000), (1, 8200)]
    problem = Problem(shapes, kind, momentum, dtype=torch.float32, grad_dtype=torch.bfloat16)
    alone = problem.copy()
    made = [copy_of(theta, shift) for theta in problem.thetas]
    problem.copies = [copy if i % 2 == 0 else None for i, (copy, _) in enumerate(made)]
    found, expected = problem.step(), alone.step()
    for i, (theta, (copy, around)) in enumerate(zip(problem.thetas, made, strict=True)):
        assert torch.equal(copy, rounded(theta)) == (i % 2 == 0)
        rest = torch.cat([around[: 8 + shift], around[8 + shift + theta.numel() :]])
        assert (rest == -7).all() and (i % 2 == 0 or (around == -7).all())
    for name, values in found.items():
        for mine, other in zip(values, expected[name], strict=True):
            # Beside a copy that is not at a boundary sums are taken in another order.
            same = torch.equal(mine, other)
            assert same if shift == 0 else error(mine, other.double()) <= 3e-6


@pytest.mark.parametrize("shift", [0, 1])
def test_a_projection_writes_copies(shift):
    problem = Problem(sizes(1), "sgd", dtype=torch.float32)
    made = [copy_of(theta, shift)[0] for theta in problem.thetas]
    factor = torch.rand(problem.layout.num_groups, device=DEVICE)
    scale.scale_(problem.thetas, problem.layout, factor, None, [*made[:-1], None])
    for theta, copy in zip(problem.thetas[:-1], made[:-1], strict=True):
        assert torch.equal(copy, rounded(theta))


def test_a_parameter_without_a_gradient_leaves_its_copy():
    problem = Problem([(2, 64), (3, 64)], "sgd", dtype=torch.float32)
    made = [copy_of(theta, 0)[0] for theta in problem.thetas]
    problem.grads[1], problem.copies = None, made
    problem.step()
    assert torch.equal(made[0], rounded(problem.thetas[0])) and (made[1] == -7).all()
