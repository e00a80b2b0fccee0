"""The Triton cross-entropy against plain torch; run by `test_triton_kernels.py`, or by hand:

TRITON_INTERPRET=1 pytest tests/kernels/loss_triton_cases.py
"""

import os

import pytest
import torch

from fasttrain_kernels.cross_entropy import reference
from fasttrain_kernels.cross_entropy import triton as loss_triton
from fasttrain_kernels.cross_entropy.loss import LossSums

# numpy, which interprets, warns of numbers that are none; rows beyond a batch are such.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

SHAPES = [(1, 1, 2), (3, 7, 10), (2, 128, 10), (1, 300, 10), (2, 37, 100), (1, 5, 1000), (2, 3, 1)]
"""Models, images, classes; several of them take more than one tile."""


def batch_of(shape, dtype=torch.float64, *, own=False, scale=4.0):
    generator = torch.Generator().manual_seed(sum(shape))
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(shape[2], shape[:2] if own else shape[1:2], generator=generator)
    return logits.to(dtype), labels


def sums_of(shape, *, own=False):
    """Of earlier batches: what is there is added to."""
    num_models, _, num_classes = shape
    loss = torch.arange(num_models, dtype=torch.float64) + 0.5
    hits = torch.arange(num_models * num_classes).view(num_models, num_classes)
    images = (hits if own else hits[0]) * 3
    return LossSums(loss, hits.clone(), images.clone())


def found(logits, labels, sums=None, run=loss_triton.cross_entropy, device=DEVICE):
    """Losses, hits, gradient and sums, on the host."""
    given = None if sums is None else LossSums(*(tensor.to(device, copy=True) for tensor in sums))
    result = run(logits.to(device), labels.to(device), given)
    return [value.cpu() for value in (*result, *(given or ()))]


def stated(logits, labels, sums=None):
    return found(logits, labels, sums, reference.cross_entropy, "cpu")


@pytest.mark.parametrize("own", [False, True], ids=["labels shared", "labels of every model"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp64_is_the_reference(shape, own):
    logits, labels = batch_of(shape, own=own)
    sums = sums_of(shape, own=own)
    for ours, theirs in zip(found(logits, labels, sums), stated(logits, labels, sums), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_near_to_fp64_as_plain_torch(shape, dtype):
    logits, labels = batch_of(shape, dtype)
    sums = sums_of(shape)
    truth = stated(logits.double(), labels, sums)
    # The interpreter cuts bf16 off instead of rounding it.
    ulp = torch.finfo(dtype).eps
    for ours, theirs, true in zip(
        found(logits, labels, sums), stated(logits, labels, sums), truth, strict=True
    ):
        assert ours.dtype == theirs.dtype
        if not ours.is_floating_point():
            assert torch.equal(ours, true)
            continue
        scale = true.abs().max() + 1e-30
        error, allowed = ((x.double() - true).abs().max() / scale for x in (ours, theirs))
        assert error <= 2 * allowed + (ulp if ours.dtype == dtype else 4e-7)


def test_large_logits_do_not_overflow():
    logits, labels = batch_of((2, 20, 10), torch.float32, scale=1e30)
    losses, hits, gradient = found(logits, labels)
    expected = stated(logits, labels)
    torch.testing.assert_close(losses, expected[0])
    assert torch.equal(hits, expected[1]) and torch.equal(gradient, expected[2])


INF, NAN = float("inf"), float("nan")
ODD = {
    "a NaN": [0.0, NAN, 2.0, 1.0],
    "two NaN": [0.0, 5.0, NAN, NAN],
    "all NaN": [NAN] * 4,
    "inf": [0.0, INF, 1.0, 2.0],
    "two inf": [INF, 1.0, INF, 2.0],
    "inf and NaN": [INF, 1.0, NAN, 2.0],
    "-inf": [0.0, -INF, 1.0, 2.0],
    "all -inf": [-INF] * 4,
}


@pytest.mark.parametrize("label", range(4))
@pytest.mark.parametrize("odd", ODD)
def test_logits_that_are_no_numbers_are_as_in_torch(odd, label):
    logits, labels = batch_of((3, 6, 4), torch.float32)
    labels[2] = label
    healthy = found(logits, labels, sums_of(logits.shape))
    logits[1, 2] = torch.tensor(ODD[odd])
    expected = stated(logits, labels, sums_of(logits.shape))
    ours = found(logits, labels, sums_of(logits.shape))
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    for mine, before in zip(ours[:5], healthy[:5], strict=True):
        assert torch.equal(mine[0], before[0]) and torch.equal(mine[2], before[2])


def test_the_first_of_equal_logits_is_predicted():
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 2:4] = 1.0
    logits[0, 2, 4] = -1.0
    for label, hits in ((0, 3), (2, 1), (3, 0), (4, 0)):
        assert found(logits, torch.full((4,), label))[1].tolist() == [hits]


@pytest.mark.parametrize("label", [-100, -1, 4, 2**40])
def test_no_label_outside_of_the_classes_is_left_out(label):
    logits, labels = batch_of((2, 6, 4), torch.float32)
    before = found(logits, labels)[2]
    labels[3] = label
    losses, _, gradient = found(logits, labels)
    assert losses.isnan().all() and gradient[:, 3].isnan().all()
    rest = [0, 1, 2, 4, 5]
    assert torch.equal(gradient[:, rest], before[:, rest])


def test_sums_of_two_batches_are_those_of_both():
    logits, labels = batch_of((2, 50, 10), torch.float32)
    sums = LossSums(*(tensor.to(DEVICE) for tensor in sums_of(logits.shape)))
    for part in (slice(0, 32), slice(32, 50)):
        loss_triton.cross_entropy(logits[:, part].to(DEVICE), labels[part].to(DEVICE), sums)
    once = found(logits, labels, sums_of(logits.shape))[3:]
    torch.testing.assert_close(sums.loss.cpu(), once[0])
    assert torch.equal(sums.hits.cpu(), once[1]) and torch.equal(sums.images.cpu(), once[2])


def test_bits_of_a_model_depend_on_no_other():
    logits, labels = batch_of((5, 40, 10), torch.float32)
    whole = found(logits, labels, sums_of(logits.shape))
    for model in range(5):
        loss, hits, images = sums_of(logits.shape)
        start = LossSums(loss[model : model + 1], hits[model : model + 1], images)
        alone = found(logits[model : model + 1], labels, start)
        for mine, theirs in zip(alone[:5], whole[:5], strict=True):
            assert torch.equal(mine[0], theirs[model])
        assert torch.equal(alone[5], whole[5])


def test_logits_may_lie_in_any_order():
    logits, labels = batch_of((3, 7, 10), torch.float32)
    turned = logits.transpose(0, 1).contiguous().transpose(0, 1)
    for mine, theirs in zip(found(turned, labels), found(logits, labels), strict=True):
        assert torch.equal(mine, theirs)
