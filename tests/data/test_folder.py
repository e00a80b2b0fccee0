"""Data sets from folders of images: the rules of conversion, and every kind of bad folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fasttrain_data import DataError, load
from fasttrain_data.sources.folder import load_folder

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
CLASSES = ("cat", "dog")


def put(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def folder(root: Path, pixels: np.ndarray = COLOUR, count: int = 3) -> Path:
    """A folder of two classes; every image has its number as first pixel."""
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                own = pixels.copy()
                own[0, 0] = 10 * label + number
                put(root / split / name / f"{number:02}.png", own)
    return root


def refused(root: Path, *parts: str, **options: int) -> None:
    with pytest.raises(DataError) as caught:
        load_folder(root, **options)
    message = str(caught.value)
    assert "\n" not in message and str(root) in message
    for part in parts:
        assert part in message


def test_classes_and_images_are_in_the_order_of_their_names(tmp_path):
    data = load(folder(tmp_path / "pets"))
    assert (data.name, data.class_names, data.notes) == ("pets", CLASSES, ())
    assert data.train_images.shape == (6, 6, 5, 3)
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(data.train_images[0, 1:], COLOUR[1:])
    np.testing.assert_allclose(data.mean, (data.train_images / 255).mean((0, 1, 2)))


def test_gray_images_have_one_channel_unless_one_is_in_colour(tmp_path):
    data = load(folder(tmp_path, GRAY))
    assert data.train_images.shape == (6, 6, 5, 1) and data.notes == ()
    put(tmp_path / "test" / "dog" / "99.png", COLOUR)
    data = load(tmp_path)
    assert data.train_images.shape == (6, 6, 5, 3)
    np.testing.assert_array_equal(data.train_images[0, 1:, :, 2], GRAY[1:])
    assert data.notes == ("12 images of mode L as RGB",)


def test_transparency_is_dropped_and_said(tmp_path):
    folder(tmp_path)
    opaque = load(tmp_path)
    alpha = np.full((6, 5, 1), 7, np.uint8)
    for number in range(3):
        path = tmp_path / "train" / "cat" / f"{number:02}.png"
        pixels = np.asarray(Image.open(path))
        put(path, np.concatenate([pixels, alpha], axis=2))
    data = load(tmp_path)
    assert data.digest == opaque.digest
    assert data.notes == ("3 images of mode RGBA as RGB (transparency dropped)",)


def test_palettes_and_16_bits(tmp_path):
    folder(tmp_path, GRAY)
    wide = (GRAY.astype(np.int64) * 257 - 100).clip(0)
    put(tmp_path / "train" / "cat" / "00.png", wide.astype(np.uint16))
    data = load(tmp_path)
    np.testing.assert_array_equal(data.train_images[0, ..., 0], GRAY)
    assert any(
        # Pillow 10 calls it I.
        ("mode I;16" in note or "mode I " in note) and "divided by 257" in note
        for note in data.notes
    )
    put(tmp_path / "train" / "cat" / "01.png", COLOUR, "P")
    assert load(tmp_path).train_images.shape[3] == 3


def test_other_sizes_are_refused_or_brought_to_one(tmp_path):
    folder(tmp_path)
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    put(tmp_path / "train" / "dog" / "wide.png", wide)
    refused(tmp_path, "00.png is 5x6", "wide.png is 8x4", "give image_size")
    data = load_folder(tmp_path, 4)
    assert data.train_images.shape == (7, 4, 4, 3)
    assert data.notes == (
        "13 images of other sizes resized to 4x4 (largest centred square, bilinear)",
    )
    # The centred square of the wide one needs no resizing.
    assert (data.train_images[6] == 200).all()


def test_probe_sets(tmp_path):
    folder(tmp_path)
    put(tmp_path / "probe_patched" / "dog" / "a.png", COLOUR)
    data = load(tmp_path)
    images, labels = data.probes["patched"]
    np.testing.assert_array_equal(images[0], COLOUR)
    assert labels.tolist() == [1]


def test_other_files_are_left_out(tmp_path):
    digest = load(folder(tmp_path)).digest
    (tmp_path / "train" / "cat" / "notes.txt").write_text("nothing")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("nothing")
    (tmp_path / "train" / "list.csv").write_text("nothing")
    assert load(tmp_path).digest == digest


def test_bad_folders_are_refused_in_one_line(tmp_path):
    missing = tmp_path / "missing"
    refused(missing, "is no folder", "train/CLASS/*")
    (missing / "trian").mkdir(parents=True)
    refused(missing, "has no folder train", "did you mean 'trian'?")
    one = tmp_path / "one"
    put(one / "train" / "cat" / "a.png", COLOUR)
    (one / "test").mkdir()
    refused(one, "the one class 'cat'")
    put(one / "train" / "dog" / "a.png", COLOUR)
    refused(one, f"{one / 'test'} holds no image")
    put(one / "test" / "dgo" / "a.png", COLOUR)
    refused(one, "of a class that train has not", "did you mean 'dog'?")
    empty = folder(tmp_path / "empty")
    (empty / "train" / "emu").mkdir()
    refused(empty, f"{empty / 'train' / 'emu'} holds no image")


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    folder(tmp_path)
    path = tmp_path / "test" / "dog" / "01.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    refused(tmp_path, str(path), "cannot be read as an image")


def test_floats_are_refused(tmp_path):
    folder(tmp_path)
    Image.fromarray(np.ones((6, 5), np.float32)).save(tmp_path / "train" / "cat" / "f.tiff")
    refused(tmp_path, "f.tiff: has pixels of mode F")
