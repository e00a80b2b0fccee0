"""`SphereAdam` is Adam, projected; its kernels do what the reference says."""

import copy

import pytest
import torch
from torch import nn

from fasttrain_kernels import OnSphere, SphereAdam
from fasttrain_kernels.step import reference
from fasttrain_kernels.step.cpu import step as cpu
from fasttrain_kernels.step.layout import make_layout

from .optimizer_cases import BACKENDS, flat, parameters, refresh

SPHERES = [("joint", "filter"), ("group", "filter"), ("group", "tensor")]
# Adam's direction of fp32 is rounded otherwise than torch's, and then added to weights of about 3.
CLOSE = {torch.float64: dict(rtol=0, atol=1e-13), torch.float32: dict(rtol=0, atol=3e-6)}
ODD = [(6, 5), (8, 3, 3, 3), (7,), (3, 9000), (1,), (0, 4)]


def pair(dtype: torch.dtype = torch.float64) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    ours = parameters(dtype=dtype)
    return ours, [nn.Parameter(p.detach().clone()) for p in ours]


def train(ours, theirs, optimizers, steps: int = 4, missing: int | None = None) -> None:
    for step in range(steps):
        refresh(ours, step)
        if missing is not None and step % 2:
            ours[missing].grad = None
        for p, twin in zip(ours, theirs, strict=True):
            twin.grad = None if p.grad is None else p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("scope", "groups"), SPHERES)
def test_is_adam_on_spheres(scope, groups, backend, dtype):
    ours, theirs = pair(dtype)
    options = dict(scope=scope, groups=groups)
    optimizer = SphereAdam(ours, 0.02, (0.8, 0.95), 1e-6, backend=backend, **options)
    other = OnSphere(torch.optim.Adam(theirs, 0.02, (0.8, 0.95), 1e-6), track=True, **options)
    train(ours, theirs, (optimizer, other))
    torch.testing.assert_close(flat(ours), flat(theirs), **CLOSE[dtype])
    found, expected = optimizer.statistics().to_dict(), other.statistics().to_dict()
    assert found["names"] == expected["names"]
    for column, values in expected.items():
        if column != "names":
            # The angle of one number is the root of a difference that is 0 but for rounding.
            assert found[column] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert float(optimizer.totals().norm) == found["total_norm"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("missing", [None, 1])
def test_without_a_sphere_it_is_adam(backend, missing):
    ours, theirs = pair()
    optimizer = SphereAdam([{"params": ours, "sphere": False}], 0.02, backend=backend)
    train(ours, theirs, (optimizer, torch.optim.Adam(theirs, 0.02)), missing=missing)
    torch.testing.assert_close(flat(ours), flat(theirs), **CLOSE[torch.float64])
    steps = [int(optimizer.state[p]["step"]) for p in ours]
    assert steps == [4 if index != missing else 2 for index in range(len(ours))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parameter_without_a_gradient_is_only_projected(backend):
    ours, theirs = pair()
    optimizer = SphereAdam(ours, 0.02, backend=backend)
    train(ours, theirs, (optimizer,), steps=1)
    before, moments = ours[1].detach().clone(), copy.deepcopy(optimizer.state[ours[1]])
    ours[1].grad = None
    optimizer.step()
    ratio = ours[1].detach() / before
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-12, atol=0)
    assert all(torch.equal(moments[name], optimizer.state[ours[1]][name]) for name in moments)
    torch.testing.assert_close(
        flat(ours).norm(), optimizer.param_groups[0]["radius"][0], rtol=1e-12, atol=0
    )


def test_states_go_to_and_from_adam():
    ours, theirs = pair()
    optimizer, adam = SphereAdam(ours, 0.02), torch.optim.Adam(theirs, 0.02)
    train(ours, theirs, (optimizer, adam), steps=2)
    radius = optimizer.param_groups[0]["radius"].clone()
    back = torch.optim.Adam(theirs, 0.5)
    back.load_state_dict(optimizer.state_dict())
    assert back.param_groups[0]["lr"] == 0.02
    optimizer.load_state_dict(adam.state_dict())
    assert torch.equal(optimizer.param_groups[0]["radius"], radius)
    for p, twin in zip(ours, theirs, strict=True):
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][name], adam.state[twin][name])
    train(ours, theirs, (optimizer, back), steps=1)


def test_goes_on_bit_for_bit_from_a_state():
    ours, theirs = pair(torch.float32)
    first = SphereAdam(ours, 0.02, scope="group")
    train(ours, theirs, (first,), steps=2)
    again = [nn.Parameter(p.detach().clone()) for p in ours]
    second = SphereAdam(again, 0.5, scope="group")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(ours, again, (first, second), steps=2)
    assert torch.equal(flat(ours), flat(again))


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
def test_a_rate_of_0_moves_nothing(lr):
    ours, _ = pair()
    optimizer = SphereAdam(ours, lr, radius=1.0)
    before = flat(ours).clone()
    optimizer.step()
    assert torch.equal(flat(ours), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(betas=(1.0, 0.9)), "betas="),
        (dict(eps=-1.0), "eps=-1.0"),
        (dict(lr=-1.0), "learning rate"),
        (dict(radius=0.0), "radius=0.0"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        SphereAdam(parameters(), **options)


@pytest.mark.parametrize("option", ["weight_decay", "amsgrad", "maximize"])
def test_refuses_what_it_does_not_do(option):
    params = parameters()
    with pytest.raises(ValueError, match=f"{option}.*SphereAdam has none"):
        SphereAdam([{"params": params, "sphere": False, option: 1}])
    optimizer = SphereAdam(params)
    adam = torch.optim.Adam(params, **{option: True})
    with pytest.raises(ValueError, match=f"{option}.*SphereAdam has none"):
        optimizer.load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="elr"):
        SphereAdam([{"params": params, "elr": 0.1}])


def test_refuses_moments_of_another_shape():
    params = parameters()
    optimizer = SphereAdam(params)
    optimizer.step()
    before = flat(params).clone()
    optimizer.state[params[0]]["exp_avg_sq"] = torch.zeros(2)
    with pytest.raises(ValueError, match="momentum buffer of shape"):
        optimizer.step()
    assert torch.equal(flat(params), before)


@pytest.mark.parametrize("num_models", [1, 2])
@pytest.mark.parametrize("grad_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kernel_errs_no_more_than_the_reference(dtype, grad_dtype, num_models):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_models * first, *rest) for first, *rest in ODD]

    def normal(stored):
        return [torch.randn(shape, generator=generator).to(stored) for shape in shapes]

    thetas, grads = normal(dtype), normal(grad_dtype or dtype)
    grads[1] = None
    moments = normal(dtype) + [t.square() for t in normal(dtype)]
    layout = make_layout(thetas, "filter", num_models)
    eta = 0.1 * torch.rand(num_models, generator=generator, dtype=torch.float64)
    corrections = 1 + torch.rand(len(shapes), 2, generator=generator, dtype=torch.float64)
    found = []
    for backend, stored in ((cpu, dtype), (reference, dtype), (reference, torch.float64)):
        mine = [t.to(stored, copy=True) for t in thetas + moments]
        own = [None if grad is None else grad.to(grad.dtype, copy=True) for grad in grads]
        if stored != dtype:
            own = [None if grad is None else grad.double() for grad in grads]
        count = len(shapes)
        sums = backend.adam_step_(
            mine[:count], own, mine[count:], layout, eta, corrections, betas=(0.9, 0.99), eps=1e-3
        )
        found.append([*mine, sums])
    ulp = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2**-6}[dtype]
    for mine, same, truth in zip(*found, strict=True):
        worst = (same - truth).abs().max() if truth.numel() else 0.0
        least = 1 + (truth.abs().max() if truth.numel() else 0.0)
        assert not mine.numel() or (mine - truth).abs().max() <= worst + ulp * least


def test_threads_change_no_bit():
    both = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params = [nn.Parameter(torch.randn(300, 400, generator=torch.Generator().manual_seed(0)))]
        optimizer = SphereAdam(params, 0.1)
        for _ in range(3):
            params[0].grad = params[0].detach().cos()
            optimizer.step()
        both.append(flat(params))
    torch.set_num_threads(1)
    assert torch.equal(*both)
