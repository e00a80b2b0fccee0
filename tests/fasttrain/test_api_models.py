"""Networks out of a store: score as when they were trained, and need nothing else any more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fasttrain as ft
from fasttrain.store.store import Store
from fasttrain_data import ImageData, load, open_loader

GRID = {"plr": [1e-2], "flr": [1e-2], "k": [2], "epochs": 2, "finetune_epochs": 1}
SMALL = {"n_train": 150, "n_test": 60, "width": 2}
HOW = {"processes": 1, "pack": 4, "device": "cpu"}
PRACTICAL = {"form": "practical", "optimizer": {"kind": "adam"}, "plr": [3e-3], "batch_size": 50}


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load("digits").subset(150, 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> ft.Results:
    store = tmp_path_factory.mktemp("models") / "store"
    return ft.sweep(ft.study("digits", **GRID, **SMALL), store=store, **HOW)


def accuracy(model: ft.Classifier, images: ImageData) -> float:
    return float(np.mean(model.predict(images.test_images).numpy() == images.test_labels))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**PRACTICAL, "model": "mlp"},
        {"model": "resnet18", "precision": "bf16", "n_train": 100, "n_test": 40},
        {"loss": "squared", "optimizer": {"scope": "filter"}},
    ],
    ids=["digits", "practical mlp", "bf16 resnet18", "squared loss"],
)
def test_every_model_has_the_accuracy_of_its_row(tmp_path, changes):
    keys = {**GRID, **SMALL, **changes}
    found = ft.sweep(ft.study("digits", **keys), store=tmp_path / "store", **HOW)
    data = load("digits").subset(keys["n_train"], keys["n_test"])
    assert set(found.stages["kind"]) == {"pretrain", "finetune", "swa"}
    for row in found.stages.to_dict("records"):
        model = ft.load_model(found.store, row["stage"])
        assert not model.training
        assert accuracy(model, data) == row["test_accuracy"], row["kind"]


def test_two_classes_of_one_output(tmp_path):
    """And without the images, which have been moved away."""
    whole = load("digits")
    parts = {}
    for split in ("train", "test"):
        pictures, labels = whole.split(split)
        chosen = labels < 2
        parts |= {f"{split}_images": pictures[chosen], f"{split}_labels": labels[chosen]}
    path = tmp_path / "two.npz"
    np.savez(path, **parts)
    keys = {**GRID, "width": 2, "dataset": str(path), "loss": "binary-cross-entropy"}
    found = ft.sweep(ft.study("digits", **keys), store=tmp_path / "store", **HOW)
    path.unlink()
    for row in found.stages.to_dict("records"):
        model = ft.load_model(found.store, row["stage"])
        assert model(parts["test_images"]).shape == (len(parts["test_labels"]), 1)
        right = model.predict(parts["test_images"]).numpy() == parts["test_labels"]
        assert np.mean(right) == row["test_accuracy"] and row["test_accuracy"] > 0.5


def test_bytes_and_normalised_images_are_the_same(results, images):
    model = ft.load_model(results.store, results.stages["stage"][0])
    loader = open_loader(images, "test", batch_size=60)
    [(batch, _)] = loader.epoch(0)
    as_bytes = torch.from_numpy(images.test_images)
    assert torch.equal(model(as_bytes), model(batch))
    assert torch.equal(model(images.test_images), model(batch))
    assert torch.equal(model(batch.double().float()), model(batch))


def test_it_is_an_ordinary_module(results, images, tmp_path):
    model = ft.load_model(results.store, results.stages["stage"][0])
    assert isinstance(model, torch.nn.Module)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = ft.load_model(results.store, results.stages["stage"][1])
    assert not torch.equal(model(images.test_images), other(images.test_images))
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(model(images.test_images), other(images.test_images))
    model(images.test_images).sum().backward()
    before = torch.get_rng_state()
    ft.load_model(results.store, results.stages["stage"][0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "uint8 .N, H, W, C. with 1 channels"),
        (torch.zeros(8, 8, 1, dtype=torch.uint8), "uint8 .N, H, W, C."),
        (torch.zeros(2, 8, 8, 1), "normalised .N, C, H, W."),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "images are torch.int64"),
    ],
)
def test_other_images_are_refused(results, wrong, message):
    with pytest.raises(ft.UsageError, match=message):
        ft.load_model(results.store, results.stages["stage"][0])(wrong)


def test_what_ended_without_a_network_has_no_model(tmp_path):
    keys = {**GRID, "plr": [1e30], "optimizer": {"kind": "sgd"}, "form": "practical"}
    found = ft.sweep(ft.study("digits", **{**keys, **SMALL}), store=tmp_path / "store", **HOW)
    assert set(found.stages["state"]) == {"non-finite"}
    with pytest.raises(ft.UsageError, match="ended non-finite: it has no network"):
        ft.load_model(found.store, found.stages["stage"][0])


def test_a_stage_of_an_earlier_version_says_what_it_lacks(results, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(results.store, path)
    store = Store.open(path, create=False)
    rows = results.stages.set_index("kind")["stage"]
    for kind, lacking in (("pretrain", "image_shape, mean, std"), ("swa", "batch-normalisation")):
        _as_before(store, rows[kind], statistics=kind != "swa")
        with pytest.raises(ft.EnvironmentProblem, match=f"lacks .*{lacking}"):
            ft.load_model(path, rows[kind])
    assert len(ft.Results(path).stages) == 3


def _as_before(store: Store, stage: str, *, statistics: bool) -> None:
    """Make the stage one that was made before models could be loaded."""
    from fasttrain.machine.files import tensors_to_bytes

    folder: Path = store.path / stage
    about = json.loads((folder / "stage.json").read_bytes())
    for name in ("image_shape", "mean", "std"):
        del about[name]
    files = {"metrics.parquet": (folder / "metrics.parquet").read_bytes()}
    tensors = store.read_tensors(stage, "state.safetensors")
    kept = {n: t for n, t in tensors.items() if statistics or not n.startswith("statistics.")}
    files["state.safetensors"] = tensors_to_bytes(kept)
    summary = store.summary(stage)
    assert summary is not None
    store.begin(stage, about)
    store.finish(stage, files, {n: v for n, v in summary.items() if n not in ("id", "files")})
