"""Data sets that Hugging Face's `datasets` keeps on disk: `DatasetDict.save_to_disk`.

Needs `pip install 'fasttrain-lr[hf]'`. A saved dictionary of splits has `train` and `test`, or
`validation` in the place of `test`. Images are a column of images, by the rules of
`pictures.py`, or of arrays, by those of `arrays.py`; labels a column of class labels or of
integers.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fasttrain_data.catalogue import saved_dataset
from fasttrain_data.errors import DataError, DataUnavailable, nearest
from fasttrain_data.images import ImageData
from fasttrain_data.sources.arrays import images_of
from fasttrain_data.sources.pictures import Pictures

PROBE = "probe_"


def load_hugging_face(
    path: str | os.PathLike[str],
    image: str | None = None,
    label: str | None = None,
    image_size: int | None = None,
) -> ImageData:
    """Return the data set in a directory; the name is the directory's.

    Args:
        image, label: columns; found by their kinds if not given.
        image_size: side that all images are brought to.

    Raises `DataError` for splits or columns that are not there and for images as `load_folder`
    does, `DataUnavailable` where `datasets` is not installed.
    """
    root = saved_dataset(path)
    library = _library()
    try:
        saved = library.load_from_disk(str(root))
    except Exception as error:
        raise DataError(f"{root} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(saved, dict):
        raise DataError(
            f"{root} holds one split: a DatasetDict of train and test is needed, such as"
            " dataset.train_test_split(0.2) gives"
        )
    splits, notes = _splits(saved, root)
    features = saved["train"].features
    image = _column(image, "image", features, root, library.Image)
    label = _column(label, "label", features, root, library.ClassLabel)
    arrays: dict[str, Any] = {}
    pictures = Pictures(image_size)
    parts = {}
    for name, split in splits.items():
        arrays[f"{name}_labels"] = np.asarray(saved[split].with_format("numpy")[label][:])
        if isinstance(features[image], library.Image):
            named = ((f"{split}[{n}]", i) for n, i in enumerate(saved[split][image]))
            try:
                parts[name] = list(pictures.collect(named))
            except DataError as error:
                raise DataError(f"{root}: {error}") from None
        else:
            arrays[f"{name}_images"] = np.asarray(saved[split].with_format("numpy")[image][:])
    arrays |= {f"{name}_images": pictures.stacked(found) for name, found in parts.items()}
    if isinstance(features[label], library.ClassLabel):
        arrays["class_names"] = np.array(features[label].names)
    data = images_of(arrays, root.resolve().name, str(root))
    return replace(data, notes=(*notes, *pictures.notes(), *data.notes))


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise DataUnavailable(
            "data of Hugging Face need its library: pip install 'fasttrain-lr[hf]'"
        ) from None
    return datasets


def _splits(saved: dict[str, Any], root: Path) -> tuple[dict[str, str], list[str]]:
    """The saved split of train, test and every probe set; what is to be said of that."""
    test = next((name for name in ("test", "validation") if name in saved), None)
    if "train" not in saved or test is None:
        raise DataError(f"{root} holds the splits {list(saved)}: train and test are needed")
    notes = [] if test == "test" else ["test is the split validation"]
    splits = {"train": "train", "test": test}
    splits |= {name: name for name in saved if name.startswith(PROBE)}
    notes += [f"split {name} is not used" for name in saved if name not in splits.values()]
    return splits, notes


def _column(given: str | None, usual: str, features: Any, root: Path, kind: type) -> str:
    names = list(features)
    if given is not None:
        if given not in names:
            raise DataError(
                f"{root}: there is no column {given!r} among {', '.join(names)}"
                f"{nearest(given, names)}"
            )
        return given
    found = [name for name in names if isinstance(features[name], kind)]
    if usual in names:
        return usual
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{root}: which column holds the {usual}s is not clear: it has {', '.join(names)}; give"
        f" data.{usual}"
    )
