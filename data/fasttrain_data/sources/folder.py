"""Data sets from folders of images, in the layout of torchvision's ImageFolder.

    ROOT/train/CLASS/*     ROOT/test/CLASS/*     ROOT/probe_NAME/CLASS/*, of further evaluation sets

Classes are the folders of `train` in the order of their names; images are in the order of theirs,
at any depth below. Rules of conversion: `pictures.py`. Files that start with a dot, and those of
other endings than `ENDINGS`, are left out.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fasttrain_data.catalogue import image_folder
from fasttrain_data.errors import DataError, nearest
from fasttrain_data.images import ImageData, as_floats, channel_statistics
from fasttrain_data.sources.pictures import Pictures

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
PROBE = "probe_"
Split = tuple[np.ndarray, np.ndarray]


def load_folder(path: str | os.PathLike[str], image_size: int | None = None) -> ImageData:
    """Return the data set in a folder; the name is the folder's.

    Args:
        image_size: side that all images are brought to.

    Raises `DataError` naming the folder or file: no images, one class, a file that is no image,
    images of several sizes without `image_size`.
    """
    root = image_folder(path)
    splits = ["train", "test", *_probes(root)]
    class_names = _classes(root / "train")
    if len(class_names) < 2:
        found = f"the one class {class_names[0]!r}" if class_names else "no class"
        raise DataError(
            f"{root / 'train'} holds {found}: a folder for each of two classes or more is needed"
        )
    pictures = Pictures(image_size)
    read = {}
    for split in splits:
        files = _files(root / split, class_names)
        parts = list(_read(pictures, root, [file for file, _ in files]))
        read[split] = parts, np.array([label for _, label in files], np.int64)
    # Stacked when all are read: one in colour makes all have three channels.
    made = {split: (pictures.stacked(parts), labels) for split, (parts, labels) in read.items()}
    mean, std = channel_statistics(made["train"][0])
    return ImageData(
        name=root.resolve().name,
        train_images=made["train"][0],
        train_labels=made["train"][1],
        test_images=made["test"][0],
        test_labels=made["test"][1],
        class_names=tuple(class_names),
        mean=as_floats(mean),
        std=as_floats(std),
        probes={split.removeprefix(PROBE): made[split] for split in splits[2:]},
        notes=pictures.notes(),
    )


def _probes(root: Path) -> list[str]:
    return sorted(e.name for e in root.iterdir() if e.is_dir() and e.name.startswith(PROBE))


def _classes(folder: Path) -> list[str]:
    return sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))


def _files(folder: Path, class_names: list[str]) -> list[tuple[Path, int]]:
    """Images of a split with their labels."""
    for name in _classes(folder):
        if name not in class_names:
            raise DataError(
                f"{folder / name} is of a class that train has not{nearest(name, class_names)}"
            )
    found = []
    for label, name in enumerate(class_names):
        files = (
            file
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
        )
        own = [(file, label) for file in files]
        if not own and folder.name == "train":
            raise DataError(f"{folder / name} holds no image ({', '.join(ENDINGS)})")
        found += own
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(ENDINGS)}) in a folder of a class")
    return found


def _read(pictures: Pictures, root: Path, files: list[Path]) -> Iterator[np.ndarray]:
    def opened() -> Iterator[tuple[str, Image.Image]]:
        for file in files:
            try:
                with Image.open(file) as image:
                    image.load()
                    yield str(file.relative_to(root)), image
            except (
                UnidentifiedImageError,
                Image.DecompressionBombError,
                OSError,
                ValueError,
                SyntaxError,
            ) as error:
                if isinstance(error, DataError):
                    raise
                reason = " ".join(str(error).split())
                raise DataError(f"{file} cannot be read as an image: {reason}") from None

    try:
        yield from pictures.collect(opened())
    except DataError as error:
        text = str(error)
        raise DataError(text if str(root) in text else f"{root}: {text}") from None
