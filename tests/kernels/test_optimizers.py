"""What a user expects of a torch optimiser, for both of ours and for every backend of the CPU."""

import contextlib
import copy
import io
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrain_kernels import FusedSGD, SphereSGD, group_statistics

# Optimisers and formulas round differently in a handful of fp64 operations on numbers near 1.
CLOSE = dict(rtol=1e-12, atol=1e-14)

MAKERS = {
    "exact": lambda p, **o: SphereSGD(p, elr=0.01, momentum=0.9, **o),
    "deferred": lambda p, **o: SphereSGD(p, elr=0.01, projection="deferred", **o),
    "group": lambda p, **o: SphereSGD(p, elr=0.01, scope="group", nesterov=True, momentum=0.5, **o),
    "sgd": lambda p, **o: FusedSGD(p, 0.01, momentum=0.9, weight_decay=1e-3, **o),
    "mixed": lambda p, **o: SphereSGD(
        [{"params": p[:2]}, {"params": p[2:], "sphere": False, "lr": 0.1, "weight_decay": 0.01}],
        elr=0.01,
        **o,
    ),
}
BACKENDS = ["numba", "reference"]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 3, 3, 3), (4, 7), (8, 2, 1, 1), (9,)]
    made = [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]
    refresh(made, seed + 1)
    return made


def refresh(params: list[nn.Parameter], seed: int) -> None:
    """New gradients."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def copied(params: list[nn.Parameter]) -> list[nn.Parameter]:
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    for twin, p in zip(twins, params, strict=True):
        twin.grad = None if p.grad is None else p.grad.clone()
    return twins


def flat(params) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params])


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
    with pytest.raises(ValueError, match="dense gradients"):
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
        ({"lr": 0.1, "momentum": 1.0}, "momentum=1.0"),
        ({"lr": 0.1, "nesterov": True}, "nesterov"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay=-1.0"),
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


def test_gradient_accumulation_and_closures():
    model = nn.Linear(5, 3).double()
    x = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer = FusedSGD(model.named_parameters(), 0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        for half in x.chunk(2):
            (model(half).square().sum()).backward()
        return model(x).square().sum()

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


@pytest.mark.parametrize("maker", ["exact", "sgd"])
def test_grad_scaler_skips_an_overflow(maker):
    params = parameters(dtype=torch.float32)
    optimizer = MAKERS[maker](params)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    twins = copied(params)
    MAKERS[maker](twins).step()
    scaler.scale(torch.zeros(()))
    for p in params:
        p.grad.mul_(8.0)
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(flat(params), flat(twins))
    before = flat(params)
    params[0].grad[0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(flat(params), before)


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


def test_torch_sees_that_parameters_changed():
    weight = nn.Parameter(torch.ones(3, 3))
    loss = weight.square().sum()
    weight.grad = torch.ones(3, 3)
    optimizer = SphereSGD([weight], elr=0.1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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


@contextlib.contextmanager
def one_process_group(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed package")
@pytest.mark.parametrize("view", [False, True])
def test_distributed_data_parallel(tmp_path, view):
    def train(wrap) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).double()
        wrapped = wrap(model)
        optimizer = SphereSGD(model.named_parameters(), elr=1e-3, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(torch.ones(2, 3, 6, 6, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        return flat(model.parameters())

    with one_process_group(tmp_path):
        parallel = train(lambda m: DistributedDataParallel(m, gradient_as_bucket_view=view))
    torch.testing.assert_close(parallel, train(lambda m: m), **CLOSE)


@pytest.mark.parametrize("maker", ["exact", "deferred", "sgd"])
def test_a_compiled_training_step_may_call_the_optimiser(maker):
    """It breaks the graph and steps as ever."""

    def train(wrap) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        optimizer = MAKERS[maker](list(model.parameters()))
        batch = torch.randn(7, 6, dtype=torch.float64)

        def step(batch: Tensor) -> Tensor:
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()
            return optimizer.statistics().total_norm

        compiled = wrap(step)
        norms = [compiled(batch) for _ in range(3)]
        return torch.cat([flat(model.parameters()), torch.stack(norms)])

    found = train(lambda step: torch.compile(step, backend="aot_eager"))
    torch.testing.assert_close(found, train(lambda step: step), **CLOSE)


class Doubled(SphereSGD):
    """A user's subclass with a step of its own."""

    def step(self, closure=None):
        super().step(closure)
        return super().step()


@pytest.mark.parametrize("kind", [SphereSGD, Doubled])
def test_hooks_and_profilers_see_every_step_once(kind):
    params, seen = parameters(), []
    optimizer = kind(params, elr=0.01)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: seen.append("before"))
    handle = optimizer.register_step_post_hook(lambda opt, args, kwargs: seen.append("after"))
    every = register_optimizer_step_post_hook(lambda opt, args, kwargs: seen.append("every"))
    try:
        assert optimizer.step(lambda: 3.0) == (3.0 if kind is SphereSGD else None)
    finally:
        every.remove()
    assert seen == ["before", "after", "every"]
    handle.remove()
    optimizer.step()
    assert seen[3:] == ["before"]
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    names = [event.name for event in profile.function_events]
    assert names.count(f"Optimizer.step#{kind.__name__}.step") == 1


def test_the_package_imports_without_its_compilers():
    code = "import sys, fasttrain_kernels; print({'numba', 'triton'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
