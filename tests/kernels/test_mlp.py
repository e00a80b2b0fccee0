"""Many steps of small MLPs in one call: equal to plain torch, model by model, and refusals."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fasttrain_kernels.small_mlp.train import MOST, choose_mlp_backend, score_mlp, train_mlp_

from .mlp_problem import CASES, batches, norms, problem

FP32, FP64 = torch.float32, torch.float64


def trained(name, dtype, backend=None):
    """Weights after the steps, and every sum; of an evaluation too."""
    weights, *rest = problem(name, dtype)
    totals = train_mlp_(weights, *rest, *batches(name), backend=backend)
    loss, hits = score_mlp(weights, *rest, backend=backend)
    return [*weights, *totals, loss, hits]


@pytest.mark.parametrize("name", CASES)
def test_fp64_is_plain_torch(name):
    found, expected = trained(name, FP64), trained(name, FP64, "reference")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_fp32_is_as_near_to_fp64_as_plain_torch(name):
    truth = trained(name, FP64, "reference")
    found, eager = trained(name, FP32), trained(name, FP32, "reference")
    for ours, theirs, true in zip(found, eager, truth, strict=True):
        scale = true.abs().max() + 1e-30
        error, allowed = ((x.double() - true).abs().max() / scale for x in (ours, theirs))
        # Twice torch's error, beside an ulp of what sums of one vector's lanes leave.
        assert error <= 2 * allowed + 4e-7


@pytest.mark.parametrize("dtype", [FP32, FP64])
@pytest.mark.parametrize("radius", [1.0, 12.0])
def test_weights_stay_on_their_spheres(dtype, radius):
    weights, *rest = problem("tick", dtype)
    for weight in weights:
        weight *= radius
    order, bounds, rates = batches("tick")
    # The last one moves weights to where fp32 squares overflow.
    rates = torch.tensor([1e-6, 1.0, 1e20], dtype=FP64)
    head = rest[0].clone()
    train_mlp_(weights, *rest, order, bounds, rates, radius=radius)
    off = norms(weights, 3) / radius - 1
    assert off.abs().max() < (1e-13 if dtype == FP64 else 3e-7)
    assert torch.equal(head, rest[0])


def test_a_rate_of_zero_scores_where_it_stands():
    weights, *rest = problem("tick", FP64)
    before = [weight.clone() for weight in weights]
    order, bounds, rates = batches("tick")
    totals = train_mlp_(weights, *rest, order, bounds, torch.zeros_like(rates))
    loss, hits = score_mlp(before, *rest)
    torch.testing.assert_close(totals.loss, loss)
    assert torch.equal(totals.hits.sum(dim=1), hits)
    for weight, old in zip(weights, before, strict=True):
        torch.testing.assert_close(weight, old, rtol=1e-14, atol=1e-16)


def test_hits_are_told_by_class():
    weights, head, inputs, targets = problem("tick", FP64)
    order, bounds, rates = batches("tick")
    totals = train_mlp_(weights, head, inputs, torch.zeros_like(targets), order, bounds, rates)
    assert (totals.hits[:, 0] > 0).all() and (totals.hits[:, 1] == 0).all()


@pytest.mark.parametrize("dtype", [FP32, FP64])
def test_the_same_bits_again_with_other_threads_and_in_several_calls(dtype):
    order, bounds, rates = batches("tick")

    def run(*cuts):
        weights, *rest = problem("tick", dtype)
        sums = []
        for first, last in zip((0, *cuts), (*cuts, len(bounds) - 1), strict=True):
            sums.append(train_mlp_(weights, *rest, order, bounds[first : last + 1], rates))
        return weights, sums

    weights, [totals] = run()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again, [same] = run()
            for found, expected in zip([*again, *same], [*weights, *totals], strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)
    parts, _ = run(1, 4)
    assert all(torch.equal(a, b) for a, b in zip(parts, weights, strict=True))


@pytest.mark.parametrize("dtype", [FP32, FP64])
@pytest.mark.parametrize("name", ["tick", "odd"])
@pytest.mark.parametrize("sick", [None, 0, 1, 2])
def test_a_model_has_the_bits_that_it_has_alone(dtype, name, sick):
    weights, head, inputs, targets = problem(name, dtype)
    order, bounds, rates = batches(name)
    alone = [[weight.chunk(3)[k].clone() for weight in weights] for k in range(3)]
    if sick is not None:
        for weight in weights:
            weight.chunk(3)[sick].fill_(torch.nan)
    totals = train_mlp_(weights, head, inputs, targets, order, bounds, rates)
    for k in range(3):
        own = train_mlp_(
            alone[k], head[k : k + 1], inputs, targets, order, bounds, rates[k : k + 1].clone()
        )
        if k == sick:
            assert totals.loss[k].isnan()
            continue
        for together, single in zip([*weights, *totals], [*alone[k], *own], strict=True):
            assert torch.equal(together.chunk(3)[k], single)


def test_gradients_below_the_range_of_fp32_squares_are_summed():
    weights, head, inputs, targets = problem("tick", FP32)
    order, bounds, rates = batches("tick")
    head *= 1e-23
    found = train_mlp_([w.clone() for w in weights], head, inputs, targets, order, bounds, rates)
    wide = [w.double() for w in weights]
    truth = train_mlp_(wide, head.double(), inputs.double(), targets, order, bounds, rates)
    torch.testing.assert_close(found.grad_norm, truth.grad_norm, rtol=1e-4, atol=0)


def test_a_saturated_logit_has_the_loss_of_plain_torch():
    weights, head, inputs, targets = problem("tick", FP32)
    for factor in (1e3, 1e-3):
        scores = [score_mlp(weights, head * factor, inputs, targets, backend=name)
                  for name in (None, "reference")]  # fmt: skip
        torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-4)


def test_autograd_notices_that_weights_have_changed():
    weights, *rest = problem("tick", FP32)
    version = weights[0]._version
    train_mlp_(weights, *rest, *batches("tick"))
    assert weights[0]._version > version


def test_nothing_to_do():
    weights, head, inputs, targets = problem("tick", FP32)
    order, _, rates = batches("tick")
    totals = train_mlp_(weights, head, inputs, targets, order, torch.tensor([0]), rates)
    assert all((sums == 0).all() for sums in totals)
    loss, hits = score_mlp(weights, head, inputs[:0], targets[:0])
    assert loss.tolist() == hits.tolist() == [0, 0, 0]


def given():
    weights, head, inputs, targets = problem("tick", FP32)
    order, bounds, lr = batches("tick")
    return {
        "weights": weights, "head": head, "inputs": inputs, "targets": targets, "order": order,
        "bounds": bounds, "lr": lr,
    }  # fmt: skip


def freed(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


REFUSED = {
    "of three dimensions": ("head", lambda h: h[None], "the head is"),
    "half": ("head", lambda h: h.half(), "fp32 or fp64"),
    "another type": ("inputs", lambda x: x.double(), "one type is needed"),
    "another shape": ("weights", lambda w: [w[0], w[1][1:]], r"weights of layer 1 .* \(96, 32\)"),
    "no layer": ("weights", lambda w: [], "layers = 0: allowed are 1 to 8"),
    "strides": ("inputs", lambda x: x.T.contiguous().T, "plain contiguous"),
    "expanded": ("weights", lambda w: [w[0], w[1][:1].expand(96, 32)], "plain contiguous"),
    "freed": ("weights", lambda w: [w[0], freed(w[1])], "needs 12288 bytes"),
    "negated": ("inputs", lambda x: torch._neg_view(x), "plain contiguous"),
    "the same twice": ("weights", lambda w: [w[0], w[0]], "share memory"),
    "elsewhere": ("inputs", lambda x: x.to("meta"), "one device|plain"),
    "a row too far": ("order", lambda o: o + 1, "order are 1 to 80: allowed are 0 to 79"),
    "a negative row": ("order", lambda o: o - 1, "order are -1 to 78"),
    "a third class": ("targets", lambda t: t + 1, "targets are 1 to 2"),
    "targets of floats": ("targets", lambda t: t.double(), "targets are torch.float64"),
    "too few targets": ("targets", lambda t: t[1:], "79 targets for 80 inputs"),
    "an empty batch": ("bounds", lambda b: torch.tensor([0, 0, 5]), "bounds"),
    "beyond the order": ("bounds", lambda b: b + 1, "bounds"),
    "before it": ("bounds", lambda b: b - 1, "bounds"),
    "rates of fp32": ("lr", lambda r: r.float(), "rates are torch.float32"),
    "too few rates": ("lr", lambda r: r[:2], "rates are"),
    "a rate that fp32 lacks": ("lr", lambda r: r * 1e40, "allowed are 0 and 1e-20 to 1e"),
    "a negative rate": ("lr", lambda r: -r, "allowed are 0 and"),
    "no rate": ("lr", lambda r: r * torch.nan, "a rate is nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    name, change, message = REFUSED[case]
    arguments = given()
    arguments[name] = change(arguments[name])
    with pytest.raises(ValueError, match=message):
        train_mlp_(**arguments)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"radius": 0.0}, "radius = 0"),
        ({"radius": 1e7}, "allowed are 1e-06 to 1e"),
        ({"eps": 0.0}, "eps = 0.0"),
        ({"backend": "numpy"}, "backend='numpy' on cpu: allowed are numba, triton, reference"),
        ({"backend": "triton"}, "backend='triton' on cpu"),
    ],
)
def test_options_that_do_not_fit_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        train_mlp_(**given(), **option)


def test_sizes_beyond_the_bounds_are_refused():
    wide = torch.zeros(1, MOST["width"] + 1)
    with pytest.raises(ValueError, match="width = 129: allowed are 1 to 128"):
        score_mlp([torch.zeros(129, 3)], wide, torch.zeros(2, 3), torch.zeros(2).long())
    arguments = given()
    arguments["order"] = torch.zeros(200, dtype=torch.int64)
    arguments["bounds"] = torch.tensor([0, 129])
    with pytest.raises(ValueError, match="batch = 129: allowed are 1 to 128"):
        train_mlp_(**arguments)


def test_nothing_is_computed_on_fake_tensors():
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="FakeTens"):
        train_mlp_(**given())


def test_backends_by_device_and_size():
    assert choose_mlp_backend("cpu", 128, 128) == "numba"
    assert choose_mlp_backend("cuda", 33, 16) == "reference"
    assert choose_mlp_backend("cuda", 32, 16) in ("triton", "reference")
    with pytest.raises(ValueError, match="width = 33, batch = 16: allowed are at most 32 and 32"):
        choose_mlp_backend("cuda", 33, 16, "triton")
