"""Data sets from `.npz` files: both forms, the sibling rule, and what is converted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrain_data import DataError, load, open_loader
from fasttrain_data.sources.npz import save_npz

from .npz_files import IMAGES, LABELS, ONE_FILE, pair, refused, save


def test_one_file(tmp_path):
    data = load(save(tmp_path / "mine.npz", **ONE_FILE))
    assert data.name == "mine"
    np.testing.assert_array_equal(data.train_images, IMAGES)
    np.testing.assert_array_equal(data.test_labels, LABELS[:6])
    assert data.class_names == ("0", "1", "2")
    np.testing.assert_allclose(data.mean, (IMAGES / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, (IMAGES / 255).std((0, 1, 2)), rtol=1e-12)


def test_optional_arrays(tmp_path):
    data = load(
        save(
            tmp_path / "mine.npz",
            **ONE_FILE,
            class_names=np.array(["a", "b", "c", "unused"]),
            mean=np.array([0.1, 0.2, 0.3]),
            std=np.array([1, 1, 2]),
        )
    )
    assert data.class_names == ("a", "b", "c", "unused")
    assert data.mean == (0.1, 0.2, 0.3)
    assert data.std == (1.0, 1.0, 2.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, ">i4"])
def test_any_integer_labels_become_int64(tmp_path, dtype):
    arrays = ONE_FILE | {"train_labels": LABELS.astype(dtype)}
    data = load(save(tmp_path / "mine.npz", **arrays))
    assert data.train_labels.dtype == np.int64
    np.testing.assert_array_equal(data.train_labels, LABELS)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("set_train.npz", "set_test.npz"),
        ("set_train_12.npz", "set_test_6.npz"),
        ("train.npz", "test.npz"),
        ("pretrain[1]_train.npz", "pretrain[1]_test_small.npz"),
    ],
)
def test_the_test_file_is_found_beside_the_train_file(tmp_path, train, test):
    path = pair(tmp_path, train, test)
    save(tmp_path / "other_test.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "set_test.txt").write_text("not a data file")
    data = load(path)
    assert data.name == Path(train).stem
    assert (len(data.train_labels), len(data.test_labels)) == (12, 6)


def test_an_exact_name_wins_over_others(tmp_path):
    path = pair(tmp_path)
    save(tmp_path / "set_test_3.npz", images=IMAGES[:3], labels=LABELS[:3])
    assert len(load(path).test_labels) == 6


def test_no_or_several_test_files_are_refused(tmp_path):
    path = pair(tmp_path, "set_train_12.npz", "set_test_6.npz")
    save(tmp_path / "set_test_3.npz", images=IMAGES[:3], labels=LABELS[:3])
    expected = str(tmp_path / "set_test_12.npz")
    refused(path, "2 test files (set_test_3.npz, set_test_6.npz)", f"{expected} is expected")
    (tmp_path / "set_test_3.npz").unlink()
    (tmp_path / "set_test_6.npz").unlink()
    refused(path, "has no test file", expected, "set_test*.npz")


def test_the_test_file_alone_is_refused(tmp_path):
    pair(tmp_path)
    refused(tmp_path / "set_test.npz", "the train file of a pair", "'train' in its name")


def test_the_digest_does_not_depend_on_form_or_place(tmp_path):
    one = load(save(tmp_path / "mine.npz", **ONE_FILE))
    assert load(pair(tmp_path)).digest == one.digest


CONVERTED = {
    "gray": ({k: v[..., 0] if "images" in k else v for k, v in ONE_FILE.items()}, "gray"),
    "channels first": (
        {"train_images": IMAGES.transpose(0, 3, 1, 2)},
        "train_images: (N, C, H, W) as (N, H, W, C)",
    ),
    "float32": ({"train_images": (IMAGES / 255).astype(np.float32)}, "float32 times 255, rounded"),
    "rounded floats": (
        {"train_images": (IMAGES - 0.25).clip(0) / 255},
        "float64 times 255, rounded",
    ),
    "float16": ({"test_images": (IMAGES[:6] / 255).astype(np.float16)}, "float16 times 255"),
    "whole floats": ({"train_images": IMAGES.astype(np.float64)}, "float64 cast to uint8"),
    "int64": ({"train_images": IMAGES.astype(np.int64)}, "int64 cast to uint8"),
    "column labels": ({"train_labels": LABELS[:, None]}, "train_labels: (N, 1) as (N,)"),
    "beside": ({"indices": np.arange(12)}, "indices is not used"),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_other_forms_are_converted_to_the_same_images_and_said(tmp_path, case):
    changes, note = CONVERTED[case]
    data = load(save(tmp_path / "mine.npz", **(ONE_FILE | changes)))
    expected = load(save(tmp_path / "usual.npz", **ONE_FILE))
    assert expected.notes == ()
    assert note in "; ".join(data.notes)
    if case == "gray":
        np.testing.assert_array_equal(data.train_images, IMAGES[..., :1])
        np.testing.assert_array_equal(data.test_images, IMAGES[:6, ..., :1])
    else:
        assert data.digest == expected.digest


def test_black_and_white_becomes_0_and_255(tmp_path):
    data = load(save(tmp_path / "mine.npz", **(ONE_FILE | {"train_images": IMAGES > 127})))
    np.testing.assert_array_equal(data.train_images, (IMAGES > 127) * np.uint8(255))


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("train_data", "train_targets", "test_data", "test_targets"),
    ],
)
def test_other_names_are_known(tmp_path, names):
    data = load(save(tmp_path / "mine.npz", **dict(zip(names, ONE_FILE.values(), strict=True))))
    assert data.digest == load(save(tmp_path / "usual.npz", **ONE_FILE)).digest


def test_probe_sets_are_evaluation_sets_and_part_of_the_digest(tmp_path):
    probe = {"probe_upside-down_images": IMAGES[:5, ::-1], "probe_upside-down_labels": LABELS[:5]}
    data = load(save(tmp_path / "mine.npz", **ONE_FILE, **probe))
    plain = load(save(tmp_path / "usual.npz", **ONE_FILE))
    assert list(data.probes) == ["upside-down"] and not plain.probes
    images, labels = data.split("upside-down")
    np.testing.assert_array_equal(images, IMAGES[:5, ::-1])
    loader = open_loader(data, "upside-down", batch_size=3)
    batches = list(loader.epoch(0))
    assert torch.cat([labels for _, labels in batches]).tolist() == labels.tolist()
    assert data.digest != plain.digest
    others = {"probe_upside-down_images": IMAGES[:5], "probe_upside-down_labels": LABELS[:5]}
    assert load(save(tmp_path / "other.npz", **ONE_FILE, **others)).digest != data.digest
    assert data.subset(6, 3).probes.keys() == data.probes.keys()
    with pytest.raises(DataError, match="use 'train' or 'test' or 'upside-down'"):
        data.split("upside")


def test_what_is_saved_is_read_again(tmp_path):
    probe = {"probe_a_images": IMAGES[:5], "probe_a_labels": LABELS[:5]}
    data = load(save(tmp_path / "mine.npz", **ONE_FILE, **probe, mean=np.full(3, 0.25)))
    save_npz(data, tmp_path / "saved.npz")
    again = load(tmp_path / "saved.npz")
    assert (again.digest, again.class_names) == (data.digest, data.class_names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.npz", "saved.npz"]


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "mine.npz", **ONE_FILE)
    assert load("~/mine.npz").name == "mine"
