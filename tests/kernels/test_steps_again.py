"""What steps keep between them: bindings, sums, memory; and what they do without."""

import copy
import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fasttrain_kernels
from fasttrain_kernels import FusedSGD, SphereSGD
from fasttrain_kernels.optimizers import binding as stepping_module
from fasttrain_kernels.step.layout import Layout

from .optimizer_cases import BACKENDS, MAKERS, flat, parameters, refresh


def num_layouts() -> int:
    """Those that live, whoever made them."""
    gc.collect()
    return sum(type(item) is Layout for item in gc.get_objects())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_subset_steps_without_a_new_binding(backend, momentum, monkeypatch):
    """A mixture of experts has other gradients in every step."""
    made = []
    make = stepping_module.make_layout
    monkeypatch.setattr(
        stepping_module, "make_layout", lambda *given: made.append(1) or make(*given)
    )
    generator = torch.Generator().manual_seed(0)
    experts = [nn.Parameter(torch.randn(4, 3, generator=generator)) for _ in range(12)]
    twins = [nn.Parameter(p.detach().clone()) for p in experts]
    optimizer = FusedSGD(experts, 0.1, momentum=momentum, weight_decay=0.1, backend=backend)
    other = torch.optim.SGD(twins, 0.1, momentum=momentum, weight_decay=0.1)
    made.clear()
    before = num_layouts()
    for step in range(1500):
        for index, (p, twin) in enumerate(zip(experts, twins, strict=True)):
            chosen = step + 1 >> index & 1
            p.grad = torch.randn(p.shape, generator=generator) if chosen else None
            twin.grad = None if p.grad is None else p.grad.clone()
        optimizer.step()
        other.step()
    assert not made and len(optimizer._bindings) == 1
    assert num_layouts() < before + 100
    torch.testing.assert_close(flat(experts), flat(twins))
    moved = [index for index in range(12) if 1500 >> index & 1]
    assert optimizer.statistics().names == [f"0.{i}[{row}]" for i in moved for row in range(4)]
    assert {len(state) for state in optimizer.state.values()} <= {1 if momentum else 0}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("num_models", [1, 2])
def test_totals_are_those_of_the_statistics(maker, backend, num_models):
    params = parameters()[:3]
    optimizer = MAKERS[maker](params, backend=backend, num_models=num_models)
    with pytest.raises(RuntimeError, match="needs a step"):
        optimizer.totals()
    for step in range(2):
        refresh(params, step)
        if maker == "sgd":
            params[1].grad = None
        optimizer.step()
        totals, statistics = optimizer.totals(), optimizer.statistics()
        assert torch.equal(totals.norm, statistics.total_norm)
        assert torch.equal(totals.grad_norm, statistics.total_grad_norm)
        assert totals.norm.shape == (() if num_models == 1 else (2,))
        added = torch.full((num_models,), 0.5, dtype=torch.float64)
        assert torch.equal(optimizer.totals(added).norm, totals.norm)
        expected = 0.5 + totals.norm.double() * totals.grad_norm.double()
        torch.testing.assert_close(added, expected.reshape(-1))
        for wrong in (added.float(), added.new_zeros(3), added.new_zeros(num_models, 1)):
            with pytest.raises(ValueError, match="a product of norms is"):
                optimizer.totals(wrong)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_sums_the_step_is_the_same(dtype, momentum):
    both = [parameters(dtype=dtype), parameters(dtype=dtype)]
    for track, params in zip((True, False), both, strict=True):
        params.append(nn.Parameter(torch.ones(3, 9001, dtype=dtype)))
        optimizer = FusedSGD(params, 0.1, momentum=momentum, weight_decay=0.1, track=track)
        for step in range(3):
            refresh(params, step)
            optimizer.step()
    assert torch.equal(*map(flat, both))
    for read in (optimizer.statistics, optimizer.totals):
        with pytest.raises(RuntimeError, match="needs track=True"):
            read()


@pytest.mark.parametrize("options", [{}, {"dampening": 0.5, "momentum": 0.9}])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_step_has_not_tracked_is_refused_whenever_it_is_asked(backend, options):
    params = parameters()
    lr = torch.tensor(0.1)
    optimizer = FusedSGD(params, lr, track=False, backend=backend, **options)
    for track in (False, True):
        refresh(params, int(track))
        optimizer.track = track
        optimizer.step()
        # What counts is how the step was taken.
        optimizer.track = not track
        for read in (optimizer.totals, optimizer.statistics):
            if track:
                read()
            else:
                with pytest.raises(RuntimeError, match="needs track=True"):
                    read()


@pytest.mark.parametrize("track", [True, False])
def test_rates_are_copied_for_statistics_alone(track):
    params = [nn.Parameter(torch.ones(4, 3, dtype=torch.float64))]
    lr = torch.tensor([0.1, 0.2], dtype=torch.float64)
    decay = torch.tensor([0.0, 0.1], dtype=torch.float64)
    optimizer = FusedSGD(params, lr, weight_decay=decay, num_models=2, track=track)
    refresh(params, 0)
    optimizer.step()
    with Copies() as copies:
        optimizer.step()
    assert copies.count == (1 if track else 0)
    if track:
        before = optimizer.statistics().elr
        lr.mul_(2.0)
        assert torch.equal(optimizer.statistics().elr, before)


class Copies(TorchDispatchMode):
    """Counts copies, each a launch on a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += str(func) == "aten._to_copy.default"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_let_go_of(maker, backend):
    params = parameters()
    optimizer = MAKERS[maker](params, backend=backend)
    for step in range(2):
        refresh(params, step)
        optimizer.step()
    grads = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = None
    gc.collect()
    assert not any(grad() is not None for grad in grads)


def test_numbers_of_sphere_groups_stay_with_missing_gradients():
    params = parameters()
    optimizer = SphereSGD(params, elr=0.01, momentum=0.9)
    optimizer.step()
    buffer = optimizer.state[params[1]]["momentum_buffer"].clone()
    params[1].grad = None
    optimizer.step()
    assert torch.equal(optimizer.state[params[1]]["momentum_buffer"], buffer)
    assert len(optimizer.statistics().names) == 6 + 4 + 8 + 1


def some_step(missing: int, momentum: float = 0.0) -> tuple[list[nn.Parameter], FusedSGD]:
    """Parameters and an optimiser that has stepped subsets of them, whose gradients it knows."""
    params = [nn.Parameter(torch.randn(4, 3)) for _ in range(4)]
    optimizer = FusedSGD(params, 0.5, momentum=momentum)
    for step in range(4):
        for index, p in enumerate(params):
            p.grad = None if (index + step) % 4 == missing else torch.ones(4, 3)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_strange_gradient_in_a_known_subset_is_noticed(momentum):
    params, optimizer = some_step(0, momentum)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    other = torch.optim.SGD(twins, 0.5, momentum=momentum)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    strange = [
        torch.randn(3, 4).t(),
        torch.randn(4, 3, dtype=torch.float64),
        None,
        torch.ones(4, 3),
    ]
    for p, twin, grad in zip(params, twins, strange, strict=True):
        p.grad_dtype = twin.grad_dtype = None
        p.grad, twin.grad = grad, grad if grad is None else grad.float()
    optimizer.step()
    other.step()
    torch.testing.assert_close(flat(params), flat(twins))
    before = flat(params).clone()
    params[0].grad = None
    params[0].data = torch.ones(2, 2)
    params[0].grad = torch.ones(2, 2)
    params[0].data = before[:12].view(4, 3)
    with pytest.raises(ValueError, match="gradient of shape"):
        optimizer.step()


def test_a_gradient_in_the_memory_of_another_parameter_is_read_before_the_step():
    params, optimizer = some_step(0)
    before = [p.detach().clone() for p in params]
    params[0].grad, params[1].grad = torch.ones(4, 3), params[0].detach()
    params[2].grad = params[3].grad = None
    optimizer.step()
    assert torch.equal(params[1].detach(), before[1] - 0.5 * before[0])
    assert torch.equal(params[0].detach(), before[0] - 0.5)


@pytest.mark.parametrize("maker", ["exact", "group", "adam"])
def test_parameters_that_have_moved_are_projected_where_they_are(maker):
    params = parameters()
    optimizer = MAKERS[maker](params, backend="numba")
    for _ in range(3):
        optimizer.step()
    before = [p.detach() for p in params]
    kept = [p.clone() for p in before]
    for p in params:
        p.data = 3 * p.detach()
    optimizer.projected_()
    assert all(map(torch.equal, before, kept))
    torch.testing.assert_close(flat(params), flat(kept), rtol=1e-12, atol=0)


CODE = """
import warnings, torch
from fasttrain_kernels import FusedSGD
p = torch.nn.Parameter(torch.ones(4))
p.grad = torch.ones(4)
optimizer = FusedSGD([p], 0.5)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    optimizer.step()
    optimizer.totals()
print(p.tolist(), [str(w.message) for w in seen if w.category is RuntimeWarning])
"""


def test_without_a_folder_for_compiled_code_it_compiles_and_says_so_once(tmp_path):
    source, package = Path(fasttrain_kernels.__file__).parent, tmp_path / "fasttrain_kernels"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    # Not even root makes a folder of a file, or one below it.
    folders = [package, *(path for path in package.rglob("*") if path.is_dir())]
    for folder in folders:
        (folder / "__pycache__").touch()
    nowhere = str(package / "__pycache__" / "home")
    env = {**os.environ, "HOME": nowhere, "XDG_CACHE_HOME": nowhere, "PYTHONPATH": str(tmp_path)}
    env.pop("NUMBA_CACHE_DIR", None)
    found = subprocess.run(
        [sys.executable, "-c", CODE], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("[0.5, 0.5, 0.5, 0.5] [")
    assert found.stdout.count("NUMBA_CACHE_DIR") == 1
