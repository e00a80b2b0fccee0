"""What a step of our optimisers does, for both of them and for every backend of the CPU."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain_kernels import FusedSGD, SphereSGD, TotalsOf, group_statistics

from .optimizer_cases import BACKENDS, CLOSE, MAKERS, flat, parameters, refresh


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fused_sgd_is_torch_sgd(backend, momentum, nesterov):
    options = dict(momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=0.01)
    ours, theirs = parameters(), parameters()
    first, second = (
        FusedSGD(ours, 0.1, backend=backend, **options),
        torch.optim.SGD(theirs, 0.1, **options),
    )
    for step in range(4):
        for params in (ours, theirs):
            refresh(params, step)
            if step == 2:
                params[1].grad = None
        first.step()
        second.step()
    torch.testing.assert_close(flat(ours), flat(theirs), **CLOSE)


def test_a_group_off_the_sphere_is_torch_sgd():
    ours, theirs = parameters(), parameters()
    mixed = MAKERS["mixed"](ours)
    sphere = SphereSGD(theirs[:2], elr=0.01)
    plain = torch.optim.SGD(theirs[2:], 0.1, weight_decay=0.01)
    for _ in range(3):
        mixed.step()
        sphere.step()
        plain.step()
    torch.testing.assert_close(flat(ours), flat(theirs), **CLOSE)
    assert len(mixed.statistics().names) == 6 + 4 + 8 + 1


@pytest.mark.parametrize("maker", ["exact", "deferred", "group", "sgd"])
def test_a_pack_takes_a_rate_and_a_sphere_per_model(maker):
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 3, 3, 3), (3, 8), (9,)]
    packed = [nn.Parameter(torch.randn(s, generator=generator).double()) for s in shapes]
    refresh(packed, 1)
    alone = [[nn.Parameter(p.detach().chunk(3)[m].clone()) for p in packed] for m in range(3)]
    rates = [0.01, 0.02, 0.5]
    make = MAKERS[maker]
    optimizer = make(packed, num_models=3)
    optimizer.param_groups[0]["lr"] = torch.tensor(rates, dtype=torch.float64)
    others = [make(params) for params in alone]
    for other, rate in zip(others, rates, strict=True):
        other.param_groups[0]["lr"] = rate
    for step in range(3):
        refresh(packed, step)
        for m, (params, other) in enumerate(zip(alone, others, strict=True)):
            for p, whole in zip(params, packed, strict=True):
                p.grad = whole.grad.chunk(3)[m].clone()
            other.step()
        optimizer.step()
    for m, params in enumerate(alone):
        torch.testing.assert_close(flat(params), flat([p.chunk(3)[m] for p in packed]), **CLOSE)
    total = optimizer.statistics().total_norm
    expected = torch.stack([other.statistics().total_norm for other in others])
    torch.testing.assert_close(total, expected)
    assert len(optimizer.statistics().to_dict()["total_norm"]) == 3


@pytest.mark.parametrize("rate", ["lr", "elr"])
def test_tensor_rates_follow_schedulers(rate):
    ours, expected = parameters(), parameters()
    value = torch.tensor(0.01, dtype=torch.float64)
    results = []
    for params, given in ((ours, value), (expected, 0.01)):
        optimizer = SphereSGD(params, **{rate: given}, momentum=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        results.append(flat(params))
    torch.testing.assert_close(*results, **CLOSE)


class NoHostRead(TorchDispatchMode):
    """Fails when a tensor's value is read on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "equal", "is_nonzero", "nonzero"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_steps_and_statistics_read_nothing_on_the_host(maker, backend):
    params = parameters()
    optimizer = MAKERS[maker](params, backend=backend)
    with NoHostRead():
        for _ in range(5):
            optimizer.step()
            statistics = optimizer.statistics()
    with pytest.raises(AssertionError), NoHostRead():
        statistics.norm[0].item()


def test_deferred_notices_other_writers():
    params, expected = parameters(), parameters()
    deferred = SphereSGD(params, elr=0.01, projection="deferred", momentum=0.9)
    exact = SphereSGD(expected, elr=0.01, momentum=0.9)
    for optimizer, own in ((deferred, params), (exact, expected)):
        optimizer.step()
        with torch.no_grad():
            for p in own:
                p.mul_(3.0)
        optimizer.projected_()
        with torch.no_grad():
            own[0].add_(1.0)
        optimizer.projected_()
        optimizer.step()
        optimizer.projected_()
    torch.testing.assert_close(flat(params), flat(expected), **CLOSE)


def test_a_projected_working_copy():
    params, expected = parameters(dtype=torch.float32), parameters(dtype=torch.float32)
    deferred = SphereSGD(params, elr=0.05, projection="deferred")
    exact = SphereSGD(expected, elr=0.05)
    deferred.step()
    exact.step()
    before = flat(params)
    copies = [torch.full_like(p, math.nan, dtype=torch.bfloat16) for p in params]
    deferred.projected_(copies)
    assert torch.equal(flat(params), before)
    torch.testing.assert_close(flat(copies).float(), flat(expected), rtol=2**-8, atol=0)


def test_statistics_without_a_step():
    params = parameters()
    grads = [p.grad for p in params]
    names = ["a", "b", "c", "d"]
    optimizer = SphereSGD(list(zip(names, params, strict=True)), lr=0.05)
    found = group_statistics(params, grads, 0.05, names=names)
    optimizer.step()
    expected = optimizer.statistics()
    assert found.names == expected.names
    for field in ("norm", "grad_norm", "elr", "step_angle", "total_norm"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))
    alone = group_statistics(params)
    torch.testing.assert_close(alone.total_norm, flat(params).norm())
    assert (alone.grad_norm == 0).all() and (alone.step_angle == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_totals_again_and_again_are_those_of_statistics(backend):
    params = [torch.randn(4, 3, 2), torch.randn(2, 5), torch.randn(6)]
    totals = TotalsOf(params, num_models=2, backend=backend)
    for _ in range(2):
        grads = [torch.randn(p.shape) for p in params]
        expected = group_statistics(params, grads, num_models=2, backend=backend)
        found = totals(grads)
        assert torch.equal(found.norm, expected.total_norm)
        assert torch.equal(found.grad_norm, expected.total_grad_norm)
        # They say where the tensors were, and add what the norms make where they are told to.
        sums, product = totals.sums(grads), torch.ones(2, dtype=torch.float64)
        params[0].mul_(2.0)
        later = totals.totals(sums, product)
        assert all(map(torch.equal, later, found))
        torch.testing.assert_close(product, 1 + (found.norm * found.grad_norm).double())
    with pytest.raises(ValueError, match="shape"):
        totals([torch.ones(3), *grads[1:]])
    with pytest.raises(ValueError, match="a product of norms is"):
        totals.totals(sums, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_deferred_is_exact_over_200_steps(momentum):
    """With a tiny normaliser eps and a smooth network, where the forward pass is invariant."""
    finals, norms = [], []
    for projection in ("exact", "deferred"):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8, eps=1e-30, affine=False),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, bias=False),
            nn.BatchNorm2d(8, eps=1e-30, affine=False),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(8 * 4, 4).requires_grad_(False),
        ).double()
        x = torch.randn(16, 3, 6, 6, dtype=torch.float64)
        y = torch.randint(4, (16,))
        weights = [model[0].weight, model[3].weight]
        optimizer = SphereSGD(
            weights, elr=1e-3, radius=2.0, projection=projection, momentum=momentum
        )
        optimizer.projected_()
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        optimizer.projected_()
        finals.append(flat(weights))
        norms.append(optimizer.statistics().grad_norm)
    torch.testing.assert_close(*finals, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(*norms, rtol=1e-9, atol=1e-11)
