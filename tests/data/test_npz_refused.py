"""`.npz` files that are refused: bad arrays, missing members, damage; each by one clear error."""

import zipfile

import numpy as np
import pytest

from fasttrain_data import DataError, load

from .npz_files import IMAGES, LABELS, ONE_FILE, pair, refused, save

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
