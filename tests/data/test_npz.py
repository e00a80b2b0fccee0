"""Data sets from `.npz` files: both forms, the sibling rule, and every kind of bad file."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrain_data import DataError, load, open_loader
from fasttrain_data.sources.npz import save_npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
ONE_FILE = {
    "train_images": IMAGES,
    "train_labels": LABELS,
    "test_images": IMAGES[:6],
    "test_labels": LABELS[:6],
}


def save(path: Path, **arrays) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def pair(folder: Path, train: str = "set_train.npz", test: str = "set_test.npz") -> Path:
    save(folder / test, images=IMAGES[:6], labels=LABELS[:6])
    return save(folder / train, images=IMAGES, labels=LABELS, indices=np.arange(12))


def refused(path: Path | str, *parts: str) -> None:
    """Loading fails in one line that holds every part."""
    with pytest.raises(DataError) as caught:
        load(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


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


REFUSED = {
    "normalised images": (
        {"train_images": IMAGES / 255 - 0.5},
        "train_images is float64 in -0.5..0.5: floats in [0, 1] or 0..255 are needed",
    ),
    "NaN": ({"train_images": np.full(IMAGES.shape, np.nan)}, "train_images is float64 in nan"),
    "fractions": ({"test_images": IMAGES[:6] * 0.5}, "whole numbers, or floats in [0, 1]"),
    "two scales": (
        {"train_images": IMAGES / 255, "test_images": IMAGES[:6] / 1},
        "train_images is float64 in 0..255 and holds 0.",
    ),
    "16 bits": (
        {"train_images": IMAGES.astype(np.int32) * 257},
        "train_images is int32 in 0..65535: 0..255 is needed",
    ),
    "complex": ({"train_images": IMAGES.astype(complex)}, "is complex128, uint8 is needed"),
    "transparency": (
        {"train_images": np.zeros((12, 5, 4, 4), np.uint8)},
        "leave transparency out: images[..., :3]",
    ),
    "text labels": (
        {"train_labels": np.array(["cat"] * 12)},
        "train_labels is text ('cat'): numbers 0..K-1 are needed; class_names, labels = np.unique",
    ),
    "one column a class": (
        {"train_labels": np.eye(3, dtype=int)[LABELS]},
        "train_labels has shape (12, 3), (N,) is needed; labels.argmax(axis=1)",
    ),
    "two names": ({"x_train": IMAGES}, "train_images and x_train say the same"),
    "half a probe set": ({"probe_a_images": IMAGES}, "there is no probe_a_labels"),
    "probe set of another shape": (
        {"probe_a_images": IMAGES[:, :4], "probe_a_labels": LABELS},
        "but probe_a_images are (4, 4, 3)",
    ),
    "probe set of other classes": (
        {"probe_a_images": IMAGES, "probe_a_labels": LABELS + 1},
        "probe_a_labels holds 3",
    ),
    "name of a probe set": (
        {"probe_a b_images": IMAGES, "probe_a b_labels": LABELS},
        "probe set 'a b': a name has small letters",
    ),
    "flat images": ({"train_images": IMAGES.reshape(12, -1)}, "train_images has shape (12, 60)"),
    "no images": ({"train_images": IMAGES[:0]}, "train_images has shape (0, 5, 4, 3)"),
    "float labels": ({"train_labels": LABELS / 1}, "train_labels is float64, an integer type"),
    "bool labels": ({"test_labels": LABELS[:6] > 0}, "test_labels is bool, an integer type"),
    "no labels": ({"train_labels": LABELS[:0]}, "class_names is empty"),
    "few labels": ({"test_labels": LABELS[:5]}, "test has 6 images but 5 labels"),
    "labels from 1": ({"train_labels": LABELS + 1}, "the train labels have 1 but not 0"),
    "label gap": (
        {"train_labels": np.where(LABELS == 2, 7, LABELS)},
        "the train labels have 7 but not 2",
    ),
    "unseen test label": ({"test_labels": LABELS[:6] + 1}, "test_labels holds 3"),
    "huge label": ({"test_labels": np.full(6, 2**64 - 1, np.uint64)}, "test_labels holds -1"),
    "other test shape": ({"test_images": IMAGES[:6, :4]}, "test_images are (4, 4, 3)"),
    "class name bytes": ({"class_names": np.array([b"a"])}, "class_names is |S1"),
    "few class names": ({"class_names": np.array(["a"])}, "train_labels holds 1"),
    "one std": ({"std": np.array([0.2])}, "std has 1 values for 3 channels"),
    "scalar mean": ({"mean": np.array(0.2)}, "mean is float64 of shape ()"),
    "text mean": ({"mean": np.array(["a", "b", "c"])}, "mean is <U1 of shape (3,)"),
    "pickled": (
        {"train_labels": np.array([None] * 12)},
        "array 'train_labels' cannot be read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arrays_are_refused(tmp_path, case):
    changes, message = REFUSED[case]
    refused(save(tmp_path / "mine.npz", **(ONE_FILE | changes)), message)


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


def test_missing_arrays_are_refused(tmp_path):
    path = save(tmp_path / "mine.npz", x_train=IMAGES, train_labels=LABELS)
    refused(path, "['x_train', 'train_labels']", "'train_images'", "'images'")
    path = pair(tmp_path)
    save(tmp_path / "set_test.npz", images=IMAGES)
    with pytest.raises(DataError, match="set_test.npz holds no array 'labels'"):
        load(path)


def test_a_fault_of_the_pair_names_both_files(tmp_path):
    path = pair(tmp_path)
    save(tmp_path / "set_test.npz", images=IMAGES, labels=LABELS + 5)
    refused(path, "with set_test.npz", "test_labels holds 5")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "absent.npz", "cannot be read: No such file")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "is no file")


@pytest.mark.parametrize("size", [0, 10, 400, -1])
def test_truncated_files_are_refused(tmp_path, size):
    path = save(tmp_path / "mine.npz", **ONE_FILE)
    path.write_bytes(path.read_bytes()[:size])
    refused(path, "is damaged or no npz file")


def test_a_bare_array_and_text_are_refused(tmp_path):
    path = tmp_path / "bare.npz"
    with path.open("wb") as file:
        np.save(file, IMAGES)
    refused(path, "no npz file")
    path.write_text("hello")
    refused(path, "no npz file")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = save(tmp_path / "mine.npz", **{k: v for k, v in ONE_FILE.items() if k != "test_labels"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("test_labels", "1,2,3")
    refused(path, "array 'test_labels' cannot be read (not in npy format)")


def test_a_broken_array_header_is_refused(tmp_path):
    header = b"{'descr': (".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path = save(tmp_path / "mine.npz", **{k: v for k, v in ONE_FILE.items() if k != "test_labels"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("test_labels.npy", content)
    refused(path, "array 'test_labels' cannot be read")


@pytest.mark.parametrize("save_archive", [np.savez, np.savez_compressed])
def test_flipped_bits_never_change_the_data_silently(tmp_path, save_archive):
    path = tmp_path / "mine.npz"
    save_archive(path, **ONE_FILE)
    sound, digest = path.read_bytes(), load(path).digest
    rng = np.random.default_rng(0)
    outcomes = set()
    for position in rng.integers(0, len(sound), 200):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            outcomes.add(load(path).digest)
        except DataError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    # Some bits, a date for example, mean nothing to the data.
    assert "refused" in outcomes
    assert outcomes <= {"refused", digest}


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "mine.npz", **ONE_FILE)
    assert load("~/mine.npz").name == "mine"
