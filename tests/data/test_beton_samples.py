"""FFCV files written from any sequence of samples, and samples that are refused by their number."""

import numpy as np
import pytest

from fasttrain_data import Beton, DataError, write_beton


class Samples:
    """A sequence of samples, as another library would give them."""

    def __init__(self, change=None, count=12):
        self.change, self.count = change, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image, label = np.full((4, 5, 3), index * 20, np.uint8), index % 3
        return self.change(image, label, index) if self.change and index == 7 else (image, label)


def raises(image, label, index):
    raise KeyError("lost")


def test_a_sequence_of_samples_is_taken(tmp_path):
    manifest = write_beton(Samples(), tmp_path / "x.beton", split="test", name="n")
    beton = Beton(tmp_path / "x.beton")
    assert beton.images()[:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert manifest.class_names == ("0", "1", "2")
    assert manifest.mean == pytest.approx((110 / 255,) * 3)
    assert (manifest.name, manifest.split) == ("n", "test")


BAD_SAMPLES = {
    "raises": (Samples(raises), r"sample 7 cannot be read \(KeyError: 'lost'\)"),
    "float": (Samples(lambda i, y, n: (i / 255, y)), "sample 7 is float64, uint8 is needed"),
    "grey": (Samples(lambda i, y, n: (i[..., 0], y)), r"sample 7 has shape \(4, 5\)"),
    "channels": (Samples(lambda i, y, n: (i[..., :2], y)), r"sample 7 has shape \(4, 5, 2\)"),
    "size": (Samples(lambda i, y, n: (i[1:], y)), r"sample 7 has shape \(3, 5, 3\), the first one"),
    "label": (Samples(lambda i, y, n: (i, -1)), "sample 7 has label -1"),
    "no label": (Samples(lambda i, y, n: i[0]), "sample 7 cannot be read"),
    "empty": (Samples(count=0), "the data set is empty"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_is_named_and_nothing_is_left(tmp_path, case):
    samples, message = BAD_SAMPLES[case]
    with pytest.raises(DataError, match=message):
        write_beton(samples, tmp_path / "x.beton")
    assert list(tmp_path.iterdir()) == []


def test_labels_beyond_the_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"sample 1 has label 1, labels must lie in 0\.\.0"):
        write_beton(Samples(), tmp_path / "x.beton", class_names=["only"])
