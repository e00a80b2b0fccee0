"""What param groups take, at construction, later and on load, and their two names of a rate."""

import copy
import math

import pytest
import torch

from fasttrain_kernels import FusedSGD, SphereSGD

from .optimizer_cases import CLOSE, MAKERS, flat, parameters, refresh

NAN = torch.tensor(math.nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elr": torch.tensor(-1.0)}, "learning rate -1.0: must be at least 0"),
        ({"elr": NAN}, "learning rate nan"),
        ({"lr": torch.tensor([0.1, -0.1]), "num_models": 2}, "learning rate"),
        ({"elr": 0.1, "radius": math.nan}, "radius=nan: must be above 0"),
        ({"elr": 0.1, "radius": math.inf}, "radius=inf"),
        ({"elr": 0.1, "radius": torch.tensor(-2.0)}, "radius=-2.0"),
        ({"elr": 0.1, "radius": NAN}, "radius=nan"),
        ({"elr": 0.1, "radius": torch.ones(2)}, r"a radius of shape \(2,\)"),
        ({"elr": 0.1, "radius": torch.ones(1), "scope": "group"}, r"a radius of shape \(1,\)"),
        ({"elr": 0.1, "projection": "deferred", "scope": "group"}, "needs scope='joint'"),
    ],
)
def test_wrong_values_are_refused_at_construction(options, message):
    params = parameters()
    params[0].data = params[0].data[:6]
    if options.get("num_models") == 2:
        params = params[:3]
    with pytest.raises(ValueError, match=message):
        SphereSGD(params, **options)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", -1.0, "learning rate -1.0"),
        ("lr", NAN, "learning rate nan"),
        ("elr", -1.0, "learning rate -1.0"),
        ("radius", 0.0, "radius="),
        ("radius", torch.ones(3), r"a radius of shape \(3,\)"),
        ("momentum", 2.0, "momentum=2.0"),
        ("scope", "all", "scope='all'"),
    ],
)
def test_wrong_values_are_refused_later(option, value, message):
    group = SphereSGD(parameters(), elr=0.1).param_groups[0]
    before = dict(group)
    with pytest.raises(ValueError, match=message):
        group[option] = value
    with pytest.raises(ValueError, match=message):
        group.update({option: value})
    assert dict(group) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", math.nan, "learning rate nan"),
        ("radius", torch.tensor([-1.0]), "radius="),
        ("radius", torch.ones(3), r"a radius of shape \(3,\)"),
        ("radius", None, "a radius of shape None"),
    ],
)
def test_wrong_values_are_refused_on_load_before_anything_changes(option, value, message):
    optimizer = SphereSGD(parameters(), elr=0.1, momentum=0.9)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0][option] = value
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"][0]["lr"] == before["param_groups"][0]["lr"]
    assert torch.equal(after["param_groups"][0]["radius"], before["param_groups"][0]["radius"])
    refresh(optimizer.param_groups[0]["params"], 2)
    optimizer.step()


def test_elr_is_another_name_of_an_effective_rate():
    ours, expected = parameters(), parameters()
    optimizer, other = SphereSGD(ours, elr=0.01), SphereSGD(expected, elr=0.5)
    group = other.param_groups[0]
    assert group["elr"] == group["lr"] == 0.5
    group["elr"] = 0.01
    assert group["elr"] == group["lr"] == 0.01 and "elr" not in other.state_dict()["param_groups"]
    optimizer.step()
    other.step()
    assert torch.equal(flat(ours), flat(expected))


def test_elr_makes_a_raw_rate_effective():
    ours, expected = parameters(), parameters()
    optimizer, other = SphereSGD(ours, lr=0.5), SphereSGD(expected, elr=0.01)
    with pytest.raises(KeyError):
        optimizer.param_groups[0]["elr"]
    optimizer.step()
    other.param_groups[0].update(lr=0.5, effective=False)
    other.step()
    optimizer.param_groups[0]["elr"] = 0.01
    other.param_groups[0].update(elr=0.01)
    optimizer.step()
    other.step()
    assert torch.equal(flat(ours), flat(expected))


def test_plain_groups_have_no_effective_rate():
    for optimizer in (FusedSGD(parameters(), 0.1), MAKERS["mixed"](parameters())):
        with pytest.raises(ValueError, match="only a param group on a sphere"):
            optimizer.param_groups[-1]["elr"] = 0.1


def test_schedulers_set_an_effective_rate():
    optimizer = SphereSGD(parameters(), elr=0.04)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["elr"] == 0.02
    optimizer.step()
    assert (1 / optimizer.statistics().elr).sum().item() == pytest.approx(1 / 0.02, rel=1e-12)


def test_a_radius_can_be_set_later():
    params = parameters()
    optimizer = SphereSGD(params, elr=0.01)
    optimizer.param_groups[0]["radius"] = 3.0
    optimizer.step()
    torch.testing.assert_close(flat(params).norm(), flat(params).new_tensor(3.0), **CLOSE)


def test_groups_survive_copies():
    optimizer = copy.deepcopy(SphereSGD(parameters(), elr=0.01))
    optimizer.param_groups[0]["elr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.param_groups[0]["elr"] = -0.5
