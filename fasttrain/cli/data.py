"""What `fasttrain data` does: write, inspect and verify data sets and FFCV files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fasttrain_data import Beton, ImageData, Manifest, load, write_beton
from fasttrain_data.sources.npz import save_npz

from ..settings.custom import is_factory
from ..settings.data.own import CustomData
from ..store.inputs import config_of, one_line_errors
from ..training.loading import configured_images


def write(
    dataset: str,
    out: Path,
    split: str | None,
    mode: Literal["raw", "jpg"] | None,
    root: Path | None,
    image_size: int | None,
) -> int:
    """Write a split of a data set as an FFCV file, or all of it as .npz; returns the exit code."""
    if out.suffix == ".npz":
        with one_line_errors():
            save_npz(images(dataset, root, image_size), out)
        return inspect(str(out), root)
    with one_line_errors():
        data = images(dataset, root, image_size)
        manifest = write_beton(data, out, split=split or "train", mode=mode or "raw")
    _print_manifest(out, manifest)
    return 0


def images(source: str, root: Path | None, image_size: int | None = None) -> ImageData:
    """A data set by its name or path, by the function that makes it, or that of a preset or file.

    Args:
        image_size: side that the images of a folder are brought to.

    Raises:
        UsageError, DataError, DataUnavailable, EnvironmentProblem: there are none.
    """
    config = config_of(source, image_size)
    if config is not None:
        return configured_images(config, root)
    return CustomData(factory=source).load(root) if is_factory(source) else load(source, root)


def inspect(source: str, root: Path | None, image_size: int | None = None) -> int:
    """Print what a data set, or an FFCV file by its manifest, holds; returns the exit code."""
    if source.endswith(".beton"):
        with one_line_errors():
            beton = Beton(source, "fast")
        _print_manifest(beton.path, beton.manifest)
    else:
        with one_line_errors():
            data = images(source, root, image_size)
        _print_images(data)
    return 0


def verify(path: Path) -> int:
    """Check every byte of an FFCV file; returns the exit code."""
    with one_line_errors():
        manifest = Beton(path, "full").manifest
    print(f"{path} is sound: {manifest.num_samples} images, {manifest.size} bytes")
    return 0


def _print_images(data: ImageData) -> None:
    counts = Counter(data.train_labels.tolist())
    per_class = sorted({counts[label] for label in range(data.num_classes)})
    _print_lines(
        {
            "name": data.name,
            "training images": len(data.train_images),
            "test images": len(data.test_images),
            **{f"probe set {name}": f"{len(p[1])} images" for name, p in data.probes.items()},
            **_about(
                data.train_images.shape[1:],
                data.class_names,
                data.mean,
                data.std,
                data.train_images.dtype,
            ),
            "training images per class": " to ".join(str(c) for c in (per_class[0], per_class[-1])),
            "digest": data.digest,
        }
    )
    for note in data.notes:
        print(f"{'note':26}{note}")


def _print_manifest(path: Path, manifest: Manifest) -> None:
    _print_lines(
        {
            "file": path,
            "name": f"{manifest.name}, {manifest.split}",
            "images": f"{manifest.num_samples}, {manifest.mode}",
            **_about(manifest.shape, manifest.class_names, manifest.mean, manifest.std),
            "bytes": manifest.size,
            "sha256": manifest.sha256,
        }
    )


def _about(
    shape: Sequence[int],
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: object = "uint8",
) -> dict[str, str]:
    return {
        "shape (H, W, C)": f"{' x '.join(map(str, shape))}, {dtype}",
        "classes": f"{len(class_names)}: {', '.join(class_names)}",
        "mean": ", ".join(f"{value:.4f}" for value in mean),
        "std": ", ".join(f"{value:.4f}" for value in std),
    }


def _print_lines(lines: dict[str, object]) -> None:
    for key, value in lines.items():
        print(f"{key:26}{value}")
