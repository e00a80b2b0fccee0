"""Where data sets come from: an embedded set, torchvision's, or the user's own `.npz`.

`digits` needs no network. The others are downloaded once by torchvision, which checks every file
against its published MD5, into a cache directory where the files can also be put by hand.
"""

import errno
import gzip
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from fasttrain_data.catalogue import (
    CACHE_VARIABLE,
    PUBLISHED,
    cache_dir,
    expanded,
    is_saved_dataset,
    known,
)
from fasttrain_data.errors import DataUnavailable
from fasttrain_data.images import ImageData, as_floats, channel_statistics
from fasttrain_data.randomness import Stream, sample_words
from fasttrain_data.sources.npz import load_npz
from fasttrain_data.synthetic.tick import tick

DOWNLOAD_TIMEOUT_S = 30.0
DIGITS_TEST_PER_CLASS = 36


def load(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> ImageData:
    """Return a data set by its name in `DATASETS`, or from a path.

    A path is that of an `.npz` file, of a folder of images, or of a directory that Hugging Face's
    `save_to_disk` wrote; the forms of each are in `fasttrain_data.sources.npz`, `folder` and
    `hugging_face`. `root` is the directory of downloads; see `cache_dir` for the default.

    Raises `DataError` for an unknown name, no file, or a file that is not a data set, and
    `DataUnavailable` where a download is impossible or the directory cannot be used, naming the
    files to put there.
    """
    text = known(name)
    if isinstance(text, Path):
        return _at(text)
    if text == "tick":
        return tick()
    return _digits() if text == "digits" else _published(text, cache_dir(root))


def load_here(
    name: str | os.PathLike[str], root: str | os.PathLike[str] | None
) -> ImageData | None:
    """Return what `load` does of a published data set or an `.npz` file that lies on this machine.

    Nothing is fetched. None: it is not here, or is of another kind.

    Raises `DataError` for a file that is not a data set.
    """
    text = os.fspath(name)
    if text.endswith(".npz"):
        path = expanded(text)
        return load_npz(path) if path.is_file() else None
    if text not in PUBLISHED:
        return None
    try:
        pair = _construct(_class_of(text), cache_dir(root), download=False)
    except Exception:
        # Whatever torchvision's parsers raise: what is damaged is not there.
        return None
    return _as_images(text, *pair)


def _at(path: Path) -> ImageData:
    if path.suffix == ".npz":
        return load_npz(path)
    if is_saved_dataset(path):
        from fasttrain_data.sources.hugging_face import load_hugging_face

        return load_hugging_face(path)
    from fasttrain_data.sources.folder import load_folder

    return load_folder(path)


def _digits() -> ImageData:
    """Return scikit-learn's digits, 8x8 grey, 0..16 scaled to 0..255.

    The split is our own: of every class the 36 samples with the smallest random words are the
    test set, so that no version of another library can change it. The file is read without
    `sklearn.datasets`, whose import takes longer than all else that a small grid waits for.
    """
    *pixels, labels = _digits_table().T
    images = ((np.stack(pixels, axis=1) * 255 + 8) // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    words = sample_words(torch.arange(len(labels)), seed=0, epoch=0, stream=Stream.SPLIT)[0].numpy()
    in_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        in_test[members[np.argsort(words[members], kind="stable")[:DIGITS_TEST_PER_CLASS]]] = True
    mean, std = channel_statistics(images[~in_test])
    return ImageData(
        name="digits",
        train_images=images[~in_test],
        train_labels=labels[~in_test],
        test_images=images[in_test],
        test_labels=labels[in_test],
        class_names=tuple("0123456789"),
        mean=as_floats(mean),
        std=as_floats(std),
    )


def _digits_table() -> np.ndarray:
    """scikit-learn's file of digits: a row each, 64 pixels and the label, (1797, 65) int64."""
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(path), "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.int64)


def _published(name: str, root: Path) -> ImageData:
    return _as_images(name, *_open(_class_of(name), name, root))


def _class_of(name: str) -> Any:
    """Return torchvision's class of a published data set."""
    import torchvision.datasets

    return getattr(torchvision.datasets, PUBLISHED[name].class_name)


def _as_images(name: str, train: Any, test: Any) -> ImageData:
    spec = PUBLISHED[name]
    train_images, test_images = (_images(dataset) for dataset in (train, test))
    mean, std = spec.mean, spec.std
    if mean is None or std is None:
        mean, std = map(as_floats, channel_statistics(train_images))
    return ImageData(
        name=name,
        train_images=train_images,
        train_labels=np.asarray(train.targets, np.int64),
        test_images=test_images,
        test_labels=np.asarray(test.targets, np.int64),
        class_names=tuple(train.classes),
        mean=mean,
        std=std,
    )


def _images(dataset: Any) -> np.ndarray:
    """Return torchvision's images as contiguous (N, H, W, C)."""
    images = np.asarray(dataset.data)
    return np.ascontiguousarray(images if images.ndim == 4 else images[..., np.newaxis])


# Disk trouble, as opposed to the network trouble that OSError covers too.
_DISK_ERRORS = {
    errno.EACCES,
    errno.ENOENT,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
}


def _open(dataset_class: Any, name: str, root: Path) -> tuple[Any, Any]:
    """Return torchvision's train and test objects, downloading only what is not there."""
    # Any exception, for torchvision passes on whatever its parsers, the network or the disk raise.
    try:
        return _construct(dataset_class, root, download=False)
    except Exception:
        pass
    try:
        with _only_one(name, root):
            return _download(dataset_class, name, root)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise DataUnavailable(
                f"cannot use the data directory {root} for {name} ({error.strerror}):"
                f" set {CACHE_VARIABLE} to one that can be written"
            ) from error
        raise DataUnavailable(_advice(dataset_class, name, root, error)) from error


def _download(dataset_class: Any, name: str, root: Path) -> tuple[Any, Any]:
    """Fetch what is missing, after saying what that is, and return the train and test objects."""
    try:
        # Another process may have fetched it while this one waited.
        return _construct(dataset_class, root, download=False)
    except Exception:
        pass
    archives, url = _archives(dataset_class)
    folder = root / PUBLISHED[name].folder
    if not all(_is_intact(folder / archive, md5) for archive, md5 in archives.items()):
        print(
            f"{name}: downloading {PUBLISHED[name].num_bytes / 2**20:.0f} MiB"
            f" ({', '.join(archives)}) from {url} to {folder}",
            file=sys.stderr,
        )
    return _construct(dataset_class, root, download=True)


@contextmanager
def _only_one(name: str, root: Path) -> Iterator[None]:
    """Let one process at a time download a data set; the others wait and find it there."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{name}: waiting for another process that downloads it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _archives(dataset_class: Any) -> tuple[dict[str, str], str]:
    """Return the MD5 of every archive by its name, and where they come from."""
    if hasattr(dataset_class, "resources"):
        return dict(dataset_class.resources), dataset_class.mirrors[0]
    return {dataset_class.filename: dataset_class.tgz_md5}, dataset_class.url


def _is_intact(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    return check_integrity(path, md5)


def _construct(dataset_class: Any, root: Path, *, download: bool) -> tuple[Any, Any]:
    with warnings.catch_warnings(), _socket_timeout(DOWNLOAD_TIMEOUT_S):
        # The published CIFAR pickles hold a dtype flag as an integer: some numpy 2.4 warn about it.
        warnings.filterwarnings("ignore", message=r".*align should be passed as Python or NumPy")
        train, test = (
            dataset_class(str(root), train=is_train, download=download)
            for is_train in (True, False)
        )
    return train, test


@contextmanager
def _socket_timeout(timeout_s: float) -> Iterator[None]:
    """Bound the wait for a network that swallows packets: torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _advice(dataset_class: Any, name: str, root: Path, error: Exception) -> str:
    """Return one line that says which files to put where."""
    folder = root / PUBLISHED[name].folder
    archives, url = _archives(dataset_class)
    # An unpacked file of an earlier run hides its archive from torchvision: it has to go as well.
    unwanted = [
        str(folder / path)
        for archive, md5 in archives.items()
        for path in (archive, archive.removesuffix(".gz"))
        if (folder / path).is_file() and not (path == archive and _is_intact(folder / path, md5))
    ]
    delete = f"delete {', '.join(unwanted)} (damaged or incomplete) and " if unwanted else ""
    reason = " ".join(str(error).split()) or type(error).__name__
    files = ", ".join(archives)
    return f"cannot get {name} ({reason}): {delete}put {files} (from {url}) into {folder}"
