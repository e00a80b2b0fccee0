"""`NormReLUPool` against torch's modules in fp64: numbers, gradients, state, what must not mix.

By numba's kernels; `norm_triton_cases.py` runs most of it by Triton's, on the default device.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasttrain.settings.networks.modules import ConvNet, ResNet18
from fasttrain_kernels import NormReLUPool
from fasttrain_kernels.norm_relu_pool import backend

# fp64: sums of up to 1e5 terms in another order. Others: half a unit in the last place of the
# largest number, beside the error that torch's own modules make.
RTOL_FP64 = 1e-12
ULP = {torch.float32: 2**-24, torch.bfloat16: 2**-9}

# (N, C, H, W), window
CASES = [
    ((2, 1, 1, 1), (1, 1)),
    ((1, 1, 2, 3), (1, 1)),
    ((3, 5, 7, 9), (2, 2)),
    ((4, 8, 16, 16), (1, 1)),
    ((4, 8, 16, 16), (2, 2)),
    ((1, 16, 33, 31), (2, 2)),
    ((5, 17, 8, 8), (8, 8)),
    ((6, 24, 7, 5), (6, 4)),
    ((2, 31, 9, 10), (3, 2)),
    ((300, 33, 3, 3), (1, 1)),
    ((40, 64, 8, 8), (2, 2)),
    ((2, 130, 5, 5), (5, 5)),
    ((7, 200, 4, 6), (1, 1)),
]
IDS = [f"{'x'.join(map(str, shape))}-pool{a}x{b}" for shape, (a, b) in CASES]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def numbers(shape, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def plain(y: Tensor, pool, relu: bool = True, eps: float = 1e-5) -> Tensor:
    """The reference: torch's operations one after another."""
    out = F.batch_norm(y, None, None, training=True, eps=eps)
    return F.max_pool2d(F.relu(out) if relu else out, pool)


def with_gradient(function, y: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    y = y.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(y)
    (dy,) = torch.autograd.grad(out, y, grad.to(out.dtype))
    return out.detach(), dy


def assert_as_good(
    actual: Tensor, torchs: Tensor, truth: Tensor, dtype: torch.dtype, size: float | None = None
) -> None:
    """No further from fp64 than torch's own result, besides an ulp of the largest number."""
    size = float(truth.abs().max()) if size is None else size
    error = float((actual.double() - truth).abs().max())
    if dtype == torch.float64:
        assert error <= RTOL_FP64 * size
    else:
        own = float((torchs.double() - truth).abs().max())
        assert error <= own + 2 * ULP[dtype] * size


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "pool"), CASES, ids=IDS)
def test_output_and_gradient_are_those_of_the_plain_operations(shape, pool, dtype, relu):
    y = numbers(shape, 0, dtype).to(memory_format=torch.channels_last) * 3 + 1
    module = NormReLUPool(shape[1], relu=relu, dtype=dtype if dtype == torch.float64 else None)
    assert module.fused(y)
    grad = numbers(plain(y, pool).shape, 1, dtype)
    out, dy = with_gradient(lambda y: module(y, pool), y, grad)
    truth, dy_truth = with_gradient(lambda y: plain(y, pool, relu), y.double(), grad.double())
    own, dy_own = with_gradient(lambda y: plain(y, pool, relu), y, grad)
    assert out.dtype == dy.dtype == dtype
    assert_as_good(out, own, truth, dtype)
    # Numbers that differ in fp64 may tie once they are rounded: torch pools after rounding, so its
    # gradient may go elsewhere. A tie in y goes to the first, in both.
    # With few values per channel nearly all of a gradient cancels.
    size = float(grad.abs().max() / (y.double().var((0, 2, 3), correction=0).min() + 1e-5).sqrt())
    own = dy_truth.to(dtype) if dtype != torch.float64 else dy_own
    assert_as_good(dy, own, dy_truth, dtype, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", [2, 3, (8, 4)], ids=str)
def test_pooling_first_gives_the_same_bits(pool, dtype):
    y = numbers((4, 24, 8, 12), 0, dtype)
    module = NormReLUPool(24)
    assert torch.equal(module(y, pool), F.max_pool2d(module(y), pool))
    assert torch.equal(module(y), NormReLUPool(24, relu=False)(y).relu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_go_to_the_first_of_a_window(dtype):
    """Few different numbers: windows full of equal maxima, and maxima exactly at the mean."""
    y = numbers((6, 16, 8, 8), 0, torch.float64).round().clamp(-1, 1).to(dtype)
    grad = numbers((6, 16, 4, 4), 1, dtype)
    _, dy = with_gradient(lambda y: NormReLUPool(16)(y, 2), y, grad)
    _, truth = with_gradient(lambda y: plain(y, 2), y.double(), grad.double())
    assert_as_good(dy, truth.to(dtype), truth, dtype)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_constant_channel_is_zero_and_passes_no_gradient(dtype, value):
    y = numbers((9, 8, 5, 5), 0, dtype)
    y[:, 3] = value
    grad = numbers((9, 8, 2, 2), 1, dtype)
    out, dy = with_gradient(lambda y: NormReLUPool(8)(y, 2), y, grad)
    assert (out[:, 3] == 0).all()
    assert (dy[:, 3] == 0).all()
    assert (dy[:, 2] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_large_mean_does_not_cancel(dtype):
    y = (numbers((16, 8, 16, 16), 0, torch.float64) + 1e4).to(dtype)
    grad = numbers(y.shape, 1, dtype)
    out, dy = with_gradient(NormReLUPool(8), y, grad)
    truth, dy_truth = with_gradient(lambda y: plain(y, 1), y.double(), grad.double())
    # The input is exact: what is left is rounding of the output. fp64 has 1e4 * 1e-16 of the mean.
    bound = 2e-6 if dtype == torch.float32 else 1e-10
    assert float((out - truth).abs().max()) < bound
    # Where the output is next to 0 ReLU's side may differ.
    assert float((dy - dy_truth)[truth.abs().sub(1e-4).abs() > 1e-4].abs().max()) < 1e-5


def test_an_outlier_in_the_first_rows_costs_no_digits():
    y = numbers((64, 8, 32, 32), 0, torch.float32)
    y[0] = 1e3
    truth = plain(y.double(), 1, relu=False)
    out = NormReLUPool(8, relu=False)(y)
    assert float((out - truth).abs().max()) < 2e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_in_its_channel(dtype, bad):
    y = numbers((4, 40, 8, 8), 0, dtype)
    grad = numbers((4, 40, 4, 4), 1, dtype)
    healthy, dy_healthy = with_gradient(lambda y: NormReLUPool(40)(y, 2), y, grad)
    y[3, 17, 7, 7] = bad
    module = NormReLUPool(40)
    out, dy = with_gradient(lambda y: module(y, 2), y, grad)
    others = torch.arange(40) != 17
    assert out[:, 17].isnan().all()
    assert dy[:, 17].isnan().all()
    assert module.running_mean is not None
    assert torch.equal(out[:, others], healthy[:, others])
    assert torch.equal(dy[:, others], dy_healthy[:, others])
    assert torch.equal(module.running_mean.isfinite(), others)


@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_running_statistics_are_those_of_batch_norm(momentum, dtype):
    ours = NormReLUPool(12, momentum=momentum, dtype=dtype)
    theirs = nn.BatchNorm2d(12, momentum=momentum, affine=False, dtype=dtype)
    for seed in range(3):
        y = numbers((5, 12, 6, 6), seed, dtype) * 2 + seed
        ours(y, 2)
        theirs(y)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    # And the state goes both ways, to the same numbers in eval mode.
    other = nn.BatchNorm2d(12, momentum=momentum, affine=False, dtype=dtype)
    other.load_state_dict(ours.state_dict())
    y = numbers((5, 12, 6, 6), 9, dtype)
    expected = F.max_pool2d(other.eval()(y).relu(), 3)
    # torch's operations give the same bits; Triton has a kernel for evaluation.
    tolerance = 1e-6 if ours.eval().fused(y) else 0.0
    torch.testing.assert_close(ours(y, 3), expected, rtol=tolerance, atol=tolerance)
    assert int(ours.num_batches_tracked or 0) == 3


def test_without_running_statistics_eval_uses_those_of_the_batch():
    y = numbers((5, 12, 6, 6), 0, torch.float32)
    module = NormReLUPool(12, track_running_stats=False)
    assert torch.equal(module.eval()(y, 2), module.train()(y, 2))


def test_reset_starts_the_cumulative_mean_again():
    module = NormReLUPool(4, momentum=None)
    module(numbers((5, 4, 3, 3), 0, torch.float32))
    module.reset_running_stats()
    y = numbers((5, 4, 3, 3), 1, torch.float32)
    module(y)
    assert module.running_mean is not None
    torch.testing.assert_close(module.running_mean, y.mean((0, 2, 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "pool"), [((64, 8, 16, 16), 1), ((16, 40, 16, 17), 2), ((64, 33, 8, 8), 8)]
)
def test_the_number_of_threads_changes_no_bit(shape, pool, dtype):
    y = numbers(shape, 0, dtype)
    grad = numbers(plain(y, pool).shape, 1, dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            module = NormReLUPool(shape[1])
            results.append(
                [*with_gradient(lambda y, m=module: m(y, pool), y, grad), *module.buffers()]
            )
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_any_memory_format_gives_the_same_bits_and_channels_last():
    y = numbers((4, 24, 8, 8), 0, torch.float32)
    grad = numbers((4, 24, 4, 4), 1, torch.float32)
    results = [
        with_gradient(lambda y: NormReLUPool(24)(y, 2), form, g)
        for form, g in [
            (y, grad),
            (y.to(memory_format=torch.channels_last), grad.to(memory_format=torch.channels_last)),
            (y.transpose(2, 3).contiguous().transpose(2, 3), grad[:, :, :1, :1].expand_as(grad)),
        ]
    ]
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(out, results[0][0]) for out, _ in results[1:])
    assert torch.equal(results[1][1], results[0][1])
    expanded = grad[:, :, :1, :1].expand_as(grad).contiguous()
    _, dy = with_gradient(lambda y: NormReLUPool(24)(y, 2), y, expanded)
    assert torch.equal(results[2][1], dy)


def test_used_twice_copied_and_without_gradients():
    y = numbers((4, 8, 6, 6), 0, torch.float64).requires_grad_()
    module = NormReLUPool(8, dtype=torch.float64)
    (module(y, 2).sum() + (module(y) ** 2).sum()).backward()
    twin = y.detach().clone().requires_grad_()
    (plain(twin, 2).sum() + (plain(twin, 1) ** 2).sum()).backward()
    torch.testing.assert_close(y.grad, twin.grad, rtol=1e-11, atol=1e-11)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        out = copied(y, 2)
    assert not out.requires_grad
    assert int(copied.num_batches_tracked or 0) == 3
    assert int(module.num_batches_tracked or 0) == 2


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("pool", [1, 2, (2, 3)])
def test_gradient_of_the_gradient(pool, relu):
    # Rows and columns that fill no window are among them.
    y = numbers((3, 2, 5, 4), 0, torch.float64).requires_grad_()
    module = NormReLUPool(2, relu=relu, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda y: module(y, pool) ** 2, (y,))


@pytest.mark.parametrize("pool", [1, 2])
def test_gradient_of_the_gradient_in_single_precision(pool):
    y, grad, u = (numbers((8, 4, 6, 6), seed, torch.float32) for seed in range(3))
    found = []
    for dtype in (torch.float32, torch.float64):
        module = NormReLUPool(4, dtype=dtype)
        inputs = y.to(dtype).requires_grad_()
        out = module(inputs, pool)
        ends = grad[tuple(slice(size) for size in out.shape)].to(dtype)
        dy = torch.autograd.grad(out, inputs, ends, create_graph=True)[0]
        found.append(torch.autograd.grad(dy, inputs, u.to(dtype))[0].double())
    error = (found[0] - found[1]).abs().max()
    assert error < 1e-5 * found[1].abs().max()


def test_gradient_of_the_gradient_where_windows_hold_several_largest_numbers():
    y, grad, u = (numbers((8, 4, 6, 6), seed, torch.float64) for seed in range(3))
    found = []
    for layer in (NormReLUPool(4, dtype=torch.float64), plain):
        inputs = y.round().requires_grad_()
        ends = grad[:, :, :3, :3].clone().requires_grad_()
        dy = torch.autograd.grad(layer(inputs, 2), inputs, ends, create_graph=True)[0]
        found.append(torch.autograd.grad(dy, (inputs, ends), u))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-11)


def test_third_derivatives_are_refused():
    y = numbers((3, 2, 4, 4), 0, torch.float64).requires_grad_()
    cubed = (NormReLUPool(2, dtype=torch.float64)(y, 2) ** 3).sum()
    dy = torch.autograd.grad(cubed, y, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no third derivatives"):
        torch.autograd.grad((dy**2).sum(), y, create_graph=True)


def test_what_is_not_fused_is_the_same_in_torch():
    y = numbers((4, 6, 7, 7), 0, torch.float32)
    affine = NormReLUPool(6, affine=True)
    assert not affine.fused(y)
    assert "torch" in repr(affine)
    with torch.no_grad():
        affine.weight.copy_(numbers((6,), 1, torch.float32))
    expected = F.max_pool2d(F.relu(F.batch_norm(y, None, None, affine.weight, training=True)), 2)
    torch.testing.assert_close(affine(y, 2), expected)
    half = NormReLUPool(6)
    assert "fused" in repr(half)
    assert not half.fused(y.half())
    assert half.eval().fused(y) == (y.device.type in backend.EVALUATES)
    assert not half.fused(y.requires_grad_())


def test_autocast_keeps_bf16():
    conv, norm = nn.Conv2d(3, 8, 3), NormReLUPool(8)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(conv(numbers((2, 3, 8, 8), 0, torch.float32)), 2)
    assert out.dtype == torch.bfloat16
    assert norm.running_var is not None
    assert norm.running_var.dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "pool", "message"),
    [
        ((1, 4, 1, 1), 1, "more than 1 value per channel"),
        ((2, 4, 3), 1, "expected 4D input"),
        ((2, 5, 3, 3), 1, "expected 4 channels"),
        ((2, 4, 3, 3), 4, "pool=4"),
        ((2, 4, 3, 3), (1, 0), r"pool=\(1, 0\)"),
    ],
)
def test_refuses(shape, pool, message):
    with pytest.raises(ValueError, match=message):
        NormReLUPool(4)(torch.zeros(shape), pool)


class PlainModule(nn.BatchNorm2d):
    """The plain twin of `NormReLUPool`."""

    def forward(self, input: Tensor, pool=1) -> Tensor:
        return F.max_pool2d(F.relu(super().forward(input)), pool)


@pytest.mark.parametrize(("model", "size"), [(ConvNet, 32), (ConvNet, 9), (ResNet18, 16)])
def test_whole_networks_are_their_plain_twins(model, size):
    torch.manual_seed(0)
    net = model(10, width=4).double()
    twin = copy.deepcopy(net)
    for module in twin.modules():
        for name, child in module.named_children():
            if isinstance(child, NormReLUPool):
                new = PlainModule if child.relu else nn.BatchNorm2d
                setattr(module, name, new(child.num_features, affine=False, dtype=torch.float64))
    assert any(isinstance(module, PlainModule) for module in twin.modules())
    images = numbers((6, 3, size, size), 0, torch.float64)
    for network in (net, twin):
        F.cross_entropy(network(images), torch.arange(6)).backward()
    torch.testing.assert_close(net(images), twin(images), rtol=1e-10, atol=1e-10)
    for (_, ours), (_, theirs) in zip(net.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(net.sphere_parameters(), twin.sphere_parameters(), strict=True):
        size_of = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9 * size_of)
