"""`NormReLUPool` by its Triton kernels; run by `test_triton_kernels.py`, or by hand:

TRITON_INTERPRET=1 pytest tests/kernels/norm_triton_cases.py

What is imported are the tests of the kernels of a CPU.
"""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasttrain_kernels import NormReLUPool
from fasttrain_kernels.norm_relu_pool import backend, triton_blocks
from fasttrain_kernels.norm_relu_pool import triton as norm_triton

from .test_norm_in_torch import (  # noqa: F401
    test_a_hook_that_gives_another_type_is_refused,
    test_a_view_that_negates_is_read_by_its_values,
    test_compiled_it_is_one_graph_with_the_same_numbers,
    test_hooks_on_saved_tensors_may_lay_them_out_anew,
    test_make_fx_records_the_fused_operator_and_its_gradient,
    test_make_fx_updates_the_running_statistics,
)
from .test_norm_relu_pool import (  # noqa: F401
    DTYPES,
    assert_as_good,
    numbers,
    plain,
    test_a_constant_channel_is_zero_and_passes_no_gradient,
    test_a_large_mean_does_not_cancel,
    test_an_outlier_in_the_first_rows_costs_no_digits,
    test_any_memory_format_gives_the_same_bits_and_channels_last,
    test_gradient_of_the_gradient,
    test_gradient_of_the_gradient_where_windows_hold_several_largest_numbers,
    test_output_and_gradient_are_those_of_the_plain_operations,
    test_pooling_first_gives_the_same_bits,
    test_refuses,
    test_reset_starts_the_cumulative_mean_again,
    test_running_statistics_are_those_of_batch_norm,
    test_third_derivatives_are_refused,
    test_ties_go_to_the_first_of_a_window,
    test_used_twice_copied_and_without_gradients,
    test_what_is_not_finite_stays_in_its_channel,
    test_what_is_not_fused_is_the_same_in_torch,
    test_whole_networks_are_their_plain_twins,
    test_without_running_statistics_eval_uses_those_of_the_batch,
    with_gradient,
)

# numpy warns of what gives NaN, in places of a block that do not exist too.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


# Of the largest test the interpreter, which takes milliseconds for a launch, has every shape once
# in fp64, and these in every type and without ReLU.
IN_EVERY_WAY = {(3, 5, 7, 9), (4, 8, 16, 16), (5, 17, 8, 8)}


def is_slow(name: str, values: dict) -> bool:
    """Whether a case is left to a device."""
    if name == "test_output_and_gradient_are_those_of_the_plain_operations":
        plainest = values["dtype"] == torch.float64 and values["relu"]
        return not plainest and values["shape"] not in IN_EVERY_WAY
    if name == "test_whole_networks_are_their_plain_twins":
        return values["size"] != 9
    return name == "test_gradient_of_the_gradient"


@pytest.fixture(autouse=True)
def by_triton(monkeypatch, request):
    """On the device, or in the interpreter on the CPU, in fewer and larger blocks."""
    if INTERPRETED:
        values = getattr(request.node, "callspec", None)
        if is_slow(request.function.__name__, values.params if values else {}):
            pytest.skip("left to a device: slow in the interpreter")
        monkeypatch.setattr(backend, "kernels", lambda device: norm_triton)
        monkeypatch.setattr(backend, "EVALUATES", ("cpu",))
        monkeypatch.setattr(triton_blocks, "SUM_BLOCK", 2**11)
        monkeypatch.setattr(triton_blocks, "BLOCK", 2**15)
    torch.use_deterministic_algorithms(True)
    with torch.device(DEVICE):
        # Whatever a kernel forgets to write shows.
        assert torch.empty(3).isnan().all()
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def many_blocks(monkeypatch):
    """Chunks of several blocks, the last one shorter, and writes in many programs."""
    monkeypatch.setattr(triton_blocks, "SUM_BLOCK", 256)
    monkeypatch.setattr(triton_blocks, "BLOCK", 1024)
    monkeypatch.setattr(triton_blocks, "MAX_CHUNKS", 6)
    monkeypatch.setattr(triton_blocks, "MAX_CHANNELS", 8)
    chunks = triton_blocks.chunks_of(7 * 9 * 10, 12)
    assert chunks.grid == (5, 2) and chunks.chunk_rows == 4 * chunks.sizes["BLOCK_R"]
    assert chunks.rows % chunks.chunk_rows % chunks.sizes["BLOCK_R"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", [(1, 1), (4, 3)], ids=str)
def test_chunks_of_several_blocks(many_blocks, pool, dtype):
    y = (numbers((7, 12, 9, 10), 0, dtype) * 3 + 1).to(memory_format=torch.channels_last)
    grad = numbers(plain(y, pool).shape, 1, dtype)
    found = [with_gradient(lambda y: NormReLUPool(12)(y, pool), y, grad) for _ in range(2)]
    truths = with_gradient(lambda y: plain(y, pool), y.double(), grad.double())
    for ours, again, truth in zip(*found, truths, strict=True):
        assert torch.equal(ours, again)
        assert_as_good(ours, truth.to(dtype), truth, dtype)


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("pool", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_evaluation_is_that_of_the_plain_operations(dtype, pool, relu):
    wide = torch.promote_types(dtype, torch.float32)
    module = NormReLUPool(12, relu=relu, dtype=wide).eval()
    module.running_mean.copy_(numbers((12,), 1, wide) * 100)
    module.running_var.copy_(numbers((12,), 2, wide).square() + 0.1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    y = numbers((5, 12, 7, 10), 0, dtype) + module.running_mean.view(1, -1, 1, 1).to(dtype)
    y[1, 3, 2, 4] = torch.nan
    assert module.fused(y)
    assert not module.fused(y.clone().requires_grad_())
    twin = nn.BatchNorm2d(12, affine=False, dtype=torch.float64).eval()
    twin.load_state_dict(before)
    truth = twin(y.double())
    truth = F.max_pool2d(truth.relu() if relu else truth, pool)
    out = module(y, pool)
    assert torch.equal(out.isnan(), truth.isnan()) and out.isnan().sum() == 1
    assert_as_good(out.nan_to_num(), truth.to(dtype).nan_to_num(), truth.nan_to_num(), dtype)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_models_side_by_side_are_those_alone():
    y = torch.cat([numbers((6, 8, 8, 8), seed, torch.float64) * (seed + 1) for seed in range(3)], 1)
    grad = numbers((6, 24, 4, 4), 3, torch.float64)
    found = with_gradient(lambda y: NormReLUPool(24)(y, 2), y, grad)
    for model, parts in enumerate(zip(y.chunk(3, 1), grad.chunk(3, 1), strict=True)):
        alone = with_gradient(lambda y: NormReLUPool(8)(y, 2), *parts)
        for together, single in zip(found, alone, strict=True):
            torch.testing.assert_close(together.chunk(3, 1)[model], single, rtol=1e-12, atol=1e-12)


@pytest.fixture
def accesses(monkeypatch):
    """Addresses that kernels read and write, as the interpreter carries them out."""
    from triton.runtime.interpreter import InterpreterBuilder

    found = {"load": [], "store": []}

    def recording(kind, inner, place):
        def recorded(builder, pointers, *rest):
            found[kind].append(pointers.data[rest[place].data])
            return inner(builder, pointers, *rest)

        return recorded

    for kind, place in (("load", 0), ("store", 1)):
        name = f"create_masked_{kind}"
        inner = getattr(InterpreterBuilder, name)
        monkeypatch.setattr(InterpreterBuilder, name, recording(kind, inner, place))
    return found


def times(accesses, kind: str, tensor: Tensor) -> float:
    """How often every number of a tensor is accessed, on average."""
    first, found = tensor.data_ptr(), flat(accesses[kind])
    return int(((found >= first) & (found < first + tensor.nbytes)).sum()) / tensor.numel()


def flat(addresses: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.atleast_1d(some).ravel() for some in addresses])


def assert_nothing_is_written_twice(accesses) -> None:
    """On a device that would be a race. All memory that is written must still be held."""
    written = flat(accesses["store"])
    assert len(np.unique(written)) == len(written)


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter counts accesses")
@pytest.mark.parametrize("pool", [(1, 1), (2, 2), (4, 3)], ids=str)
def test_accesses_of_every_number_are_those_stated(accesses, many_blocks, pool):
    y = numbers((7, 12, 9, 10), 0, torch.float32).to(memory_format=torch.channels_last)
    chunks = triton_blocks.chunks_of(7 * 9 * 10, 12).num_chunks
    running = backend.Running(
        torch.zeros(12), torch.ones(12), torch.zeros((), dtype=torch.int64), 0.1
    )
    out, statistics = norm_triton.forward(y, pool, True, 1e-5, running)
    # Every chunk reads its first row again.
    seen = out.numel() * pool[0] * pool[1] / y.numel()
    assert times(accesses, "load", y) == pytest.approx(1 + seen + 12 * chunks / y.numel())
    assert times(accesses, "store", out) == 1 and times(accesses, "load", out) == 0
    assert_nothing_is_written_twice(accesses)
    # Memory of the sums of the forward pass may be given again.
    for found in accesses.values():
        found.clear()
    dy = norm_triton.backward(out, y, out.clone(), statistics, pool, True)
    assert times(accesses, "load", y) == times(accesses, "store", dy) == 1
    assert times(accesses, "load", out) == 2
    assert_nothing_is_written_twice(accesses)


def test_cumulative_means_are_those_of_batch_norm():
    """Cumulative means of three batches, counted on the device, fused or with affine parameters."""
    batches = [numbers((4, 6, 5, 5), seed, torch.float32) * (seed + 1) for seed in range(3)]
    for affine in (False, True):
        module, twin = (
            kind(6, momentum=None, affine=affine) for kind in (NormReLUPool, nn.BatchNorm2d)
        )
        for batch in batches:
            module(batch)
            twin(batch)
        for ours, theirs in zip(module.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(INTERPRETED, reason="needs a device")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_graph_replays_statistics_output_and_gradient(momentum):
    module, twin = (NormReLUPool(8, momentum=momentum) for _ in range(2))
    y = numbers((16, 8, 12, 12), 0, torch.bfloat16).to(memory_format=torch.channels_last)
    grad = numbers((16, 8, 6, 6), 1, torch.bfloat16).to(memory_format=torch.channels_last)
    with_gradient(lambda y: module(y, 2), y, grad)
    module.reset_running_stats()
    graph = torch.cuda.CUDAGraph()
    given = y.clone().requires_grad_()
    with torch.cuda.graph(graph):
        out = module(given, 2)
        (dy,) = torch.autograd.grad(out, given, grad)
    module.reset_running_stats()
    for seed in (2, 3):
        batch = numbers(y.shape, seed, torch.bfloat16)
        given.detach().copy_(batch)
        graph.replay()
        for ours, theirs in zip(
            (out, dy), with_gradient(lambda y: twin(y, 2), batch, grad), strict=True
        ):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(module.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(INTERPRETED, reason="needs a device")
def test_compiled_for_the_device_it_gives_the_same_numbers():
    module = NormReLUPool(8)
    y, grad = numbers((16, 8, 12, 12), 0, torch.float32), numbers((16, 8, 6, 6), 1, torch.float32)
    expected = with_gradient(lambda y: module(y, 2), y, grad)
    compiled = torch.compile(module, fullgraph=True)
    for ours, theirs in zip(
        with_gradient(lambda y: compiled(y, 2), y, grad), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
