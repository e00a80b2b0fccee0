"""`OnSphere`: spheres hold whatever steps, and steps are those of torch's own optimisers."""

import copy
import math

import pytest
import torch
from torch import nn

from fasttrain_kernels import OnSphere, SphereSGD

from .spheres import KINDS, WRAPPED, close, loss_of, norms, train, weights


@pytest.mark.parametrize("riemannian", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_every_step_ends_on_the_spheres(wrapped, kind, riemannian):
    parameters = weights()
    before, at = norms(parameters, kind), loss_of(parameters).item()
    optimizer = OnSphere(WRAPPED[wrapped](parameters), riemannian=riemannian, **KINDS[kind])
    for _ in range(4):
        train(optimizer, parameters, steps=1)
        close(norms(parameters, kind), before)
    assert loss_of(parameters).item() < at


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_wrapped_optimiser_projected(kind):
    ours, plain = weights(), weights()
    radius = norms(ours, kind)
    optimizer, adam = OnSphere(WRAPPED["adam"](ours), **KINDS[kind]), WRAPPED["adam"](plain)
    train(optimizer, ours, steps=1)
    train(adam, plain, steps=1)
    factor = radius / norms(plain, kind)
    rows = [1] if kind == "joint" else [len(p) if kind == "rows" else 1 for p in plain]
    factors = list(factor) * 3 if kind == "joint" else factor.split(rows)
    for a, b, f in zip(ours, plain, factors, strict=True):
        close(a, b * (f[:, None] if kind == "rows" else f))


def test_sgd_on_a_joint_sphere_is_sphere_sgd_with_its_statistics():
    ours, theirs = weights(), weights()
    wrapped = OnSphere(torch.optim.SGD(ours, lr=0.01), track=True)
    fused = SphereSGD(theirs, lr=0.01)
    train(wrapped, ours)
    train(fused, theirs)
    close(ours, theirs)
    for name in ("norm", "grad_norm", "elr", "step_angle", "total_norm", "total_grad_norm"):
        close(getattr(wrapped.statistics(), name), getattr(fused.statistics(), name), 1e-11)
    assert wrapped.statistics().names == fused.statistics().names


def test_the_step_angle_is_that_turned_whatever_was_stepped_and_however_little():
    parameters = weights(dtype=torch.float32)
    optimizer = OnSphere(
        torch.optim.Adam(parameters, lr=1e-5), scope="group", groups="tensor", track=True
    )
    before = [p.detach().double() for p in parameters]
    train(optimizer, parameters, steps=1)
    for angle, a, b in zip(optimizer.statistics().step_angle, before, parameters, strict=True):
        a, b = a / a.norm(), b.detach().double() / b.detach().double().norm()
        exact = 2 * math.asin(float((a - b).norm()) / 2)
        assert exact > 0
        assert abs(float(angle) - exact) < 1e-3 * exact


def test_schedulers_scalers_and_parameters_off_the_sphere():
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1))
    bias = [network[0].bias, network[1].bias]
    groups = [
        {"params": [network[0].weight, network[1].weight]},
        {"params": bias, "sphere": False, "lr": 0.5},
    ]
    optimizer = OnSphere(torch.optim.SGD(groups, lr=0.1), radius=3.0)
    optimizer.projected_()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(network(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0.1
    assert optimizer.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    joint = torch.cat([network[0].weight.flatten(), network[1].weight.flatten()]).norm()
    torch.testing.assert_close(joint, torch.tensor(3.0))
    assert not optimizer.param_groups[1]["sphere"]
    # An overflow is no step.
    before = [p.detach().clone() for p in network.parameters()]
    scaler.scale(network(x).square().mean() * math.inf).backward()
    scaler.step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_states_go_on_bit_for_bit(kind):
    ours = weights()
    optimizer = OnSphere(WRAPPED["adam"](ours), **KINDS[kind])
    train(optimizer, ours)
    twins = [nn.Parameter(p.detach().clone()) for p in ours]
    twin = OnSphere(WRAPPED["adam"](twins), **KINDS[kind])
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pair = copy.deepcopy((ours, optimizer))
    for parameters, other in ((ours, optimizer), (twins, twin), pair):
        train(other, parameters)
    for other in (twins, pair[0]):
        assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


def test_a_state_of_the_wrapped_optimiser_keeps_the_spheres():
    ours, plain = weights(), weights(1)
    adam = WRAPPED["adam"](plain)
    train(adam, plain)
    optimizer = OnSphere(WRAPPED["adam"](ours), radius=2.0)
    optimizer.load_state_dict(adam.state_dict())
    train(optimizer, ours)
    close(norms(ours, "joint"), torch.tensor([2.0], dtype=torch.float64))


def test_a_state_of_other_spheres_is_refused_and_changes_nothing():
    ours, other = weights(), weights()
    joint = OnSphere(WRAPPED["adam"](ours))
    rows = OnSphere(WRAPPED["adam"](other), scope="group")
    train(rows, other)
    before = copy.deepcopy(joint.state_dict())
    with pytest.raises(ValueError, match="1 spheres; the state to be loaded has 18"):
        joint.load_state_dict(rows.state_dict())
    assert str(joint.state_dict()) == str(before)


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_learning_rate_of_zero_moves_nothing(lr):
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    train(OnSphere(torch.optim.Adam(parameters, lr=lr), radius=1.0), parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_parameters_without_a_gradient_share_the_joint_sphere_and_do_not_turn():
    parameters = weights()
    optimizer = OnSphere(torch.optim.SGD(parameters, lr=0.1), track=True, riemannian=True)
    before = norms(parameters, "joint")
    parameters[0].grad = torch.ones_like(parameters[0])
    direction = parameters[1].detach() / parameters[1].detach().norm()
    optimizer.step()
    close(norms(parameters, "joint"), before)
    close(parameters[1].detach() / parameters[1].detach().norm(), direction)


def test_torch_sees_that_parameters_changed():
    weight = nn.Parameter(torch.ones(3, 3))
    loss = weight.square().sum()
    weight.grad = torch.ones(3, 3)
    OnSphere(torch.optim.SGD([weight], lr=0.1)).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_wrong_is_refused_with_what_is_allowed():
    sgd = lambda p=None: torch.optim.SGD(p or weights(), lr=0.1)  # noqa: E731
    for options, message in [
        ({"radius": 0.0}, "above 0"),
        ({"radius": math.nan}, "above 0"),
        ({"radius": torch.ones(2)}, r"0-d or \(1,\)"),
        ({"scope": "each"}, "allowed are joint, group"),
        ({"groups": "row"}, "allowed are filter, tensor"),
        ({"num_models": 5}, "divide into num_models=5"),
        ({"num_models": 0}, "at least 1"),
        ({"backend": "cuda"}, "allowed are"),
    ]:
        with pytest.raises(ValueError, match=message):
            OnSphere(sgd(), **options)
    with pytest.raises(ValueError, match="wraps a torch optimiser; got list"):
        OnSphere(weights())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="non-zero norm"):
        OnSphere(sgd([nn.Parameter(torch.zeros(3, 2))]))
    with pytest.raises(ValueError, match="floating-point type; got torch.complex64"):
        OnSphere(sgd([nn.Parameter(torch.ones(3, dtype=torch.complex64))]))
    with pytest.raises(RuntimeError, match="needs track=True"):
        OnSphere(sgd()).statistics()


def test_gradients_that_are_not_their_parameters_are_refused_before_anything_moves():
    parameters = weights()
    optimizer = OnSphere(torch.optim.SGD(parameters, lr=0.1), track=True)
    loss_of(parameters).backward()
    parameters[1].data = torch.ones(7, 3, dtype=torch.float64)
    before = parameters[0].detach().clone()
    with pytest.raises(ValueError, match="has a gradient of shape"):
        optimizer.step()
    assert torch.equal(parameters[0], before)


def test_added_param_groups_get_spheres_of_their_own():
    parameters, added = weights(), weights(1)
    optimizer = OnSphere(torch.optim.SGD(parameters, lr=0.1))
    optimizer.add_param_group({"params": added, "radius": 5.0})
    with pytest.raises(ValueError, match="above 0"):
        optimizer.add_param_group({"params": weights(2), "radius": -1.0})
    assert len(optimizer.param_groups) == len(optimizer.optimizer.param_groups) == 2
    train(optimizer, parameters + added)
    close(norms(added, "joint"), torch.tensor([5.0], dtype=torch.float64))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed package")
def test_asking_a_fresh_optimiser_for_its_state_moves_no_weights():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    optimizer = OnSphere(torch.optim.Adam(model.parameters(), lr=0.1), radius=5.0)
    state = get_optimizer_state_dict(model, optimizer)
    assert set(state["state"]) == {"weight", "bias"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_is_saved_and_loaded_whole(tmp_path):
    ours = weights()
    optimizer = OnSphere(WRAPPED["adam"](ours), scope="group")
    train(optimizer, ours)
    torch.save((ours, optimizer), tmp_path / "all.pt")
    twins, twin = torch.load(tmp_path / "all.pt", weights_only=False)
    assert twin.param_groups is twin.optimizer.param_groups
    train(optimizer, ours)
    train(twin, twins)
    assert all(torch.equal(a, b) for a, b in zip(ours, twins, strict=True))
