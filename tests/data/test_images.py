"""`ImageData`: what it refuses, its digest, and balanced subsets."""

from dataclasses import replace

import numpy as np
import pytest

from fasttrain_data import DataError, ImageData
from fasttrain_data.images import channel_statistics


def make(num_train=60, num_test=24, num_classes=4, channels=3, **changes):
    rng = np.random.default_rng(0)
    fields = {
        "name": "made",
        "train_images": rng.integers(0, 256, (num_train, 6, 5, channels), dtype=np.uint8),
        "train_labels": rng.permutation(np.arange(num_train) % num_classes),
        "test_images": rng.integers(0, 256, (num_test, 6, 5, channels), dtype=np.uint8),
        "test_labels": np.arange(num_test) % num_classes,
        "class_names": tuple("abcdefgh"[:num_classes]),
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
    }
    return ImageData(**(fields | changes))


GOOD = make()

REFUSED = {
    "float images": (
        {"train_images": GOOD.train_images / 255},
        "made: train_images is float64, uint8 is needed",
    ),
    "a list": ({"test_labels": [0, 1]}, "made: test_labels is a list, a numpy array is needed"),
    "no channel axis": (
        {"test_images": GOOD.test_images[..., 0]},
        r"made: test_images has shape \(24, 6, 5\), \(N, H, W, C\) is needed",
    ),
    "two channels": (
        {"train_images": GOOD.train_images[..., :2]},
        r"train_images has 2 channels \(shape \(60, 6, 5, 2\)\), 1 or 3 are allowed",
    ),
    "short labels": (
        {"train_labels": GOOD.train_labels[:-1]},
        "train has 60 images but 59 labels",
    ),
    "int32 labels": (
        {"train_labels": GOOD.train_labels.astype(np.int32)},
        "train_labels is int32, int64 is needed",
    ),
    "square labels": (
        {"test_labels": GOOD.test_labels[:, None]},
        r"test_labels has shape \(24, 1\), \(N,\) is needed",
    ),
    "label too large": (
        {"class_names": ("a", "b", "c")},
        r"train_labels holds 3, labels must lie in 0\.\.2",
    ),
    "negative label": ({"test_labels": GOOD.test_labels - 1}, "test_labels holds -1"),
    "empty": (
        {"test_images": GOOD.test_images[:0], "test_labels": GOOD.test_labels[:0]},
        "test_images is empty",
    ),
    "other test shape": (
        {"test_images": GOOD.test_images[:, :5]},
        r"train_images are \(6, 5, 3\) .* test_images are \(5, 5, 3\)",
    ),
    "zero std": ({"std": (0.2, 0.0, 0.2)}, r"std is \(0.2, 0.0, 0.2\), every channel needs"),
    "nan mean": ({"mean": (0.5, float("nan"), 0.5)}, "mean is .*nan.*, finite values"),
    "short mean": ({"mean": (0.5,)}, "mean has 1 values for 3 channels"),
    "no classes": ({"class_names": ()}, "class_names is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_fields_are_refused_in_one_line(case):
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        replace(GOOD, **changes)
    assert "\n" not in str(caught.value)


def test_one_channel_is_accepted():
    assert make(channels=1).train_images.shape == (60, 6, 5, 1)


def test_split_names():
    assert GOOD.split("test")[1] is GOOD.test_labels
    with pytest.raises(DataError, match="split 'valid' of made .* 'train' or 'test'"):
        GOOD.split("valid")


def test_digest_sees_content_and_nothing_else():
    assert len(GOOD.digest) == 64 and int(GOOD.digest, 16)
    assert make(name="other").digest == GOOD.digest
    strided = np.asfortranarray(GOOD.train_images)
    assert replace(GOOD, train_images=strided).digest == GOOD.digest
    one_pixel = GOOD.test_images.copy()
    one_pixel[3, 2, 1, 0] ^= 1
    changes = [
        {"test_images": one_pixel},
        {"train_labels": np.roll(GOOD.train_labels, 1)},
        {"mean": (0.5, 0.5, 0.5000001)},
        {"std": (0.25, 0.25, 0.2500001)},
        {"class_names": tuple("abcde")},
        {
            "train_images": GOOD.train_images.reshape(60, 5, 6, 3),
            "test_images": GOOD.test_images.reshape(24, 5, 6, 3),
        },
    ]
    digests = {replace(GOOD, **change).digest for change in changes}
    assert len(digests | {GOOD.digest}) == len(changes) + 1


def test_statistics_are_those_of_the_pixels():
    images = make(channels=3).train_images
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("num_train", [1, 3, 4, 18, 43, 59])
def test_subsets_take_the_first_of_each_class_in_file_order(num_train):
    part = GOOD.subset(n_train=num_train)
    base, extra = divmod(num_train, 4)
    taken = [0] * 4
    kept = []
    for position, label in enumerate(GOOD.train_labels.tolist()):
        if taken[label] < base + (label < extra):
            taken[label] += 1
            kept.append(position)
    assert len(kept) == num_train
    np.testing.assert_array_equal(part.train_labels, GOOD.train_labels[kept])
    np.testing.assert_array_equal(part.train_images, GOOD.train_images[kept])
    assert part.test_images is GOOD.test_images or (part.test_images == GOOD.test_images).all()
    assert (part.mean, part.std, part.class_names) == (GOOD.mean, GOOD.std, GOOD.class_names)
    assert part.digest != GOOD.digest


def test_subset_of_the_test_set():
    part = GOOD.subset(n_test=8)
    np.testing.assert_array_equal(part.test_images, GOOD.test_images[:8])
    assert len(part.train_labels) == 60


def test_the_full_size_is_the_set_itself_even_unbalanced():
    labels = np.zeros(60, np.int64)
    unbalanced = make(train_labels=labels)
    assert unbalanced.subset(n_train=60, n_test=24).digest == unbalanced.digest
    with pytest.raises(
        DataError, match="n_train is 59: that takes 15 train samples of class 'b', but made has 0"
    ):
        unbalanced.subset(n_train=59)


@pytest.mark.parametrize("field", ["n_train", "n_test"])
@pytest.mark.parametrize("value", [0, -1, 61])
def test_subset_sizes_out_of_range_are_refused(field, value):
    largest = {"n_train": 60, "n_test": 24}[field]
    with pytest.raises(DataError, match=rf"{field} is {value}, made allows 1\.\.{largest}"):
        GOOD.subset(**{field: value})
