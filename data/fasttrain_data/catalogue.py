"""Which data sets there are, and where they lie: names and paths, checked before any loading.

Imports neither torch nor numpy, so that a command line can tell a slip at once.
"""

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fasttrain_data.errors import DataError, nearest

CACHE_VARIABLE = "FASTTRAIN_DATA"

# Mean and std as in arXiv 2410.22113, whose std is that within an image, not over the whole set.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A torchvision data set; mean and std are measured where none are given."""

    class_name: str
    folder: str  # below the cache directory, where torchvision looks for the archives
    num_bytes: int  # of the archives together
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


PUBLISHED = {
    "cifar10": Published(
        class_name="CIFAR10", folder="", num_bytes=170_498_071, mean=CIFAR_MEAN, std=CIFAR_STD
    ),
    "cifar100": Published(
        class_name="CIFAR100", folder="", num_bytes=169_001_437, mean=CIFAR_MEAN, std=CIFAR_STD
    ),
    "fashion-mnist": Published(
        class_name="FashionMNIST", folder="FashionMNIST/raw", num_bytes=30_878_645
    ),
}

TICK_TRAIN, TICK_TEST, TICK_PROBE = 512, 2000, 1000
"""samples of the tick features, and of each of their probe sets"""
TICK_MARGIN = 0.1 * math.sqrt(2)
LARGEST_MARGIN = 0.9
"""from 1 on there is no room between the curves"""

DATASETS: tuple[str, ...] = ("digits", *PUBLISHED, "tick")

PS10_SIDE, PS10_SYMBOLS = 8, 8
"""of a pattern: pixels a side; grey levels, of which no step has more than log2 bits"""


def check_bits(simple_bits: float, complex_bits: float) -> None:
    """Raise `DataError` unless there are patterns of PS10 of these entropies a step."""
    most = math.log2(PS10_SYMBOLS)
    for key, bits in (("simple_bits", simple_bits), ("complex_bits", complex_bits)):
        if not 0 < bits < most:
            raise DataError(f"{key} is {bits:g}, it must lie between 0 and {most:g} bits a step")
    if simple_bits >= complex_bits:
        raise DataError(
            f"simple_bits is {simple_bits:g}, it must be below complex_bits, {complex_bits:g}"
        )


def is_name(text: str) -> bool:
    """Whether a data set is given by its name, not by a path."""
    return text in DATASETS


def known(name: str | os.PathLike[str]) -> str | Path:
    """Return the name if it is in `DATASETS`, or the path of a file or folder of images.

    Raises `DataError` for anything else.
    """
    text = os.fspath(name)
    if text.endswith(".npz"):
        return existing(text)
    if text in DATASETS:
        return text
    if text and is_saved_dataset(text):
        return saved_dataset(text)
    if text and (os.sep in text or _is_directory(expanded(text))):
        return image_folder(text)
    raise DataError(
        f"unknown data set {text[:200]!r}: use one of {', '.join(DATASETS)} or the path of an"
        f" .npz file or of a folder of images{nearest(text[:200], DATASETS)}"
    )


def image_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder that holds `train` and `test`; a `DataError` says what lacks."""
    folder = expanded(path)
    if not _is_directory(folder):
        raise DataError(f"{folder} is no folder: train/CLASS/* and test/CLASS/* are needed in it")
    for split in ("train", "test"):
        if not _is_directory(folder / split):
            there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
            found = f", it has {', '.join(there[:5])}" if there else ""
            raise DataError(
                f"{folder} has no folder {split}{found}: train/CLASS/* and test/CLASS/* are needed"
                f"{nearest(split, there)}"
            )
    return folder


SAVED_MARKS = ("dataset_dict.json", "state.json")
"""what lies in a directory of Hugging Face's `save_to_disk`: of several splits, or of one"""


def is_saved_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether Hugging Face's `save_to_disk` wrote the directory."""
    return any(_is_there(expanded(path) / mark) for mark in SAVED_MARKS)


def saved_dataset(path: str | os.PathLike[str]) -> Path:
    """Return the directory that `save_to_disk` wrote; a `DataError` says what lacks."""
    folder = expanded(path)
    if not is_saved_dataset(folder):
        raise DataError(
            f"{folder} is no directory that save_to_disk of Hugging Face's datasets wrote:"
            f" {SAVED_MARKS[0]} is not in it"
        )
    return folder


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _is_there(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there; a `DataError` says why it cannot be read."""
    found = expanded(path)
    try:
        mode = found.stat().st_mode
    except OSError as error:
        raise DataError(f"{found} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        # A pipe would be waited for.
        raise DataError(f"{found} is no file")
    return found


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with the user's directory in place of `~`.

    Raises `DataError` for a user that is not known, or a path that no system can have.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise DataError(f"{text[:200]!r} is no path: it holds a zero byte")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"{text} cannot be read: the directory of its user is not known") from None


def cache_dir(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of downloads; it need not exist.

    The first of `root`, the variable FASTTRAIN_DATA, XDG_CACHE_HOME/fasttrain, ~/.cache/fasttrain.
    """
    chosen = root or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return expanded(chosen)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fasttrain"


MOST_PATTERN_NUMBERS = 50_000_000
"""numbers that the training samples of a pair of patterns may have together"""


def check_pattern_pairs(dimension: int, kappa: float, p_share: float, q_share: float) -> int:
    """Return how many training samples pairs of patterns have: d / kappa^2.

    Raises `DataError` naming what lies outside its range.
    """
    if dimension < 2:
        raise DataError(
            f"dimension is {dimension}, it must be 2 or more: Q has two orthogonal directions"
        )
    if not 0 < kappa < math.inf:
        raise DataError(f"kappa is {kappa:g}, it must be a finite number above 0")
    for key, share in (("p_share", p_share), ("q_share", q_share)):
        if not 0 <= share <= 1:
            raise DataError(f"{key} is {share:g}, it must lie in 0..1")
    if p_share + q_share > 1:
        raise DataError(
            f"p_share is {p_share:g} and q_share {q_share:g}: of P alone and Q alone there can be"
            " at most all samples, 1 together"
        )
    samples = dimension / kappa**2 if kappa > 1e-6 else math.inf
    most = MOST_PATTERN_NUMBERS // (2 * dimension)
    if not 4 <= samples <= most:
        raise DataError(
            f"dimension {dimension} and kappa {kappa:g} make N = d / kappa^2 = {samples:.4g}"
            f" training samples: allowed are 4..{most}"
        )
    return round(samples)
