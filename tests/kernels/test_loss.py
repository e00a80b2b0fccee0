"""The cross-entropy of a pack: the reference against torch, what is refused, launch and code."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fasttrain_kernels.cross_entropy import loss as loss_module
from fasttrain_kernels.cross_entropy.loss import LossSums, choose_loss_backend, cross_entropy


def batch_of(num_models=3, batch=20, num_classes=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_models, batch, num_classes, generator=generator, dtype=dtype)
    return logits, torch.randint(num_classes, (batch,), generator=generator)


def no_sums(num_models=3, num_classes=7):
    return LossSums(
        torch.zeros(num_models, dtype=torch.float64),
        torch.zeros(num_models, num_classes, dtype=torch.int64),
        torch.zeros(num_classes, dtype=torch.int64),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [False, True])
def test_the_reference_is_torchs_loss_and_its_gradient(own, dtype):
    logits, labels = batch_of(dtype=dtype)
    labels = torch.stack([labels, labels.flip(0), labels.roll(3)]) if own else labels
    found = cross_entropy(logits, labels)
    leaf = logits.clone().requires_grad_()
    for model in range(3):
        targets = labels[model] if own else labels
        wide = leaf[model].to(found.losses.dtype)
        loss = F.cross_entropy(wide, targets)
        torch.testing.assert_close(found.losses[model], loss)
        assert found.hits[model] == (wide.argmax(dim=1) == targets).sum()
        loss.backward()
    torch.testing.assert_close(found.gradient, leaf.grad)
    assert found.gradient.dtype == dtype and not found.losses.requires_grad


def test_sums_are_of_every_batch():
    logits, labels = batch_of()
    sums = no_sums()
    for part in (slice(0, 12), slice(12, 20)):
        cross_entropy(logits[:, part], labels[part], sums)
    whole = cross_entropy(logits, labels)
    torch.testing.assert_close(sums.loss, whole.losses * 20)
    assert torch.equal(sums.hits.sum(dim=1), whole.hits)
    assert torch.equal(sums.images, labels.bincount(minlength=7))
    right = logits.argmax(dim=2) == labels
    for model in range(3):
        assert torch.equal(sums.hits[model], labels[right[model]].bincount(minlength=7))


def refused(**changed):
    logits, labels = batch_of()
    given = {"logits": logits, "labels": labels, "sums": no_sums()} | changed
    with pytest.raises(ValueError) as caught:
        cross_entropy(**given)
    return str(caught.value)


@pytest.mark.parametrize("label", [-100, -1, 7])
def test_labels_outside_of_the_classes_are_refused_on_a_cpu(label):
    labels = batch_of()[1]
    labels[4] = label
    assert refused(labels=labels) == f"labels hold {label}: 7 classes are 0..6"


def test_what_does_not_fit_is_refused_before_memory_is_touched():
    logits, labels = batch_of()
    sums = no_sums()
    assert "logits are torch.int64" in refused(logits=logits.long())
    assert "of shape (20, 7)" in refused(logits=logits[0])
    assert "none of them 0" in refused(logits=logits[:, :0], labels=labels[:0])
    assert "labels are torch.int32" in refused(labels=labels.int())
    assert "int64 (20,) or (3, 20) is needed" in refused(labels=labels[:19])
    assert "sums of loss are torch.float32" in refused(sums=sums._replace(loss=sums.loss.float()))
    assert "sums of hits" in refused(sums=sums._replace(hits=sums.hits[:2]))
    turned = sums.hits.T.contiguous().T
    assert "contiguous torch.int64 (3, 7)" in refused(sums=sums._replace(hits=turned))
    own = labels.expand(3, -1)
    assert "sums of images" in refused(labels=own)
    assert "meta" in refused(logits=logits.to("meta"))
    assert "one device" in refused(labels=labels.to("meta"))
    assert "plain tensors" in refused(logits=torch.complex(logits, logits).conj().imag)
    assert "backend='numba' on cpu: allowed are triton, reference" in refused(backend="numba")
    assert "backend='triton' on cpu" in refused(backend="triton")
    assert not any(tensor.any() for tensor in sums)


def test_the_backend_is_that_of_device_and_classes(monkeypatch):
    monkeypatch.setattr(loss_module, "_has_triton", lambda: True)
    assert choose_loss_backend("cpu", 10) == "reference"
    assert choose_loss_backend("cuda", 10) == "triton"
    assert choose_loss_backend("cuda", 4097) == "reference"
    with pytest.raises(ValueError, match="4097 classes: allowed are at most 4096"):
        choose_loss_backend("cuda", 4097, "triton")
    monkeypatch.setattr(loss_module, "_has_triton", lambda: False)
    assert choose_loss_backend("cuda", 10) == "reference"


def compiled(**constants):
    """Rows of the static report for every target."""
    static = pytest.importorskip(
        "fasttrain_kernels.compiled.static", reason="Triton is not installed here"
    )
    made = static.loss_cases()
    if constants:
        made = [dataclasses.replace(case, constants=case.constants | constants) for case in made]
    return [static._row(case, target) for case in made for target in static.TARGETS]


def test_it_compiles_without_spills_or_atomics():
    for row in compiled():
        assert row["spills"] == row["atomics"] == 0, row
        # The sum of the epoch is read, added to and written: the only fp64.
        assert row["fp64"] <= 2 and row["registers"] <= 144, row
        # Every logit is read once and its gradient written once; labels are 8 bytes a row.
        size, columns = (2, 4)[row["gradients"] == "float32"], (1024, 16)["of 10," in label(row)]
        assert row["bytes"] == pytest.approx(2 * size + 8 / columns, rel=1e-2), row


def label(row):
    return f"{row['kernel']}, {row['gradients']}, {row['target']}"


def test_wide_rows_are_vectors():
    rows = [row for row in compiled() if "1000" in row["kernel"]]
    assert rows and all({128} <= row["stores"].keys() for row in rows)


@pytest.mark.parametrize("num_classes", [2, 100, loss_module.MOST_CLASSES])
def test_other_numbers_of_classes_do_not_spill(num_classes):
    triton = pytest.importorskip("fasttrain_kernels.cross_entropy.triton")
    for batch in (1, 128):
        for row in compiled(**triton.constants(batch, num_classes), SHARED=False):
            assert row["spills"] == row["atomics"] == 0, row
            assert row["registers"] <= 144, row


def test_the_launch_is_one_program_per_model(monkeypatch):
    triton = pytest.importorskip("fasttrain_kernels.cross_entropy.triton")
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: launches.append((grid, arguments, constants))

    monkeypatch.setattr(triton, "_cross_entropy_kernel", Kernel())
    logits, labels = batch_of(3, 200, 10, torch.bfloat16)
    sums = no_sums(3, 10)
    found = triton.cross_entropy(logits, labels, sums)
    [(grid, arguments, constants)] = launches
    assert grid == (3,)
    assert all(a is b for a, b in zip(arguments, (logits, labels, found.gradient), strict=False))
    assert arguments[5:8] == tuple(sums) and arguments[8] == 200
    assert found.losses.dtype == torch.float32 and found.gradient.dtype == torch.bfloat16
    assert constants["SHARED"] and constants["SUMS"]
    assert constants["ROWS"] * constants["COLUMNS"] == triton.TILE and constants["num_warps"] == 8
    triton.cross_entropy(logits, labels.expand(3, -1), None)
    assert not launches[1][2]["SHARED"] and not launches[1][2]["SUMS"]
