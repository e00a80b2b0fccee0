"""The Triton kernels against `reference.py`; run by `test_triton_kernels.py`, or by hand:

TRITON_INTERPRET=1 pytest tests/kernels/triton_cases.py
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrain_kernels.step import reference
from fasttrain_kernels.step.triton import (
    adam_step,
    group_sums,
    scale,
    sgd_step,
    sphere_apply,
    sphere_step,
    totals,
)
from fasttrain_kernels.step.triton import launch as blocks_module

from .triton_problem import (
    DEVICE,
    MOMENTA,
    STEPS,
    TOLERANCES,
    Problem,
    check_against_reference,
    error,
)


@pytest.fixture(autouse=True)
def memory_starts_as_nan():
    """`torch.empty` gives NaN: whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def sizes(num_models: int) -> list[tuple[int, ...]]:
    """Groups of 1, 27, 63, 4,608, 20 (transposed) and 9,000 elements, and an empty tensor."""
    k = num_models
    return [(k,), (2 * k, 3, 3, 3), (k, 63), (k, 512, 3, 3), (2 * k, 20), (k, 9000), (k, 0)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("kind", STEPS)
def test_one_model(kind, momentum, dtype):
    check_against_reference(Problem(sizes(1), kind, momentum, dtype=dtype))


@pytest.mark.parametrize("groups", ["filter", "tensor"])
@pytest.mark.parametrize("kind", STEPS)
def test_three_models(kind, groups):
    problem = Problem(sizes(3)[:5], kind, "nesterov", num_models=3, groups=groups)
    check_against_reference(problem)


@pytest.mark.parametrize(
    ("dtype", "momentum"), [(torch.float64, "plain"), (torch.float32, "nesterov")]
)
@pytest.mark.parametrize("kind", ["exact", "group"])
def test_raw_rates_are_taken_of_effective_ones(kind, dtype, momentum):
    shapes = sizes(3)[:6]
    problem = Problem(shapes, kind, momentum, dtype=dtype, num_models=3, effective=True)
    check_against_reference(problem)
    # Of another type than the sums.
    problem = Problem(shapes, kind, momentum, dtype=dtype, num_models=3, effective=True)
    wide, expected = problem.copy(), problem.copy()
    assert wide.elr is not None
    wide.elr, wide.eta = wide.elr.double(), wide.eta.double()
    found = wide.step()["eta"][0]
    assert found.dtype == torch.float64
    assert error(found, expected.step()["eta"][0].double()) <= 2e-7


@pytest.mark.parametrize("kind", STEPS)
def test_sixteen_models(kind):
    shapes = [(32, 27), (16, 8, 3, 3), (16,)]
    check_against_reference(Problem(shapes, kind, num_models=16, dtype=torch.float32))


@pytest.mark.parametrize("kind", STEPS)
def test_long_rows_that_are_not_consecutive(kind, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK", 8192)
    check_against_reference(Problem([(2, 8210)], kind, "nesterov"))


def test_eighty_tensors():
    check_against_reference(Problem([(1, 5)] * 40 + [(2,)] * 40, "exact"))


@pytest.mark.parametrize("kind", ["exact", "group"])
def test_a_million_elements(kind, monkeypatch):
    # Fewer, larger blocks than on a device: the interpreter takes as long for either.
    monkeypatch.setattr(blocks_module, "BLOCK", 8192)
    check_against_reference(Problem([(1_000_000,)], kind, dtype=torch.float32))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_bf16_gradients(kind, stored):
    shapes = [(2, 3, 3, 3), (2, 64, 3, 3), (1, 8200)]
    problem = Problem(shapes, kind, "momentum", dtype=stored, grad_dtype=torch.bfloat16)
    check_against_reference(problem)


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 40)), min_size=1, max_size=4
    ),
    num_models=st.integers(1, 3),
    groups=st.sampled_from(["filter", "tensor"]),
    kind=st.sampled_from(STEPS),
    momentum=st.sampled_from(list(MOMENTA)),
)
@settings(max_examples=15)
def test_any_shapes(shapes, num_models, groups, kind, momentum):
    shapes = [(num_models * rows, *others) for rows, *others in shapes]
    check_against_reference(Problem(shapes, kind, momentum, num_models=num_models, groups=groups))


@pytest.mark.parametrize("kind", STEPS)
def test_zero_gradients(kind):
    problem = Problem([(2, 27), (3, 64)], kind, dtype=torch.float32)
    for grad in problem.grads:
        grad.zero_()
    check_against_reference(problem)
    if kind == "exact":
        total = sum(theta.double().square().sum() for theta in problem.thetas)
        assert total.sqrt() == pytest.approx(float(problem.radius), rel=1e-6)


@pytest.mark.parametrize("size", [1e-20, 1e20])
@pytest.mark.parametrize("kind", ["exact", "deferred", "group"])
@pytest.mark.filterwarnings("ignore:(overflow|underflow|invalid value):RuntimeWarning")
def test_tiny_and_huge_norms(kind, size):
    """Parameters keep their digits; their squares leave the range of fp32, and show that."""
    problem = Problem([(2, 27), (3, 64), (1, 9000)], kind, dtype=torch.float32, size=size)
    truth = problem.copy(torch.float64).step("reference")
    found = problem.step()
    for name in ("theta", "scale"):
        for mine, exact in zip(found[name], truth[name], strict=True):
            assert error(mine, exact) <= 1e-6
    assert bool(found["sums"][0].isinf().all()) == (size > 1)


@pytest.mark.parametrize("kind", STEPS)
def test_nan_stays_in_its_model(kind):
    problem = Problem([(6, 27), (3, 64), (3, 9000)], kind, num_models=3, dtype=torch.float32)
    clean = problem.copy()
    problem.grads[1][1, 5] = float("nan")
    problem.step()
    clean.step()
    hit = [theta.isnan().reshape(3, -1).any(1) for theta in problem.thetas]
    joint = kind == "exact"
    assert hit[1].tolist() == [False, True, False]
    assert all(h.tolist() == [False, joint, False] for h in (hit[0], hit[2]))
    if problem.scale is not None:
        assert problem.scale.isnan().tolist() == [False, True, False]
    for mine, theirs in zip(problem.thetas, clean.thetas, strict=True):
        for model in (0, 2):
            assert torch.equal(mine.reshape(3, -1)[model], theirs.reshape(3, -1)[model])


@pytest.mark.parametrize("kind", STEPS)
def test_twice_gives_the_same_bits(kind):
    problem = Problem([(3, 27), (3, 64), (1, 20000)], kind, "nesterov", dtype=torch.float32)
    first, second = problem.copy().step(), problem.step()
    for name, found in first.items():
        for mine, theirs in zip(found, second[name], strict=True):
            assert torch.equal(mine, theirs)


class Launches:
    """Stands in for a kernel: counts its launches, and runs nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid):
        self.count += 1
        return lambda *arguments, **options: None


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("kind", [*STEPS, "sums"])
def test_number_of_launches(kind, long, monkeypatch):
    """Constant, for 80 tensors of 16 models as for one."""
    kernels = []
    for module in (adam_step, group_sums, scale, sgd_step, sphere_apply, sphere_step):
        for name in ("_sums_kernel", "_finish_kernel", "_sgd_kernel", "_step_kernel",
                     "_apply_kernel", "_scale_kernel", "_adam_kernel",
                     "_groups_kernel"):  # fmt: skip
            if hasattr(module, name):
                kernels.append(Launches())
                monkeypatch.setattr(module, name, kernels[-1])
    small = [(16, 2)] * 8 + [(16,)] * 72
    for shapes in ([(1, 4)], small):
        num_models = shapes[0][0]
        shapes = [*shapes, (num_models, 8193)] if long else shapes
        problem = Problem(
            shapes, "sgd" if kind == "sums" else kind, num_models=num_models, dtype=torch.float32
        )
        for kernel in kernels:
            kernel.count = 0
        if kind == "sums":
            group_sums.group_sums(problem.thetas, problem.grads, problem.layout)
        else:
            problem.step()
        always_two = kind in ("exact", "deferred", "adam")
        assert sum(kernel.count for kernel in kernels) == (2 if long or always_two else 1)


@pytest.mark.parametrize("with_grads", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_group_sums(dtype, with_grads):
    problem = Problem(sizes(1), "sgd", dtype=dtype)
    grads = problem.grads if with_grads else None
    found = group_sums.group_sums(problem.thetas, grads, problem.layout)
    truth = reference.group_sums(problem.thetas, grads, problem.layout)
    assert found.dtype == dtype
    assert error(found, truth.double()) <= TOLERANCES[dtype]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("num_models", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_totals(dtype, num_models, scaled):
    # More groups of a model than a program adds at once.
    problem = Problem([(num_models * 900, 2), (num_models * 400, 3)], "sgd", num_models=num_models)
    layout = problem.layout
    sums = torch.rand(3, layout.num_groups, dtype=torch.float64, device=DEVICE)
    factor = -1 - torch.rand(num_models, dtype=torch.float64, device=DEVICE) if scaled else None
    found = totals.totals(sums.to(dtype), layout, factor)
    assert found.dtype == dtype and found.shape == (2, num_models)
    assert error(found, reference.totals(sums, layout, factor)) <= TOLERANCES[dtype]
    before = torch.rand(num_models, dtype=torch.float64, device=DEVICE)
    mine, theirs = before.clone(), before.clone()
    assert torch.equal(totals.totals(sums.to(dtype), layout, factor, mine), found)
    reference.totals(sums, layout, factor, theirs)
    assert error(mine, theirs) <= TOLERANCES[dtype] and not torch.equal(mine, before)


@pytest.mark.parametrize("output", [None, torch.float32, torch.bfloat16])
def test_scale(output):
    problem = Problem(sizes(1), "sgd", dtype=torch.float32)
    factor = torch.rand(problem.layout.num_groups, device=DEVICE)
    outputs = (
        None if output is None else [torch.empty_like(t, dtype=output) for t in problem.thetas]
    )
    truth = problem.copy(torch.float64).thetas
    reference.scale_(truth, problem.layout, factor.double())
    scale.scale_(problem.thetas, problem.layout, factor, outputs)
    for found, exact in zip(outputs or problem.thetas, truth, strict=True):
        assert error(found, exact) <= TOLERANCES[output or torch.float32]


def test_deferred_steps_are_exact_ones():
    exact = Problem([(3, 27), (2, 64)], "exact")
    deferred = exact.copy()
    deferred.kind, deferred.scale = "deferred", torch.ones_like(exact.radius)
    start = sum(theta.square().sum() for theta in exact.thetas).sqrt()
    deferred.scale.copy_(exact.radius / start)
    for theta in exact.thetas:
        theta.mul_(exact.radius / start)
    for _ in range(8):
        exact.step()
        deferred.step()
    for projected, lacking in zip(exact.thetas, deferred.thetas, strict=True):
        assert error(deferred.scale * lacking, projected) <= 1e-12


def test_refuses_what_it_cannot_take():
    problem = Problem([(4, 3, 3, 3), (2, 8)], "exact", dtype=torch.float32)
    problem.grads[0] = problem.grads[0].contiguous()
    with pytest.raises(ValueError, match="lie like their parameter"):
        problem.step()
    problem.grads[0] = problem.thetas[0].double()
    with pytest.raises(ValueError, match="must share one of"):
        problem.step()
