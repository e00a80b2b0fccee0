"""Data sets that users bring as `.npz` files, in one of two forms.

One file: `train_images`, `train_labels`, `test_images`, `test_labels`.
Two files in one folder: `images` and `labels` in each, the path being that of the train file, whose
name contains `train`; the test file has the same name up to there, then `test`, then anything
(cifar10_train.npz with cifar10_test.npz). `class_names`, `mean` and `std` are optional in the
file that is named. Nothing is unpickled, and images that are not uint8 are refused, not converted.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fasttrain_data.catalogue import existing
from fasttrain_data.errors import DataError
from fasttrain_data.images import CHANNELS, ImageData, as_floats, channel_statistics

Arrays = dict[str, np.ndarray]
Split = tuple[np.ndarray, np.ndarray]

ONE_FILE = ("train_images", "train_labels", "test_images", "test_labels")
TWO_FILES = ("images", "labels")
OPTIONAL = ("class_names", "mean", "std")

# What numpy and zipfile raise for damaged, encrypted or pickled content.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_npz(path: Path) -> ImageData:
    """Return the data set in `path` (and its sibling); the name is the file's stem.

    Without `class_names` the classes are the labels 0..K-1 of the training set, all of them
    present; without `mean` and `std` they are those of the training images.
    Raises `DataError` naming the file and the array.
    """
    arrays = _read(path)
    test_path, train, test = _splits(path, arrays)
    train_images, train_labels = train
    test_images, test_labels = test
    class_names = _class_names(path, arrays, train_labels)
    mean, std = _statistics(path, arrays, train_images)
    try:
        return ImageData(
            name=path.stem,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            class_names=class_names,
            mean=mean,
            std=std,
        )
    except DataError as error:
        files = path if test_path == path else f"{path} with {test_path.name}"
        raise DataError(f"{files}: {error}") from None


def _splits(path: Path, arrays: Arrays) -> tuple[Path, Split, Split]:
    """Return the file of the test set, and (images, labels) of the train and of the test set."""
    if all(key in arrays for key in ONE_FILE):
        return path, _split(path, arrays, ONE_FILE[:2]), _split(path, arrays, ONE_FILE[2:])
    if any(key not in arrays for key in TWO_FILES):
        with zipfile.ZipFile(path) as archive:
            found = [name.removesuffix(".npy") for name in archive.namelist()]
        raise DataError(
            f"{path} holds the arrays {found}: either {ONE_FILE} or,"
            f" in a train and a test file, {TWO_FILES} are needed"
        )
    test_path = _test_sibling(path)
    test = _read(test_path)
    for key in TWO_FILES:
        if key not in test:
            raise DataError(f"{test_path} holds no array {key!r}, {TWO_FILES} are needed")
    return test_path, _split(path, arrays, TWO_FILES), _split(test_path, test, TWO_FILES)


def _split(path: Path, arrays: Arrays, keys: tuple[str, ...]) -> Split:
    """Return images and int64 labels, checked as far as is needed before `ImageData` checks."""
    images, labels = (arrays[key] for key in keys)
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {keys[0]} is {images.dtype}, uint8 is needed")
    if images.ndim != 4 or images.size == 0 or images.shape[3] not in CHANNELS:
        raise DataError(
            f"{path}: {keys[0]} has shape {images.shape}, (N, H, W, C) is needed, not empty,"
            " with C 1 or 3"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {keys[1]} is {labels.dtype}, an integer type is needed")
    return images, labels.astype(np.int64)


def _read(path: Path) -> Arrays:
    """Return the arrays of `path` that belong to a data set."""
    path = existing(path)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is damaged or no npz file: it is not a complete zip archive")
    arrays: Arrays = {}
    key = None
    try:
        # Opened here, since numpy leaves the file open where the archive's directory is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            for key in content.files:
                if key not in ONE_FILE + TWO_FILES + OPTIONAL:
                    continue
                arrays[key] = content[key]
                if not isinstance(arrays[key], np.ndarray):
                    raise ValueError("not in npy format")
    except _DAMAGE as error:
        what = "it" if key is None else f"array {key!r}"
        raise DataError(f"{path} is damaged: {what} cannot be read ({_one_line(error)})") from None
    return arrays


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _test_sibling(path: Path) -> Path:
    """Return the test file that belongs to the train file `path`."""
    prefix, train, rest = path.name.rpartition("train")
    if not train:
        raise DataError(
            f"{path} holds {TWO_FILES}: it must be the train file of a pair, with 'train' in its"
            " name and a test file beside it"
        )
    exact = path.with_name(f"{prefix}test{rest}")
    if exact.is_file():
        return exact
    start = f"{prefix}test"
    found = sorted(
        entry
        for entry in path.parent.iterdir()
        if entry.name.startswith(start) and entry.suffix == ".npz" and entry.is_file()
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(f"{path} has no test file: {exact} or one {start}*.npz there is expected")
    names = ", ".join(entry.name for entry in found)
    raise DataError(f"{path} has {len(found)} test files ({names}): {exact} is expected")


def _class_names(path: Path, arrays: Arrays, train_labels: np.ndarray) -> tuple[str, ...]:
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"{path}: class_names is {names.dtype} of shape {names.shape},"
                " a list of strings is needed"
            )
        return tuple(names.tolist())
    present = np.unique(train_labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise DataError(
            f"{path}: the train labels have {present[gaps[0]]} but not {gaps[0]}:"
            " 0..K-1 are needed, or class_names if a class is empty"
        )
    return tuple(str(label) for label in present.tolist())


def _statistics(
    path: Path,
    arrays: Arrays,
    train_images: np.ndarray,  # (N, H, W, C) uint8
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std: those of the file, or for each that is not there that of the images."""
    measured = dict(zip(("mean", "std"), channel_statistics(train_images), strict=True))
    for key in measured:
        if key not in arrays:
            continue
        values = arrays[key]
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise DataError(
                f"{path}: {key} is {values.dtype} of shape {values.shape},"
                " one number per channel is needed"
            )
        measured[key] = values.tolist()
    return as_floats(measured["mean"]), as_floats(measured["std"])
