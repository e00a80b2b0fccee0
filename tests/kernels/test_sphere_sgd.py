"""`SphereSGD` against the published formula, its identities, and the habits of torch optimisers."""

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from fasttrain_kernels import SphereSGD

SHAPES = [(6, 3, 3, 3), (5, 6, 1, 1), (4, 7), (9,)]

# Optimiser and formula round differently in a handful of operations on numbers near 1.
TOLERANCES = {
    torch.float64: dict(rtol=1e-12, atol=1e-14),
    torch.float32: dict(rtol=2e-6, atol=1e-7),
}


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in SHAPES]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return made


def flat(tensors: list[nn.Parameter]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def flat_grad(tensors: list[nn.Parameter]) -> Tensor:
    return torch.cat([t.grad.flatten() for t in tensors if t.grad is not None])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("radius", [None, 3.0])
def test_one_step_is_the_published_formula(dtype, radius):
    params = parameters(dtype)
    theta, grad = flat(params).double(), flat_grad(params).double()
    rho = float(theta.norm()) if radius is None else radius
    elr = 1e-3
    moved = theta - elr * rho**2 * grad
    SphereSGD(params, elr=elr, radius=radius).step()
    torch.testing.assert_close(
        flat(params).double(), rho * moved / moved.norm(), **TOLERANCES[dtype]
    )


def test_raw_and_effective_rates_agree():
    raw, effective = parameters(), parameters()
    SphereSGD(raw, lr=0.05, radius=5.0).step()
    SphereSGD(effective, elr=0.05 / 25, radius=5.0).step()
    torch.testing.assert_close(flat(raw), flat(effective), **TOLERANCES[torch.float64])


@pytest.mark.parametrize("groups", ["filter", "tensor"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("scope", "projection"), [("joint", "exact"), ("joint", "deferred"), ("group", "exact")]
)
def test_norms_stay_the_radius(groups, momentum, projection, scope):
    params = parameters()
    optimizer = SphereSGD(
        params, elr=0.01, momentum=momentum, groups=groups, projection=projection, scope=scope
    )
    before = [p.detach().flatten(1).norm(dim=1) if p.ndim > 1 else p.norm() for p in params]
    total = flat(params).norm()
    for _ in range(5):
        optimizer.step()
    optimizer.projected_()
    torch.testing.assert_close(flat(params).norm(), total)
    if scope == "group" and groups == "filter":
        after = [p.detach().flatten(1).norm(dim=1) if p.ndim > 1 else p.norm() for p in params]
        for left, right in zip(before, after, strict=True):
            torch.testing.assert_close(left, right)


def test_group_scope_has_one_effective_rate():
    params = parameters()
    optimizer = SphereSGD(params, elr=0.02, scope="group")
    optimizer.step()
    elr = optimizer.statistics().elr
    torch.testing.assert_close(elr, torch.full_like(elr, 0.02))


def test_deferred_projection_reads_what_exact_wrote():
    exact, deferred = parameters(), parameters()
    first = SphereSGD(exact, elr=0.01)
    second = SphereSGD(deferred, elr=0.01, projection="deferred")
    copies = [torch.empty_like(p) for p in deferred]
    for _ in range(4):
        first.step()
        # The gradients are those at the projected parameters.
        second.projected_(copies)
        second.step()
    assert not torch.allclose(flat(exact), flat(deferred))
    second.projected_()
    torch.testing.assert_close(flat(exact), flat(deferred), **TOLERANCES[torch.float64])


def test_momentum_is_that_of_torch_sgd_between_projections():
    ours, theirs = parameters(), parameters()
    optimizer = SphereSGD(ours, lr=0.01, momentum=0.9)
    sgd = torch.optim.SGD(theirs, lr=0.01, momentum=0.9)
    rho = flat(theirs).norm()
    for _ in range(3):
        optimizer.step()
        sgd.step()
        with torch.no_grad():
            factor = rho / flat(theirs).norm()
            for parameter in theirs:
                parameter.mul_(factor)
    torch.testing.assert_close(flat(ours), flat(theirs), **TOLERANCES[torch.float64])


def test_effective_rates_of_groups_sum_to_the_joint_one():
    params = parameters()
    optimizer = SphereSGD(params, elr=0.003)
    optimizer.step()
    elr = optimizer.statistics().elr
    assert (1 / elr).sum().item() == pytest.approx(1 / 0.003, rel=1e-12)


def test_group_norm_dynamics():
    """With orthogonal gradients every group grows by eta^2 ||g_i||^2, then all shrink alike."""
    params = parameters()[:3]
    for p in params:
        rows, grads = p.detach().flatten(1), p.grad.flatten(1)
        along = (rows * grads).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True)
        p.grad = (grads - along * rows).reshape(p.shape)
    eta = 0.02
    optimizer = SphereSGD(params, lr=eta)
    rho2, grad2 = flat(params).square().sum(), flat_grad(params).square().sum()
    optimizer.step()
    statistics = optimizer.statistics()
    expected = (
        (statistics.norm**2 + eta**2 * statistics.grad_norm**2) * rho2 / (rho2 + eta**2 * grad2)
    )
    after = torch.cat([p.detach().flatten(1).square().sum(1) for p in params])
    torch.testing.assert_close(after, expected, **TOLERANCES[torch.float64])


def test_statistics_describe_the_point_of_the_gradient():
    params = parameters()
    start = [p.detach().clone() for p in params]
    optimizer = SphereSGD(params, lr=0.05, scope="group")
    optimizer.step()
    statistics = optimizer.statistics()
    assert len(statistics.names) == 6 + 5 + 4 + 1 == len(statistics.norm)
    torch.testing.assert_close(statistics.norm[:6], start[0].flatten(1).norm(dim=1))
    torch.testing.assert_close(
        statistics.total_norm, torch.cat([s.flatten() for s in start]).norm()
    )
    turned = nn.functional.cosine_similarity(start[0].flatten(1), params[0].detach().flatten(1))
    torch.testing.assert_close(statistics.step_angle[:6], turned.clamp(max=1).acos())
    plain = statistics.to_dict()
    assert plain["names"] == statistics.names
    assert plain["elr"] == statistics.elr.tolist()
    assert plain["total_norm"] == statistics.total_norm.item()


def test_names_come_from_named_parameters():
    layer = nn.Conv2d(2, 3, 1, bias=False)
    layer(torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer = SphereSGD(layer.named_parameters(), elr=0.1)
    optimizer.step()
    assert optimizer.statistics().names == ["weight[0]", "weight[1]", "weight[2]"]


def test_statistics_before_a_step_is_an_error():
    with pytest.raises(RuntimeError, match="needs a step"):
        SphereSGD(parameters(), elr=0.1).statistics()


def test_a_parameter_without_gradient_stays_on_the_sphere():
    params = parameters()
    total, direction = flat(params).norm(), params[0].detach().clone()
    params[0].grad = None
    SphereSGD(params, elr=0.01).step()
    torch.testing.assert_close(flat(params).norm(), total)
    cosine = nn.functional.cosine_similarity(
        params[0].detach().flatten(), direction.flatten(), dim=0
    )
    assert cosine.item() == pytest.approx(1)


def test_no_gradient_at_all_leaves_the_parameters():
    params = parameters()
    before = flat(params)
    for parameter in params:
        parameter.grad = None
    SphereSGD(params, elr=0.01, radius=1.0).step()
    assert torch.equal(flat(params), before)


def test_nan_gradient_stays_visible():
    params = parameters()
    params[1].grad[0] = math.nan
    SphereSGD(params, elr=0.01).step()
    assert flat(params).isnan().all()


def test_state_dict_round_trip_is_bitwise():
    first, second = parameters(), parameters()
    one = SphereSGD(first, elr=0.01, momentum=0.9)
    two = SphereSGD(second, elr=0.5, momentum=0.1, radius=2.0)
    one.step()
    with torch.no_grad():
        for a, b in zip(first, second, strict=True):
            b.copy_(a)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    one.step()
    two.step()
    assert torch.equal(flat(first), flat(second))


def test_a_deep_copy_steps_alike_and_apart():
    params = parameters()
    optimizer = SphereSGD(params, elr=0.01)
    before = flat(params)
    twin = copy.deepcopy(optimizer)
    copies = twin.param_groups[0]["params"]
    for parameter, original in zip(copies, params, strict=True):
        parameter.grad = original.grad.clone()
    twin.step()
    assert torch.equal(flat(params), before)
    optimizer.step()
    assert torch.equal(flat(params), flat(copies))


def test_a_scheduler_changes_the_rate():
    params, expected = parameters(), parameters()
    optimizer = SphereSGD(params, elr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    optimizer.step()
    scheduler.step()
    other = SphereSGD(expected, elr=0.01)
    other.step()
    other.param_groups[0]["lr"] = 0.001
    for _ in range(2):
        optimizer.step()
        other.step()
    torch.testing.assert_close(flat(params), flat(expected), **TOLERANCES[torch.float64])


def test_a_tensor_rate_and_a_closure():
    params, expected = parameters(), parameters()
    loss = SphereSGD(params, elr=torch.tensor(0.01, dtype=torch.float64)).step(lambda: 7.0)
    assert loss == 7.0
    SphereSGD(expected, elr=0.01).step()
    assert torch.equal(flat(params), flat(expected))


def test_param_groups_are_spheres_of_their_own():
    params = parameters()
    norms = [flat(params[:2]).norm(), flat(params[2:]).norm()]
    optimizer = SphereSGD([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], elr=0.01)
    optimizer.step()
    torch.testing.assert_close(flat(params[:2]).norm(), norms[0])
    torch.testing.assert_close(flat(params[2:]).norm(), norms[1])
    assert len(optimizer.statistics().names) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either lr or elr"),
        ({"lr": 0.1, "elr": 0.1}, "either lr or elr"),
        ({"elr": -1.0}, "learning rate -1.0"),
        ({"elr": math.nan}, "learning rate nan"),
        ({"elr": 0.1, "radius": 0.0}, "radius=0.0"),
        ({"elr": 0.1, "momentum": 1.0}, "momentum=1.0"),
        ({"elr": 0.1, "scope": "all"}, "scope='all': allowed are joint, group"),
        ({"elr": 0.1, "groups": "layer"}, "groups='layer'"),
        ({"elr": 0.1, "projection": "none"}, "projection='none'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SphereSGD(parameters(), **options)


def test_zero_parameters_and_sparse_gradients_are_refused():
    with pytest.raises(ValueError, match="non-zero norm"):
        SphereSGD([nn.Parameter(torch.zeros(3))], elr=0.1)
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        SphereSGD(table.parameters(), elr=0.1).step()
