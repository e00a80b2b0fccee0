"""The numba backend against the reference, in fp64 and in what it stores."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasttrain_kernels.numba_runtime import team as cpu_team
from fasttrain_kernels.step import reference
from fasttrain_kernels.step.cpu import step as cpu
from fasttrain_kernels.step.layout import make_layout

# fp64: both round a handful of operations per element, and sums of up to 1e6 in another order.
# fp32: the fused step may be off by the reference's own error plus half a unit in the last place of
# the largest element, once for the move and once for the projection.
RTOL = 1e-12
ATOL_FP32 = 2**-23

MODES = ["exact", "deferred", "group", "sgd", "decays"]

CASES = {
    "one": [(1, 1)],
    "27": [(1, 27)],
    "63": [(1, 63)],
    "4608": [(1, 4608)],
    "1e6": [(1, 1_000_000)],
    "ragged": [(6, 3, 3, 3), (3, 7, 3, 3), (9,), (3, 9001), (12, 1)],
    "empty row": [(3, 0), (3, 5)],
    "80 tensors": [(3 + 3 * (i % 2), 1 + i % 7, 3, 3) for i in range(80)],
}


def tensors(shapes, seed: int, dtype: torch.dtype, size: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) * size for s in shapes]
    made = [t.to(dtype) for t in made]
    return [
        t.to(memory_format=torch.channels_last)
        if t.ndim == 4
        else t.t().contiguous().t()
        if t.ndim == 2 and i % 2
        else t
        for i, t in enumerate(made)
    ]


def take(backend, mode, state, num_models, momentum=0.9, nesterov=False, groups="filter", eta=0.1):
    """Step copies of (thetas, grads, buffers); everything that comes out, as fp64 tensors."""
    thetas, grads, buffers = ([t.clone() for t in part] for part in state)
    layout = make_layout(thetas, groups, num_models)
    count = layout.num_groups if mode == "group" else num_models
    # Another rate and radius for everyone.
    rates = eta * (1 + torch.arange(count, dtype=torch.float64) / 7)
    options = {"momentum": momentum, "nesterov": nesterov}
    held = buffers if momentum else None
    if mode in ("sgd", "decays"):
        decay = 0.01 * (1 + torch.arange(count, dtype=torch.float64)) if mode == "decays" else 0.01
        sums = backend.sgd_step_(thetas, grads, held, layout, rates, weight_decay=decay, **options)
        return [*thetas, *buffers, sums]
    radius = 2 + torch.arange(count, dtype=torch.float64) / 5
    scale = torch.full((num_models,), 1.25, dtype=torch.float64) if mode == "deferred" else None
    scope = "group" if mode == "group" else "joint"
    sums = backend.sphere_step_(
        thetas, grads, held, layout, rates, radius, scale, scope=scope, **options
    )
    return [*thetas, *buffers, sums, *([] if scale is None else [scale])]


def state(shapes, dtype=torch.float64, grad_dtype=None, theta_size=1.0, grad_size=1.0):
    return (
        tensors(shapes, 0, dtype, theta_size),
        tensors(shapes, 1, grad_dtype or dtype, grad_size),
        tensors(shapes, 2, dtype, grad_size),
    )


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        size = float(e.nan_to_num().abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=RTOL, atol=RTOL * size, equal_nan=True)


@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["", "momentum"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [case for case in CASES if case != "1e6"])
def test_fp64_is_the_reference(case, mode, momentum):
    start = state(CASES[case])
    assert_close(
        take(cpu, mode, start, 1, momentum, nesterov=momentum > 0),
        take(reference, mode, start, 1, momentum, nesterov=momentum > 0),
    )


@pytest.mark.parametrize("groups", ["filter", "tensor"])
@pytest.mark.parametrize("num_models", [3, 16])
@pytest.mark.parametrize("mode", MODES)
def test_packs_are_the_reference(mode, num_models, groups):
    shapes = CASES["ragged"] if num_models == 3 else CASES["ragged"][:3]
    start = state([(num_models * rows, *rest) for rows, *rest in shapes])
    assert_close(
        take(cpu, mode, start, num_models, groups=groups),
        take(reference, mode, start, num_models, groups=groups),
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_pack_is_its_models_one_by_one(mode):
    start = state([(3 * rows, *rest) for rows, *rest in CASES["ragged"]])
    packed = take(cpu, mode, start, 3)
    rate = 0.1 * (1 + 1 / 7)
    if mode != "group":
        alone = tuple(
            [t.chunk(3)[1].clone(memory_format=torch.preserve_format) for t in part]
            for part in start
        )
        thetas, grads, buffers = alone
        layout = make_layout(thetas)
        eta = torch.tensor([rate], dtype=torch.float64)
        if mode in ("sgd", "decays"):
            decay = 0.02 if mode == "decays" else 0.01
            cpu.sgd_step_(thetas, grads, buffers, layout, eta, momentum=0.9, weight_decay=decay)
        else:
            scale = torch.tensor([1.25], dtype=torch.float64) if mode == "deferred" else None
            radius = torch.tensor([2.2], dtype=torch.float64)
            cpu.sphere_step_(thetas, grads, buffers, layout, eta, radius, scale, momentum=0.9)
        for whole, part in zip(packed, thetas, strict=False):
            torch.testing.assert_close(whole.chunk(3)[1], part, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("case", "grad_dtype"),
    [
        *itertools.product(["27", "4608", "ragged"], [torch.float32, torch.bfloat16]),
        ("1e6", torch.float32),
    ],
)
def test_fp32_errs_no_more_than_the_reference(case, mode, grad_dtype):
    start = state(CASES[case], torch.float32, grad_dtype)
    exact = take(reference, mode, tuple([t.double() for t in p] for p in start), 1)
    fused, plain = take(cpu, mode, start, 1), take(reference, mode, start, 1)
    for truth, ours, theirs in zip(exact, fused, plain, strict=True):
        error, budget = (ours - truth).abs().max(), (theirs - truth).abs().max()
        assert error <= budget + ATOL_FP32 * truth.abs().max()


def test_bf16_parameters_round_to_the_nearest():
    start = state(CASES["ragged"], torch.bfloat16)
    fused, plain = take(cpu, "sgd", start, 1), take(reference, "sgd", start, 1)
    for ours, theirs in zip(fused, plain, strict=True):
        # The two may round a tie apart.
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0)
        if ours.dtype == torch.bfloat16:
            assert (ours == theirs).double().mean() > 0.999


@pytest.mark.parametrize("mode", ["exact", "deferred", "group"])
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_tiny_and_huge_norms(mode, size):
    start = state(CASES["ragged"], torch.float32, theta_size=size, grad_size=1 / size)
    found = take(cpu, mode, start, 1, eta=size**2)
    expected = take(reference, mode, start, 1, eta=size**2)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.isfinite().all() and theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=float(theirs.abs().max()) * 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_zero_gradients(mode):
    start = state(CASES["ragged"], grad_size=0.0)
    found = take(cpu, mode, start, 1)
    assert_close(found, take(reference, mode, start, 1))
    if mode == "exact":
        layout = make_layout(start[0])
        radius = torch.tensor([2.0], dtype=torch.float64)
        factor = radius / layout.per_model(reference.group_sums(start[0], None, layout)[0]).sqrt()
        for theta, moved in zip(start[0], found, strict=False):
            torch.testing.assert_close(moved, theta * factor)


@pytest.mark.parametrize("backend", [cpu, reference], ids=["numba", "reference"])
@pytest.mark.parametrize("mode", MODES)
def test_a_nan_stays_visible_and_in_its_model(mode, backend):
    start = state([(3 * rows, *rest) for rows, *rest in CASES["ragged"]])
    clean = take(backend, mode, start, 3)
    start[1][0][7, 1, 0, 0] = math.nan
    dirty = take(backend, mode, start, 3)
    for index, (before, after) in enumerate(zip(clean, dirty, strict=True)):
        if index >= len(start[0]):
            continue
        for model, (b, a) in enumerate(zip(before.chunk(3), after.chunk(3), strict=True)):
            if model != 1:
                assert torch.equal(a, b)
            elif mode == "exact":
                assert a.isnan().all()
    assert dirty[0].isnan().any()


@pytest.mark.parametrize("mode", MODES)
def test_the_same_call_gives_the_same_bits(mode):
    start = state([(64, 3, 3, 3), (128, 64, 3, 3), (2, 30_000)], torch.float32)
    first = take(cpu, mode, start, 2)
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1):
            torch.set_num_threads(count)
            for ours, again in zip(first, take(cpu, mode, start, 2), strict=True):
                assert torch.equal(ours, again)
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=0, max_size=4), min_size=1, max_size=6),
    mode=st.sampled_from(MODES),
    num_models=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from(["filter", "tensor"]),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_any_shapes(shapes, mode, num_models, groups, momentum):
    folded = [(num_models * (s[0] if s else 1), *s[1:3]) for s in shapes]
    start = state(folded)
    assert_close(
        take(cpu, mode, start, num_models, momentum, groups=groups),
        take(reference, mode, start, num_models, momentum, groups=groups),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scaling_and_sums(dtype):
    thetas, grads, _ = state(CASES["ragged"], torch.float64)
    layout = make_layout(thetas)
    torch.testing.assert_close(
        cpu.group_sums(thetas, grads, layout), reference.group_sums(thetas, grads, layout)
    )
    assert torch.equal(cpu.group_sums(thetas, None, layout)[1:], torch.zeros(2, layout.num_groups))
    factor = torch.linspace(0.5, 2, layout.num_groups, dtype=torch.float64)
    ours = [torch.full_like(t, math.nan, dtype=dtype) for t in thetas]
    theirs = [torch.full_like(t, math.nan, dtype=dtype) for t in thetas]
    cpu.scale_(thetas, layout, factor, ours)
    reference.scale_(thetas, layout, factor, theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_without_openmp_the_calling_thread_works_alone(monkeypatch):
    start = state([(64, 3, 3, 3), (128, 64, 3, 3)], torch.float32)
    expected = take(cpu, "exact", start, 2)
    monkeypatch.setattr(cpu_team, "_openmp", lambda: None)
    for ours, again in zip(expected, take(cpu, "exact", start, 2), strict=True):
        assert torch.equal(ours, again)
