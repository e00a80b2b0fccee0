"""The Triton kernels of `NormReLUPool`: their launches, what they refuse, when they are taken."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("triton", reason="Triton is not installed here")

from fasttrain_kernels import NormReLUPool  # noqa: E402
from fasttrain_kernels.norm_relu_pool import backend, triton_blocks  # noqa: E402
from fasttrain_kernels.norm_relu_pool import triton as norm_triton

from .test_triton_launch import launches  # noqa: E402, F401


def running(channels=8):
    return backend.Running(
        torch.zeros(channels), torch.ones(channels), torch.zeros((), dtype=torch.int64), 0.1
    )


def maps(shape=(2, 8, 4, 4), dtype=torch.bfloat16):
    return torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last)


# Shape, window, type; programs of the sums of y, of what is written, of its gradient, of the sums
# of the gradient.
LAUNCHES = {
    "no window": ((32, 8, 32, 32), (1, 1), torch.bfloat16, 64, 128, 128, 64),
    "windows": ((3, 24, 9, 9), (2, 2), torch.float32, 2, 3, 5, 1),
    "the whole image": ((4, 72, 8, 8), (8, 8), torch.float64, 4, 4, 4, 1),
}


@pytest.mark.parametrize("case", LAUNCHES.values(), ids=LAUNCHES)
def test_three_launches_each_way_and_two_to_evaluate(launches, case):  # noqa: F811
    shape, pool, dtype, sums, writes, gradients, products = case
    y, channels = maps(shape, dtype), shape[1]
    merges = -(-channels // triton_blocks.CHUNK_CHANNELS)
    pooled = "" if pool == (1, 1) else "_pool"
    write = (f"{pooled}_kernel" if pooled else "_write_kernel", writes)
    out, statistics = norm_triton.forward(y, pool, True, 1e-5, running(channels))
    assert launches == [("_moments_kernel", sums), ("_statistics_kernel", merges), write]
    launches.clear()
    norm_triton.backward(out, y, out, statistics, pool, True)
    assert launches == [
        ("_products_kernel", products),
        ("_slopes_kernel", merges),
        (f"{pooled}_gradient_kernel", gradients),
    ]
    launches.clear()
    norm_triton.evaluate(y, pool, True, 1e-5, running(channels))
    assert launches == [("_running_kernel", 1), write]


def cut(tensor):
    tensor.untyped_storage().resize_(16)
    return tensor


class Wrapped(torch.Tensor):
    pass


REFUSED = {
    "another layout": (lambda y: y.contiguous(), "channels_last"),
    "another type": (lambda y: y.half(), "channels_last"),
    "three dimensions": (lambda y: y[0], "channels_last"),
    "no numbers": (lambda y: y[:0], "channels_last"),
    "a subclass": (lambda y: y.as_subclass(Wrapped), "plain tensors"),
    "storage cut": (cut, "needs 512 bytes"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses_a_map_before_any_launch(launches, case):  # noqa: F811
    make, message = case
    for run in (norm_triton.forward, norm_triton.evaluate):
        with pytest.raises(ValueError, match=message):
            run(make(maps()), (1, 1), True, 1e-5, running())
    assert launches == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": torch.zeros(7)},
        {"var": torch.ones(8, dtype=torch.float64)},
        {"mean": torch.zeros(8).half(), "var": torch.ones(8).half()},
        {"mean": torch.zeros(16)[::2]},
        {"num_batches": torch.zeros(1, dtype=torch.int64)},
        {"num_batches": torch.zeros(())},
        {"mean": torch.zeros(8, device="meta")},
    ],
    ids=["short", "mixed", "half", "strided", "counts", "a float", "elsewhere"],
)
def test_refuses_running_statistics_before_any_launch(launches, wrong):  # noqa: F811
    with pytest.raises(ValueError, match="running statistics|plain tensors"):
        norm_triton.forward(maps(), (1, 1), True, 1e-5, running()._replace(**wrong))
    assert launches == []


@pytest.mark.parametrize("name", ["grad", "y", "out", "statistics"])
def test_a_gradient_refuses_what_it_did_not_keep(launches, name):  # noqa: F811
    kept = {
        "grad": maps((2, 8, 2, 2)),
        "y": maps(),
        "out": maps((2, 8, 2, 2)),
        "statistics": torch.ones(2, 8, dtype=torch.float64),
    }
    norm_triton.backward(*kept.values(), (2, 2), True)
    launches.clear()
    kept[name] = kept[name].float()
    with pytest.raises(ValueError, match="needs what it kept"):
        norm_triton.backward(*kept.values(), (2, 2), True)
    assert launches == []


def test_a_window_beyond_what_a_program_holds_is_not_taken():
    assert backend.takes(torch.Size((2, 8, 64, 64)), (64, 64), "cuda")
    assert not backend.takes(torch.Size((2, 8, 65, 65)), (65, 64), "cuda")
    assert backend.takes(torch.Size((2, 8, 65, 65)), (65, 64), "cpu")
    with pytest.raises(ValueError, match=r"at most 4096 pixels.*window \(65, 64\)"):
        norm_triton.forward(maps((1, 1, 65, 65)), (65, 64), True, 1e-5, None)


def test_on_a_gpu_the_operator_is_recorded():
    """With fake tensors, which need no GPU."""
    with torch._subclasses.FakeTensorMode():
        module = NormReLUPool(8, device="cuda")
        y = torch.empty((2, 8, 9, 8), dtype=torch.bfloat16, device="cuda")
        assert module.fused(y)
        out = module(y, 2)
        assert out.shape == (2, 8, 4, 4) and out.device.type == "cuda"
        assert out.is_contiguous(memory_format=torch.channels_last)
        graph = make_fx(lambda y: module(y, 2))(y)
        assert "fasttrain_kernels.norm_relu_pool" in graph.code
        # What watches is not to see a launch of which it knows nothing.
        assert not module.eval().fused(y)


@pytest.mark.parametrize("affine", [False, True])
def test_cumulative_means_read_nothing_from_the_device(affine):
    """On the meta device there is nothing to read: any host read raises."""
    module = NormReLUPool(4, momentum=None, affine=affine, device="meta")
    for _ in range(2):
        module(torch.empty(2, 4, 3, 3, device="meta"))
    with pytest.raises(RuntimeError):
        float(module.num_batches_tracked)


class Elsewhere(torch.Tensor):
    """A count that is not on the host, as far as it says, and cannot be read there."""

    is_cpu = False

    def __float__(self):
        raise AssertionError("a host read")


@pytest.mark.parametrize("affine", [False, True])
def test_cumulative_means_without_a_host_read_are_those_of_batch_norm(affine):
    ours, theirs = (
        kind(4, momentum=None, affine=affine) for kind in (NormReLUPool, nn.BatchNorm2d)
    )
    ours.num_batches_tracked = ours.num_batches_tracked.as_subclass(Elsewhere)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        y = torch.randn(5, 4, 3, 3, generator=generator) * 3 + 1
        torch.testing.assert_close(ours(y), theirs(y).relu())
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a.as_subclass(torch.Tensor), b)
