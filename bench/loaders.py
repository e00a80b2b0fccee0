"""Loaders, timed: ours against torchvision's DataLoader and FFCV's own pipeline.

Run with `fasttrain bench data`. The work is the same for all: shuffle, flip, crop after padding by
4, normalise, batches of 128. Variants are timed in turn, epoch after epoch, so that other load hits
them alike; the slow ones over the first 2,000 images. First batch and peak memory, in fp32, are
measured in a process of their own for each: from opening (after imports) to the first batch; above
the memory that the process has with the images, before.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fasttrain.errors import EnvironmentProblem
from fasttrain.machine.provenance import about
from fasttrain.training.loading import load_images
from fasttrain_data import Augment, DataUnavailable, ImageData, open_loader, write_beton

BATCH_SIZE = 128
NUM_SLOW = 2000
AUGMENT = Augment(flip=True, crop_padding=4)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Epoch = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Images:
    """A training set in memory and as a file."""

    data: ImageData
    file: Path


def generated(num_images: int = 10_000) -> ImageData:
    """Random images of CIFAR's size: the time does not depend on what they show."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    return ImageData(
        name="generated",
        train_images=pixels,
        train_labels=np.arange(num_images) % 10,
        test_images=pixels[:10],
        test_labels=np.arange(10),
        class_names=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
    )


def ours(loader: str) -> Callable[[Images, torch.dtype], Epoch]:
    """Our loader of a kind."""

    def make(images: Images, dtype: torch.dtype) -> Epoch:
        source = images.data if loader == "resident" else images.file
        opened = open_loader(
            source,
            batch_size=BATCH_SIZE,
            augment=AUGMENT,
            dtype=dtype,
            loader=loader,  # type: ignore[arg-type]
        )
        return opened.epoch

    return make


def torchvision_loader(workers: int) -> Callable[[Images, torch.dtype], Epoch]:
    """torch's DataLoader over torchvision's transforms of single images."""

    def make(images: Images, dtype: torch.dtype) -> Epoch:
        from PIL import Image
        from torch.utils.data import DataLoader, Dataset
        from torchvision import transforms

        data = images.data
        transform = transforms.Compose(
            [
                transforms.RandomCrop(data.train_images.shape[1], padding=AUGMENT.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

        class Samples(Dataset):
            def __len__(self) -> int:
                return min(NUM_SLOW, len(data.train_labels))

            def __getitem__(self, index: int) -> Any:
                image = transform(Image.fromarray(data.train_images[index]))
                return image, int(data.train_labels[index])

        loader = DataLoader(
            Samples(),
            BATCH_SIZE,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return lambda epoch: (
            (batch.to(dtype, memory_format=torch.channels_last), labels) for batch, labels in loader
        )

    return make


def ffcv_pipeline(images: Images, dtype: torch.dtype) -> Epoch:
    """FFCV's own decoder and transforms, compiled by itself."""
    from ffcv.fields.basics import IntDecoder  # type: ignore[import-not-found]
    from ffcv.fields.ndarray import NDArrayDecoder  # type: ignore[import-not-found]
    from ffcv.loader import Loader, OrderOption  # type: ignore[import-not-found]
    from ffcv.transforms import (  # type: ignore[import-not-found]
        Convert,
        NormalizeImage,
        RandomHorizontalFlip,
        RandomTranslate,
        ToTensor,
        ToTorchImage,
    )

    data = images.data
    mean, std = np.array(data.mean) * 255, np.array(data.std) * 255
    pipeline = [
        NDArrayDecoder(),
        RandomHorizontalFlip(),
        RandomTranslate(AUGMENT.crop_padding),
        NormalizeImage(mean, std, np.dtype(np.float32)),
        ToTensor(),
        ToTorchImage(),
        *([] if dtype == torch.float32 else [Convert(dtype)]),
    ]
    threads = torch.get_num_threads()
    loader = Loader(
        str(images.file),
        BATCH_SIZE,
        num_workers=threads,
        order=OrderOption.RANDOM,
        indices=np.arange(min(NUM_SLOW, len(data.train_labels))),  # type: ignore[arg-type]
        drop_last=False,
        pipelines={"image": pipeline, "label": [IntDecoder(), ToTensor()]},
    )
    return lambda epoch: loader


VARIANTS: dict[str, Callable[[Images, torch.dtype], Epoch]] = {
    "ours, resident": ours("resident"),
    "ours, ffcv": ours("ffcv"),
    "FFCV, its own transforms": ffcv_pipeline,
    "torchvision DataLoader": torchvision_loader(0),
    "torchvision DataLoader, 2 workers": torchvision_loader(2),
}


def run(dataset: str | None, rounds: int) -> int:
    """Measure and print a table per precision; returns the exit code.

    Raises:
        EnvironmentProblem: FFCV is not installed.
        AssertionError: a loader's batches are not what they should be.
    """
    from fasttrain_data.ffcv.loader import import_ffcv

    data = generated() if dataset is None else load_images(dataset, None)
    with tempfile.TemporaryDirectory() as folder:
        images = Images(data, Path(folder) / "images.beton")
        try:
            write_beton(data, images.file)
            import_ffcv()
        except DataUnavailable as error:
            raise EnvironmentProblem(str(error)) from None
        num_images = len(data.train_labels)
        print(f"{about()}; {num_images} images of {data.name}, n = {rounds}\n", flush=True)
        rates = {precision: measure(images, dtype, rounds) for precision, dtype in DTYPES.items()}
        # Afterwards, when what is compiled once lies on disk.
        start = {name: in_a_process(images, name) for name in VARIANTS}
        for precision in DTYPES:
            print(table(precision, rates[precision], start))
    return 0


def measure(images: Images, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Images per second of every variant, one value per round."""
    epochs = {name: make(images, dtype) for name, make in VARIANTS.items()}
    check(epochs)
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    threads = torch.get_num_threads()
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            count = sum(len(labels) for _, labels in epoch(number))
            seconds = time.perf_counter() - started
            # FFCV sets torch's threads and leaves them so.
            torch.set_num_threads(threads)
            # The first round compiles, and starts workers.
            if number:
                rates[name].append(count / seconds)
    return rates


def check(epochs: dict[str, Epoch]) -> None:
    """Raise unless our loaders agree to the bit, and all others in size and statistics."""
    pairs = zip(epochs["ours, resident"](0), epochs["ours, ffcv"](0), strict=True)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)
    expected = torch.cat([batch for batch, _ in epochs["ours, resident"](0)]).float()
    for name, epoch in epochs.items():
        found = torch.cat([batch.float() for batch, _ in epoch(0)])
        assert found.shape[1:] == expected.shape[1:], name
        for statistic in (torch.mean, torch.std):
            error = statistic(found, dim=(0, 2, 3)) - statistic(expected, dim=(0, 2, 3))
            assert float(error.abs().max()) < 0.05, name


def table(precision: str, rates: dict[str, list[float]], start: dict[str, dict[str, float]]) -> str:
    """A Markdown table of a precision."""
    slowest = statistics.median(rates["torchvision DataLoader"])
    lines = [
        f"{precision}, flip and crop",
        "",
        "| loader | thousand images/s | quartiles | of DataLoader | first batch s | peak MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in rates.items():
        low, middle, high = (value / 1e3 for value in statistics.quantiles(values, n=4))
        lines.append(
            f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {middle * 1e3 / slowest:.1f} |"
            f" {start[name]['first_s']:.2f} | {start[name]['peak_mib']:.0f} |"
        )
    return "\n".join([*lines, ""])


def in_a_process(images: Images, name: str) -> dict[str, float]:
    """Time to the first batch, and peak memory over an epoch, of one variant."""
    pixels = images.file.with_suffix(".npy")
    if not pixels.exists():
        np.save(pixels, images.data.train_images)
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(images.file), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def alone(file: str, name: str) -> None:
    """What `in_a_process` runs: prints its figures."""
    import dataclasses

    import torchvision.transforms  # noqa: F401

    import fasttrain_kernels.augment.cpu  # noqa: F401
    from fasttrain_data.ffcv.loader import import_ffcv

    if "ffcv" in name.lower():
        import_ffcv()
    pixels = np.load(Path(file).with_suffix(".npy"))
    labels = np.arange(len(pixels)) % 10
    data = dataclasses.replace(generated(10), train_images=pixels, train_labels=labels)
    torch.zeros(1).add_(1)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_mib("VmRSS")
    started = time.perf_counter()
    epoch = VARIANTS[name](Images(data, Path(file)), torch.float32)
    batches = iter(epoch(0))
    next(batches)
    first_s = time.perf_counter() - started
    for _ in batches:
        pass
    print(json.dumps({"first_s": first_s, "peak_mib": _memory_mib("VmHWM") - before}))


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    alone(*sys.argv[1:])
