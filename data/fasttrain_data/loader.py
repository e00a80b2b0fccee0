"""`open_loader`: batches of a data set or of an FFCV file, by the loader that suits the device."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from fasttrain_data.batches import Augment, Loader, Settings, Split
from fasttrain_data.catalogue import cache_dir
from fasttrain_data.errors import DataError, DataUnavailable, nearest
from fasttrain_data.ffcv.file import Beton, Verify
from fasttrain_data.ffcv.writer import write_beton
from fasttrain_data.images import ImageData
from fasttrain_data.labels import LabelView
from fasttrain_data.resident import ResidentLoader

Choice = Literal["auto", "resident", "ffcv"]
CHOICES: tuple[Choice, ...] = ("auto", "resident", "ffcv")

SHARE = 0.5
"""Of the device's free memory, at most, for a set to be resident by choice of `auto`."""
EVERYONES = (0, 0)
"""Torch's name of the memory that is no pool of a graph's."""


def open_loader(
    source: ImageData | str | os.PathLike[str],
    split: str = "train",
    *,
    batch_size: int,
    seed: int = 0,
    augment: Augment | None = None,
    loader: Choice = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    drop_last: bool = False,
    labels: LabelView | None = None,
    verify: Verify = "full",
    workers: int = 1,
) -> Loader:
    """Open a loader over `"train"` (shuffled) or `"test"` (stored order, never augmented).

    The same (seed, epoch) gives the same batches, bit for bit, by either loader, for every batch
    size, number of workers and device.

    Args:
        source: a data set in memory, or the path of an FFCV file that `write_beton` wrote.
        augment: how the training split is augmented; not at all if not given.
        loader: `resident` (the whole split on the device as uint8), `ffcv` (streamed from a file),
            or `auto`: resident if the split takes at most half of the device's free memory. A data
            set in memory that is to be streamed is first written to the cache directory, once.
        dtype: of the images: fp32, bf16, fp16 or fp64, normalised in at least fp32.
        drop_last: leave out a short last batch.
        labels: other labels for the same images.
        verify: how an FFCV file is checked; see `Beton`.
        workers: threads that decode for `ffcv`, at most the number of cores.

    Raises:
        DataError: an unknown split, loader or dtype, a batch size below 1 or (with `drop_last`)
            above the split, a seed outside 0..2^64-1, sizes that do not fit the images,
            augmentation of the test split, fewer than 1 workers, a file that its manifest does not
            vouch for.
        DataUnavailable: FFCV is needed and not installed; the cache directory cannot be written.
    """
    if loader not in CHOICES:
        raise DataError(
            f"loader is {loader!r}, allowed are {', '.join(CHOICES)}{nearest(loader, CHOICES)}"
        )
    settings = Settings(
        batch_size=batch_size,
        seed=seed,
        augment=augment or Augment(),
        device=torch.device(device),
        dtype=dtype,
        drop_last=drop_last,
    )
    if workers < 1:
        raise DataError(f"workers is {workers}, it must be 1 or more")
    if isinstance(source, ImageData):
        return _open_images(source, split, loader, settings, labels, verify, workers)
    return _open_file(Path(source), split, loader, settings, labels, verify, workers)


def _open_images(
    data: ImageData,
    split: str,
    loader: Choice,
    settings: Settings,
    view: LabelView | None,
    verify: Verify,
    workers: int,
) -> Loader:
    images, labels = data.split(split)
    if view is not None:
        labels = view.apply(labels, data.num_classes)
    part = Split(
        name=data.name,
        split=split,
        shape=images.shape,  # type: ignore[arg-type]
        labels=labels,
        mean=data.mean,
        std=data.std,
        floats=data.holds_floats,
        patches=data.patches.get(split),
    )
    settings.check(part)
    if part.floats and loader == "ffcv":
        raise DataError(f"loader is 'ffcv': {data.name} holds no images; use resident")
    chosen, reason = _choose(loader, part, settings.device, in_memory=True)
    if chosen == "resident":
        return ResidentLoader(part, images, settings, reason)
    from fasttrain_data.ffcv.loader import FfcvLoader, import_ffcv

    import_ffcv()
    path = cache_dir() / "beton" / f"{data.name}-{split}-{data.digest[:16]}.beton"
    if not path.exists():
        _make_directory(path.parent)
        write_beton(data, path, split=split)
    return FfcvLoader(Beton(path, verify), part, settings, reason, workers)


def _open_file(
    path: Path,
    split: str,
    loader: Choice,
    settings: Settings,
    view: LabelView | None,
    verify: Verify,
    workers: int,
) -> Loader:
    beton = Beton(path, verify)
    part = beton.split()
    if view is not None:
        labels = view.apply(part.labels, len(beton.manifest.class_names))
        part = replace(part, labels=labels)
    if split != part.split:
        raise DataError(f"{path} holds the split {part.split!r}, not {split!r}")
    settings.check(part)
    chosen, reason = _choose(loader, part, settings.device, in_memory=False)
    if chosen == "resident" and beton.manifest.mode == "raw":
        return ResidentLoader(part, beton.images(), settings, reason)
    from fasttrain_data.ffcv.loader import FfcvLoader

    if chosen == "ffcv":
        return FfcvLoader(beton, part, settings, reason, workers)
    # Decoded by FFCV here too: another decoder's bytes would differ.
    plain = Settings(batch_size=min(256, part.shape[0]))
    images = FfcvLoader(beton, part, plain, reason, workers).images()
    return ResidentLoader(part, images, settings, reason)


def _choose(
    loader: Choice, part: Split, device: torch.device, *, in_memory: bool
) -> tuple[Choice, str]:
    """Return the loader to use and the reason."""
    if loader != "auto":
        return loader, "as asked for"
    if part.floats:
        return "resident", "FFCV files hold pictures alone"
    if device.type == "meta" or (in_memory and device.type == "cpu"):
        return "resident", "the set is in memory already"
    free = free_bytes(device)
    sizes = f"{part.num_bytes / 2**20:.1f} MiB of {free / 2**20:.0f} MiB free on {device}"
    if part.num_bytes <= SHARE * free:
        return "resident", f"{sizes}, at most {SHARE:.0%} are allowed"
    return "ffcv", f"too large to be resident: {sizes}, at most {SHARE:.0%} are allowed"


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device: of a CPU what programs can still take.

    What torch has reserved on a GPU and not given out is free for this process, but for what it has
    reserved for CUDA graphs: nothing else is allocated there.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + _unused_bytes(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _unused_bytes(device: torch.device) -> int:
    """What torch has reserved on a GPU for any allocation, and not given out."""
    if torch.cuda.get_allocator_backend() != "native":
        # Of CUDA's own allocator there is no snapshot, nor are there graphs in what it reserves.
        return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    segments = torch.cuda.memory_snapshot(include_traces=False)
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in segments
        if segment["device"] == index and segment["segment_pool_id"] == EVERYONES
    )


def _make_directory(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnavailable(f"{folder} cannot be made: {error.strerror}") from None
