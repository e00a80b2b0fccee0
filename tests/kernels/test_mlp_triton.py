"""The Triton kernel of small MLPs: what it compiles to, and its launch."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed here")

from fasttrain_kernels.compiled import static  # noqa: E402
from fasttrain_kernels.small_mlp import triton as mlp_triton
from fasttrain_kernels.small_mlp.train import MOST_TRITON  # noqa: E402

from .mlp_problem import batches, problem  # noqa: E402


def row(name, target, **sizes):
    case = next(case for case in static.cases() if case.name == name)
    constants = case.constants | sizes
    return static._row(static.Case(name=name, kernel=case.kernel, constants=constants), target)


@pytest.mark.parametrize("target", static.TARGETS)
@pytest.mark.parametrize("name", ["mlp, steps", "mlp, scores"])
def test_compiles_without_spills(name, target):
    found = row(name, target)
    assert found["spills"] == found["atomics"] == found["fp64"] == 0
    assert found["registers"] < 256
    assert {128} <= found["stores"].keys()


@pytest.mark.parametrize("target", static.TARGETS)
def test_the_largest_of_the_bounds_does_not_spill(target):
    width, batch = MOST_TRITON["width"], MOST_TRITON["batch"]
    sizes = mlp_triton.constants(2, width, 1024, batch, trains=True)
    assert row("mlp, steps", target, **sizes)["spills"] == 0


def test_launch_is_one_program_per_model(monkeypatch):
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: launches.append((grid, arguments, constants))

    monkeypatch.setattr(mlp_triton, "_mlp_kernel", Kernel())
    weights, *rest = problem("odd, longer than a vector", torch.float32)
    order, bounds, rates = batches("odd, longer than a vector")
    mlp_triton.run(weights, *rest, order, bounds, rates, 2.0, 1e-7)
    [(grid, arguments, constants)] = launches
    assert grid == (2,)
    theta, p_eta, p_x = arguments[0], arguments[6], arguments[10]
    assert theta.shape == (2, 20 * 70 + 20 * 20) and theta.dtype == p_eta.dtype == torch.float32
    assert torch.equal(theta[1, :1400].view(20, 70), weights[0][20:])
    assert p_x.shape == (2, 2, 32, 32)
    assert arguments[-3:] == (3, 2.0, 1e-7)
    assert constants["WIDTH"] == 20 and constants["B"] == constants["W"] == 32
