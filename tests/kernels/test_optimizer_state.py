"""What our optimisers keep, refuse and show: state, copies, memory formats, options."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from fasttrain_kernels import FusedSGD, SphereSGD

from .optimizer_cases import BACKENDS, CLOSE, MAKERS, copied, flat, parameters, refresh


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("saved", BACKENDS)
@pytest.mark.parametrize("loaded", BACKENDS)
def test_state_goes_on_in_another_optimiser(maker, saved, loaded):
    """Bit for bit from one backend to the same, and the same state in any other."""
    params = parameters()
    optimizer = MAKERS[maker](params, backend=saved)
    optimizer.step()
    refresh(params, 5)
    optimizer.step()
    twins = copied(params)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    other = MAKERS[maker](twins, backend=loaded)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for before, after in zip(
        tensors_in(optimizer.state_dict()), tensors_in(other.state_dict()), strict=True
    ):
        assert torch.equal(before, after)
    for opt, own in ((optimizer, params), (other, twins)):
        refresh(own, 7)
        opt.step()
    if saved == loaded:
        assert torch.equal(flat(params), flat(twins))
    else:
        torch.testing.assert_close(flat(params), flat(twins), **CLOSE)


def tensors_in(value) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)):
        return []
    return [tensor for item in values for tensor in tensors_in(item)]


@pytest.mark.parametrize("maker", MAKERS)
def test_copies_and_pickles_step_alike(maker):
    params = parameters()
    optimizer = MAKERS[maker](params, backend="reference")
    optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    buffer.seek(0)
    twins = [copy.deepcopy(optimizer), torch.load(buffer, weights_only=False)]
    refresh(params, 3)
    optimizer.step()
    for twin in twins:
        assert twin.backend == "reference"
        theirs = [p for group in twin.param_groups for p in group["params"]]
        refresh(theirs, 3)
        twin.step()
        assert torch.equal(flat(theirs), flat(params))


@pytest.mark.parametrize("maker", MAKERS)
def test_memory_formats_need_no_copy(maker):
    plain, strided = parameters(), parameters()
    for p in strided:
        if p.ndim == 4:
            p.data = p.data.to(memory_format=torch.channels_last)
    strided[1].data = strided[1].data.t().contiguous().t()
    for params in (plain, strided):
        optimizer = MAKERS[maker](params)
        for step in range(2):
            refresh(params, step)
            before = [p.data_ptr() for p in params]
            optimizer.step()
            assert before == [p.data_ptr() for p in params]
    torch.testing.assert_close(flat(plain), flat(strided), **CLOSE)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_new_memory_format_or_type_between_steps(maker):
    params, expected = parameters(), parameters()
    optimizer, other = MAKERS[maker](params), MAKERS[maker](expected)
    optimizer.step()
    other.step()
    params[0].data = params[0].data.to(memory_format=torch.channels_last)
    for own in (params, expected):
        refresh(own, 4)
    optimizer.step()
    other.step()
    torch.testing.assert_close(flat(params), flat(expected), **CLOSE)
    for p in params:
        p.data = p.data.float()
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert flat(params).isfinite().all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_parameter_frozen_half_way_keeps_its_direction(momentum):
    params = parameters()
    optimizer = SphereSGD(params, elr=0.01, momentum=momentum)
    optimizer.step()
    params[0].requires_grad_(False)
    params[0].grad = None
    before, total = params[0].detach().clone(), flat(params).norm()
    for step in range(3):
        refresh(params[1:], step)
        optimizer.step()
    cosine = nn.functional.cosine_similarity(before.flatten(), params[0].detach().flatten(), dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(flat(params).norm(), total)


def test_param_groups_can_be_added():
    params = parameters()
    optimizer = SphereSGD(params[:1], elr=0.01)
    optimizer.step()
    optimizer.add_param_group({"params": params[1:2], "elr": 0.1, "scope": "group"})
    optimizer.add_param_group({"params": params[2:], "sphere": False, "lr": 0.1})
    optimizer.step()
    elr = optimizer.statistics().elr
    torch.testing.assert_close(elr[6:10], torch.full_like(elr[6:10], 0.1))
    with pytest.raises(ValueError, match="needs its own lr"):
        optimizer.add_param_group({"params": parameters(), "sphere": False})
    with pytest.raises(ValueError, match="either lr or elr"):
        optimizer.add_param_group({"params": parameters(), "lr": 0.1, "elr": 0.1})
    with pytest.raises(ValueError, match="weight_decay needs sphere=False"):
        optimizer.add_param_group({"params": parameters(), "weight_decay": 0.1})
    assert len(optimizer.param_groups) == 3


@pytest.mark.parametrize("maker", MAKERS)
def test_sparse_gradients_are_refused_before_anything_moves(maker):
    params = parameters()
    optimizer = MAKERS[maker](params)
    before = flat(params)
    params[3].grad = torch.ones(9, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="do not support sparse gradients"):
        optimizer.step()
    assert torch.equal(flat(params), before)


def test_moved_parameters_are_refused():
    """As if the parameters had been moved to the CPU: their radius or momentum is elsewhere."""
    sphere, plain = MAKERS["exact"](parameters()), MAKERS["sgd"](parameters())
    plain.step()
    sphere.param_groups[0]["radius"] = torch.ones(1, device="meta")
    for state in plain.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].to("meta")
    for optimizer in (sphere, plain):
        before = flat(optimizer.param_groups[0]["params"])
        with pytest.raises(ValueError, match="move the model before making its optimiser"):
            optimizer.step()
        assert torch.equal(flat(optimizer.param_groups[0]["params"]), before)


def test_bad_gradients_and_options_of_fused_sgd():
    for options, message in [
        ({"lr": -1.0}, "learning rate"),
        ({"lr": 0.1, "momentum": -1.0}, "momentum=-1.0"),
        ({"lr": 0.1, "nesterov": True}, "nesterov"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"lr": 0.1, "weight_decay": torch.tensor([-1.0])}, r"weight_decay=\[-1.0\]"),
        ({"lr": 0.1, "weight_decay": torch.ones(3)}, r"weight decay of shape \(3,\)"),
        ({"lr": 0.1, "num_models": 2}, "num_models=2"),
        ({"lr": 0.1, "num_models": 0}, "num_models=0"),
        ({"lr": torch.ones(3)}, r"shape \(3,\)"),
        ({"lr": 0.1, "groups": "layer"}, "groups='layer'"),
        ({"lr": 0.1, "backend": "cuda"}, "backend='cuda'"),
        ({"lr": 0.1, "backend": "triton"}, "backend='triton' takes"),
    ]:
        with pytest.raises(ValueError, match=message):
            FusedSGD(parameters(), **options)
    with pytest.raises(ValueError, match="floating-point"):
        FusedSGD([nn.Parameter(torch.zeros(3, dtype=torch.cfloat))], 0.1)


def test_backend_is_chosen_by_device_and_type_and_shown():
    assert "backend: numba" in repr(FusedSGD(parameters(), 0.1))
    assert "backend: reference" in repr(SphereSGD(parameters(), elr=0.1, backend="reference"))
    halves = [nn.Parameter(torch.ones(3, dtype=torch.float16)), nn.Parameter(torch.ones(3))]
    optimizer = FusedSGD(halves, 0.1)
    assert "backend: reference" in repr(optimizer)
    for p in halves:
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(halves[1].detach(), torch.full((3,), 0.9))
