"""The losses of a setting: the best constant guess of each, and that each trains."""

import math

import numpy as np
import pytest
import torch

import fasttrain as package
from fasttrain.settings import losses
from fasttrain.settings.losses import LOSSES
from fasttrain.training.chance import chance_of
from fasttrain_kernels.cross_entropy.loss import LossSums

SHARES = np.array([0.3, 0.7])


@pytest.mark.parametrize("kind", LOSSES)
def test_the_best_guess_of_a_loss_is_the_least_of_constant_outputs(kind):
    loss = LOSSES[kind]
    labels = torch.tensor([0] * 3 + [1] * 7)
    constant = torch.zeros(1, loss.outputs(2), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=100, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = loss(constant.expand(10, -1), labels)[0].sum()
        total.backward()
        return total

    optimizer.step(closure)
    least, hits = loss(constant.detach().expand(10, -1), labels)
    assert least.item() == pytest.approx(loss.guess(SHARES), rel=1e-6)
    assert chance_of(labels.numpy(), loss.guess).loss == pytest.approx(loss.guess(SHARES))
    # The more frequent class is the guess.
    assert hits.double().mean().item() == pytest.approx(0.7)


def test_binary_cross_entropy_is_the_cross_entropy_of_a_difference():
    logits, labels = torch.randn(3, 20, 1), torch.randint(2, (20,))
    binary = LOSSES["binary-cross-entropy"](logits, labels)
    two = LOSSES["cross-entropy"](torch.cat([torch.zeros_like(logits), logits], dim=2), labels)
    torch.testing.assert_close(binary[0], two[0])
    assert torch.equal(binary[1], two[1])
    assert math.isfinite(float(binary[0].sum()))


@pytest.mark.parametrize("shape", [(20, 3), (4, 20, 3)], ids=["one model", "a pack"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_kernel_gives_the_gradients_and_sums_of_torchs_operations(monkeypatch, shape, dtype):
    labels, weights = torch.randint(3, (20,)), torch.randn(shape, dtype=dtype)

    def taken() -> list[torch.Tensor]:
        weight, sums = weights.clone().requires_grad_(), sums_of_pack(weights.ndim == 3)
        for _ in range(2):
            LOSSES["cross-entropy"].backward(weight * 1.0, labels, sums)
        assert weight.grad is not None
        return [weight.grad, *sums]

    expected = taken()
    # Its reference, on this device.
    monkeypatch.setattr(losses, "choose_loss_backend", lambda *_: "triton")
    for found, wanted in zip(taken(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def sums_of_pack(pack: bool) -> LossSums:
    count, whole = 4 if pack else 1, torch.zeros(4, 3, dtype=torch.int64)
    return LossSums(
        torch.zeros(count, dtype=torch.float64), whole[:count].clone(), whole[0].clone()
    )


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("loss", ["binary-cross-entropy", "squared"])
def test_every_loss_trains(fasttrain, tiny, tmp_path, model, loss):
    images = np.random.default_rng(0).integers(0, 255, (160, 8, 8, 1), dtype=np.uint8)
    labels = (np.arange(160) % 2).astype(np.int64)
    images[labels == 1, :4] //= 4
    np.savez(
        tmp_path / "two.npz",
        train_images=images[:120],
        train_labels=labels[:120],
        test_images=images[120:],
        test_labels=labels[120:],
    )
    tiny.write_text(tiny.read_text().replace("n_train = 150\nn_test = 50\n", ""))
    flags = ("--dataset", tmp_path / "two.npz", "--loss", loss, "--model", model, "--width", "4")
    flags += ("--optimizer", "sgd", "--momentum", "0.9", "--form", "practical", "--quiet")
    flags += ("--plr", "0.02", "--k", "none", "--epochs", "20")
    flags += ("--store", "two")
    assert fasttrain("sweep", tiny, *flags).code == 0
    table = package.load(tmp_path / "two")
    assert (table["train_accuracy"] > 0.9).all()
    guess = LOSSES[loss].guess(np.array([0.5, 0.5]))
    assert (table["train_loss"] < guess).all()
