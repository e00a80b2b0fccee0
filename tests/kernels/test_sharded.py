"""Two processes equal one: parameters split by FSDP2, or whole in each with DDP."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

if not torch.distributed.is_available():
    pytest.skip("torch has no distributed package", allow_module_level=True)

from fasttrain_kernels import SphereSGD

from .rank_cases import MAKERS, batches, network, train

# Sums of two processes are added in another order than those of one.
CLOSE = dict(rtol=1e-10, atol=1e-12)


def run(size: int, folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.rank_cases"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(said)
    return [torch.load(folder / f"found-{size}-{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def ranks():
    """What two processes have found, and then one that goes on from their checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        yield *run(2, Path(folder)), *run(1, Path(folder))


def assert_close(found, expected) -> None:
    torch.testing.assert_close(found["params"], expected["params"], **CLOSE)
    torch.testing.assert_close(found.get("momentum"), expected.get("momentum"), **CLOSE)
    assert found["statistics"]["names"] == expected["statistics"]["names"]
    for column, values in expected["statistics"].items():
        if column != "names":
            # The angle of one number is the root of a difference that is 0 but for rounding.
            least = 1e-6 if column == "step_angle" else 1e-12
            assert found["statistics"][column] == pytest.approx(values, rel=1e-9, abs=least)
    torch.testing.assert_close(found.get("totals"), expected.get("totals"), **CLOSE)


@pytest.mark.parametrize("how", ["", "ddp "])
@pytest.mark.parametrize("maker", MAKERS)
def test_two_processes_train_as_one(maker, how, ranks):
    model = network()
    expected = train(model, MAKERS[maker](list(model.parameters())), batches())
    for found in ranks[:2]:
        assert_close(found[how + maker], expected)


@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_parts_may_be_replicated(mesh, ranks):
    model = network()
    expected = train(model, MAKERS["joint"](list(model.parameters())), batches())
    for found in ranks[:2]:
        assert_close(found[f"replicated {mesh}"], expected)


def test_a_step_adds_everything_up_at_once(ranks):
    # Four sums of a row or vector on a sphere, three of others.
    assert [found["reductions"] for found in ranks[:2]] == [[4 * (5 + 1 + 3 + 1) + 3 * (1 + 1)]] * 2


def test_filters_may_be_split(ranks):
    params = []
    for shape in ((4, 6), (3, 5)):
        generator = torch.Generator().manual_seed(sum(shape))
        p = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator))
        p.grad = p.detach().cos()
        params.append(p)
    optimizer = SphereSGD(params, elr=0.05, scope="group")
    optimizer.step()
    expected = {
        "params": [p.detach() for p in params],
        "statistics": optimizer.statistics().to_dict(),
    }
    for found in ranks[:2]:
        assert_close(found["columns"], expected)


@pytest.mark.parametrize("maker", MAKERS)
def test_making_a_state_moves_no_weight(maker, ranks):
    assert not any(found["moved"][maker] for found in ranks[:2])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_checkpoints_go_on_with_as_many_processes_or_one(rank, ranks):
    assert_close(ranks[rank]["resumed"], ranks[0]["gone on"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("deferred", "ValueError: projection='deferred' is not for parameters that are split"),
        ("pack", "ValueError: num_models=2: a pack cannot be split over processes"),
        ("mixed", "ValueError: parameters of one param group must share a device mesh"),
        ("flattened", "ValueError: FullyShardedDataParallel (FSDP1) flattens parameters"),
        ("original", "ValueError: FullyShardedDataParallel (FSDP1) flattens parameters"),
        ("zero", "ValueError: ZeroRedundancyOptimizer gives every process some"),
        ("gradient", "ValueError: a gradient must be split as its parameter"),
        ("strided", "ValueError: parameters may be placed as Shard and Replicate"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(case, message, ranks):
    for found in ranks[:2]:
        assert found["refusals"][case].startswith(message), found["refusals"][case]
