"""`FusedSGD` takes what `torch.optim.SGD` takes: torch's own inputs, options, states, tensors."""

import copy
import io
import itertools
import warnings

import pytest
import torch
from torch import nn

from fasttrain_kernels import FusedSGD, SphereSGD

from .optimizer_cases import copied, flat, parameters, refresh

# Of a type with few digits every operation of torch's rounds, ours once per step.
TOLERANCES = {
    torch.float64: dict(rtol=1e-12, atol=1e-14),
    torch.float32: dict(rtol=1e-5, atol=1e-6),
    torch.bfloat16: dict(rtol=2**-6, atol=2**-6),
    torch.float16: dict(rtol=2**-8, atol=2**-8),
}

OPTIONS = {
    "default": {},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "full dampening": {"momentum": 0.9, "dampening": 1.0},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "maximize, momentum": {"maximize": True, "momentum": 0.9, "nesterov": True},
    "momentum of one": {"momentum": 1.0},
    "weight decay as a tensor": {"weight_decay": torch.tensor(0.1)},
    "rate as a tensor": {"lr": torch.tensor([0.01]), "momentum": 0.9, "dampening": 0.1},
    "foreach": {"foreach": True, "momentum": 0.9},
    "foreach, dampening": {"foreach": True, "momentum": 0.9, "dampening": 0.1},
    "fused": {"fused": True, "momentum": 0.9},
    "fused, maximize": {"fused": True, "maximize": True},
}


def torch_inputs(what: str):
    """Those that torch's own tests run over, of this version of torch."""
    pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
    from torch.testing._internal import common_optimizers

    return getattr(common_optimizers, f"optim_{what}_func_sgd")(device="cpu", dtype=torch.float32)


def assert_steps_like_torch(params, options, steps: int = 4) -> None:
    twins = copied(params)
    # torch 2.11's fused step is wrong for momentum of 16 bits: it is compared with the other.
    ours, theirs = FusedSGD(params, **options), torch.optim.SGD(twins, **{**options, "fused": None})
    for step in range(steps):
        for own in (params, twins):
            refresh(own, step)
            # Another one is without a gradient every time, but for the first: torch's fused step
            # fails where only some have momentum.
            if step:
                own[step % len(own)].grad = None
        ours.step()
        theirs.step()
    tolerance = TOLERANCES[params[0].dtype]
    torch.testing.assert_close(flat(params), flat(twins), **tolerance)
    for p, twin in zip(params, twins, strict=True):
        buffer = theirs.state[twin].get("momentum_buffer") if twin in theirs.state else None
        if buffer is not None:
            torch.testing.assert_close(ours.state[p]["momentum_buffer"], buffer, **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("number", range(9))
def test_inputs_of_the_tests_of_torch(number, dtype):
    inputs = torch_inputs("inputs")
    assert len(inputs) == 9, "every input has a case here"
    options = inputs[number].kwargs
    assert_steps_like_torch(parameters(dtype=dtype), {"lr": 1e-3, **options})


def test_error_inputs_of_the_tests_of_torch():
    """The same are refused, with errors of the same types."""
    for case in torch_inputs("error_inputs"):
        given = case.optimizer_error_input
        params = parameters() if given.params is None else given.params
        with warnings.catch_warnings(), pytest.raises(case.error_type):
            warnings.simplefilter("error")
            FusedSGD(params, **given.kwargs)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_torch(options, dtype):
    assert_steps_like_torch(parameters(dtype=dtype), {"lr": 0.01, **options})


def test_positional_arguments_and_defaults_are_those_of_torch():
    ours, theirs = FusedSGD(parameters()), torch.optim.SGD(parameters())
    for name, value in theirs.defaults.items():
        assert ours.defaults[name] == value
    ours = FusedSGD(parameters(), 0.1, 0.9, 0.2, 0.3, False)
    theirs = torch.optim.SGD(parameters(), 0.1, 0.9, 0.2, 0.3, False)
    assert {name: ours.defaults[name] for name in theirs.defaults} == theirs.defaults
    assert FusedSGD(parameters(), capturable=True).defaults["capturable"]


def test_what_excludes_each_other():
    for options in ({"fused": True, "foreach": True}, {"fused": True, "differentiable": True}):
        for kind in (FusedSGD, torch.optim.SGD):
            with pytest.raises(RuntimeError):
                kind(parameters(), **options)
    for kind in (FusedSGD, torch.optim.SGD):
        with pytest.raises(ValueError, match="(?i)nesterov"):
            kind(parameters(), momentum=0.9, dampening=0.1, nesterov=True)
    with pytest.raises(ValueError, match="learning rate per model"):
        FusedSGD(parameters()[:3], torch.ones(2), maximize=True, num_models=2)


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_statistics_are_of_the_step_that_is_taken(options):
    params = parameters()
    before = copied(params)
    optimizer = FusedSGD(params, 0.1, **options)
    optimizer.step()
    found = optimizer.statistics()
    torch.testing.assert_close(found.total_norm, flat(before).norm())
    torch.testing.assert_close(
        found.total_grad_norm, torch.cat([p.grad.flatten() for p in params]).norm()
    )
    for p, old, angle in zip(params[3:], before[3:], found.step_angle[-1:], strict=True):
        cosine = nn.functional.cosine_similarity(p.detach(), old.detach(), dim=0)
        torch.testing.assert_close(angle.cos(), cosine)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_a_weight_decay_per_model(options, backend):
    """A pack steps as its models do alone, whose weight decay is a number."""
    decays = torch.tensor([0.0, 0.1, 0.4])
    rows = [p for p in parameters() if len(p) % 3 == 0]
    given = {"weight_decay": decays, "num_models": 3, "backend": backend}
    packed = FusedSGD(rows, 0.05, **options, **given)
    alone = [[nn.Parameter(p.detach().chunk(3)[m].clone()) for p in rows] for m in range(3)]
    single = [
        FusedSGD(own, 0.05, weight_decay=float(decay), backend=backend, **options)
        for own, decay in zip(alone, decays, strict=True)
    ]
    for step in range(3):
        refresh(rows, step)
        for model, own in enumerate(alone):
            for p, whole in zip(own, rows, strict=True):
                assert whole.grad is not None
                p.grad = whole.grad.chunk(3)[model].clone()
        for optimizer in (packed, *single):
            optimizer.step()
        for model, own in enumerate(alone):
            for p, whole in zip(own, rows, strict=True):
                assert torch.equal(whole.detach().chunk(3)[model], p.detach())


def test_a_weight_decay_may_be_changed_between_steps():
    """In its tensor, or by another one; as torch takes it."""
    params, decay = parameters(), torch.tensor(0.1)
    twins = copied(params)
    ours = FusedSGD(params, 0.1, weight_decay=decay)
    theirs = torch.optim.SGD(twins, 0.1, weight_decay=0.1)
    for value in (0.1, 0.3, 0.0):
        decay.fill_(value)
        theirs.param_groups[0]["weight_decay"] = value
        for own in (params, twins):
            refresh(own, 0)
        ours.step()
        theirs.step()
        torch.testing.assert_close(flat(params), flat(twins), rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match="weight decay of shape"):
        ours.param_groups[0]["weight_decay"] = torch.ones(3)


def test_a_weight_decay_per_model_goes_not_with_steps_of_torch():
    rows = parameters()[:1]
    with pytest.raises(ValueError, match="a weight decay per model goes not with dampening"):
        FusedSGD(rows, 0.1, weight_decay=torch.ones(3), num_models=3, maximize=True)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_differentiable_step(momentum):
    """The gradient of what comes after steps, with respect to what was before and to the rate."""

    def trained(kind, start, lr):
        weight = start.clone()
        optimizer = kind([weight], lr, momentum=momentum, weight_decay=0.1, differentiable=True)
        for step in range(3):
            weight.grad = (start * (step + 1)).cos()
            optimizer.step()
        return weight

    found = []
    for kind in (FusedSGD, torch.optim.SGD):
        start = torch.linspace(-1, 1, 7, dtype=torch.float64, requires_grad=True)
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        # torch writes over the momentum that the gradient of a rate needs.
        end = trained(kind, start, 0.1 if momentum else lr)
        wanted = (start,) if momentum else (start, lr)
        found.append((end, *torch.autograd.grad(end.square().sum(), wanted)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{}, {"dampening": 0.5}, {"maximize": True}])
def test_states_go_to_torch_and_back(options):
    kinds = (FusedSGD, torch.optim.SGD)
    for first, second in itertools.permutations(kinds):
        params = parameters()
        optimizer = first(params, 0.1, momentum=0.9, weight_decay=0.1, **options)
        optimizer.step()
        twins = copied(params)
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        other = second(twins, 0.5)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        for opt, own in ((optimizer, params), (other, twins)):
            refresh(own, 3)
            opt.step()
        torch.testing.assert_close(flat(params), flat(twins), rtol=1e-12, atol=1e-14)


def test_states_of_an_older_version_load():
    """It knew less options: in param groups, and in a pickled optimiser."""
    later = ("dampening", "maximize", "foreach", "differentiable", "fused", "capturable")
    params = parameters()
    optimizer = FusedSGD(params, 0.1, momentum=0.9)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    pickled = optimizer.__getstate__()
    pickled["defaults"] = dict(pickled["defaults"])
    pickled["param_groups"] = [dict(group) for group in pickled["param_groups"]]
    for option in later:
        del state["param_groups"][0][option]
        del pickled["defaults"][option], pickled["param_groups"][0][option]
    del pickled["track"], pickled["backend"]
    other = FusedSGD(copied(params), 0.5)
    other.load_state_dict(state)
    old = FusedSGD.__new__(FusedSGD)
    old.__setstate__(copy.deepcopy(pickled))
    for opt in (optimizer, other, old):
        assert opt.param_groups[0]["dampening"] == 0
        refresh(opt.param_groups[0]["params"], 4)
        opt.step()
        assert torch.equal(flat(opt.param_groups[0]["params"]), flat(params))
    old.add_param_group({"params": parameters(9)})


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"maximize": True, "momentum": 0.9}])
def test_parameters_with_gaps_in_memory(options):
    """As torch takes them; two may lie in between one another."""
    found = []
    for kind in (FusedSGD, torch.optim.SGD):
        memory = torch.randn(
            6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        params = [nn.Parameter(memory[..., i::2]) for i in range(2)]
        assert params[0].stride() == (20, 4, 2)
        optimizer = kind(params, 0.1, weight_decay=0.1, **options)
        for step in range(3):
            refresh(params, step)
            optimizer.step()
        found.append(memory)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_gaps_on_a_sphere_and_in_statistics():
    memory = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    p = nn.Parameter(memory[:, 1:3])
    p.grad = torch.ones(6, 2)
    optimizer = SphereSGD([p], elr=0.1, radius=2.0)
    assert "backend: reference" in repr(optimizer)
    optimizer.step()
    assert float(p.detach().norm()) == pytest.approx(2)
    with pytest.raises(ValueError, match="with gaps in memory"):
        FusedSGD([p], backend="numba")


@pytest.mark.parametrize("kind", [FusedSGD, torch.optim.SGD])
def test_sparse_gradients_raise_as_from_the_fused_step_of_torch(kind):
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        kind([p], 0.1, fused=True).step()


def test_makers_of_optimisers_may_pass_no_weight_decay():
    params = parameters()
    SphereSGD(params, elr=0.1, weight_decay=0).step()
    with pytest.raises(ValueError, match="weight_decay needs sphere=False"):
        SphereSGD(params, elr=0.1, weight_decay=0.1)
