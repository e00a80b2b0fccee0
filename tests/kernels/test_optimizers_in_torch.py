"""Our optimisers among the rest of torch: closures, scalers, DDP, torch.compile, hooks."""

import contextlib
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook

from fasttrain_kernels import FusedSGD, SphereSGD

from .optimizer_cases import CLOSE, MAKERS, copied, flat, parameters


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


def test_torch_sees_that_parameters_changed():
    weight = nn.Parameter(torch.ones(3, 3))
    loss = weight.square().sum()
    weight.grad = torch.ones(3, 3)
    optimizer = SphereSGD([weight], elr=0.1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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
