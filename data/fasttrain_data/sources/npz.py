"""Data sets that users bring as `.npz` files, in one of two forms.

One file: `train_images`, `train_labels`, `test_images`, `test_labels`, or other names and forms
that `fasttrain_data.sources.arrays` reads.
Two files in one folder: `images` and `labels` in each (or `x` and `y`, `data` and `targets`), the
path being that of the train file, whose name contains `train`; the test file has the same name up
to there, then `test`, then anything (cifar10_train.npz with cifar10_test.npz). `class_names`,
`mean`, `std` and probe sets are optional in the file that is named. Nothing is unpickled.
"""

import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fasttrain_data.catalogue import existing
from fasttrain_data.errors import DataError, DataUnavailable
from fasttrain_data.images import ImageData
from fasttrain_data.sources.arrays import canonical, images_of

Arrays = dict[str, np.ndarray]

ONE_FILE = ("train_images", "train_labels", "test_images", "test_labels")
TWO_FILES = ("images", "labels")
PAIR = {"images": ("images", "x", "data"), "labels": ("labels", "y", "targets")}
"""names in each file of a pair, in any case of letters"""
_UNREAD = np.empty(0)

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

    Raises `DataError` naming the file and the array.
    """
    arrays = _read(path)
    found = {canonical(key) for key in arrays}
    if found.issuperset(ONE_FILE):
        return images_of(arrays, path.stem, str(path))
    train = {_of_two(key): key for key in arrays}
    if not train.keys() >= set(TWO_FILES):
        raise DataError(
            f"{path} holds the arrays {list(arrays)}: either {ONE_FILE} or, in a train and a test"
            f" file, {TWO_FILES} are needed (or x_train, y_train, ...: see"
            " fasttrain_data.sources.arrays)"
        )
    test_path = _test_sibling(path)
    others = _read(test_path)
    test = {_of_two(key): key for key in others}
    both = {key: value for key, value in arrays.items() if _of_two(key) is None}
    for name in TWO_FILES:
        if name not in test:
            raise DataError(f"{test_path} holds no array {name!r}, {TWO_FILES} are needed")
        both[f"train_{name}"], both[f"test_{name}"] = arrays[train[name]], others[test[name]]
    return images_of(both, path.stem, f"{path} with {test_path.name}")


def _of_two(key: str) -> str | None:
    """What an array of one file of a pair is: images or labels."""
    return next((name for name, forms in PAIR.items() if key.lower() in forms), None)


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
                if canonical(key) is None and _of_two(key) is None:
                    # Not read: `images_of` says that it is not used.
                    arrays[key] = _UNREAD
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


def save_npz(data: ImageData, path: Path) -> None:
    """Write a data set, its probe sets too, as one file that `load_npz` reads, whole or not at all.

    Raises `DataUnavailable` where it cannot be written, and `DataError` for what is no picture.
    """
    if data.holds_floats:
        raise DataError(f"{data.name} holds float32 values: an .npz here holds pictures alone")
    arrays = {
        "train_images": data.train_images,
        "train_labels": data.train_labels,
        "test_images": data.test_images,
        "test_labels": data.test_labels,
        "class_names": np.array(data.class_names),
        "mean": np.array(data.mean),
        "std": np.array(data.std),
    }
    for name, (images, labels) in data.probes.items():
        arrays |= {f"probe_{name}_images": images, f"probe_{name}_labels": labels}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataUnavailable(f"{path} cannot be written: {error.strerror}") from None
