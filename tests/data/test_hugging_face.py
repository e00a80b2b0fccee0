"""Data sets of Hugging Face's library from disk, by the library itself where it is installed."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from fasttrain_data import DataError, DataUnavailable, load
from fasttrain_data.sources.hugging_face import load_hugging_face

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
LABELS = [0, 1] * 4

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs Hugging Face's datasets"
)


def saved(folder, splits=("train", "test"), columns=("image", "label"), features=None):
    import datasets

    features = features or datasets.Features(
        {columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=["cat", "dog"])}
    )
    content = {columns[0]: [Image.fromarray(p) for p in PIXELS], columns[1]: LABELS}
    one = datasets.Dataset.from_dict(content, features=features)
    datasets.DatasetDict(dict.fromkeys(splits, one)).save_to_disk(str(folder))
    return folder


def refused(path, *parts, **columns):
    with pytest.raises(DataError) as caught:
        load_hugging_face(path, **columns)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@needs_library
def test_images_and_class_labels(tmp_path):
    data = load(saved(tmp_path / "pets"))
    assert (data.name, data.class_names, data.notes) == ("pets", ("cat", "dog"), ())
    np.testing.assert_array_equal(data.train_images, PIXELS)
    assert data.test_labels.tolist() == LABELS


@needs_library
def test_columns_are_found_by_their_kinds_or_given(tmp_path):
    data = load(saved(tmp_path / "a", columns=("img", "fine")))
    np.testing.assert_array_equal(data.train_images, PIXELS)
    data = load_hugging_face(tmp_path / "a", "img", "fine", 4)
    assert data.train_images.shape == (8, 4, 4, 3) and "resized to 4x4" in data.notes[0]
    refused(tmp_path / "a", "no column 'ing'", "did you mean 'img'?", image="ing")


@needs_library
def test_validation_stands_for_test_and_other_splits_are_said(tmp_path):
    data = load(saved(tmp_path / "a", ("train", "validation", "probe_odd", "extra")))
    assert data.notes == ("test is the split validation", "split extra is not used")
    assert list(data.probes) == ["odd"]
    refused(saved(tmp_path / "b", ("train",)), "splits ['train']: train and test are needed")


@needs_library
def test_text_labels_and_one_split_are_refused(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    refused(saved(tmp_path / "a", features=features), "train_labels is text ('0')", "np.unique")
    one = datasets.load_from_disk(str(tmp_path / "a"))["train"]
    one.save_to_disk(str(tmp_path / "one"))
    refused(tmp_path / "one", "holds one split", "train_test_split")


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="Hugging Face's datasets is installed"
)
def test_without_the_library_the_remedy_is_said(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataUnavailable, match=r"pip install 'fasttrain-lr\[hf\]'"):
        load(tmp_path)


def test_another_directory_is_refused(tmp_path):
    refused(tmp_path, "is no directory that save_to_disk")
