"""Loaders: one epoch of 2,000 images of CIFAR's size, by each loader and precision.

`make bench` runs it with the others. Against torchvision's DataLoader and FFCV's own pipeline, on
any data set, with the time to the first batch and the peak memory: `fasttrain bench data`.
"""

import pytest
import torch

import fasttrain_data
from bench.loaders import AUGMENT, generated


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same images in memory and as an FFCV file."""
    data = generated(2000)
    path = tmp_path_factory.mktemp("bench") / "images.beton"
    fasttrain_data.write_beton(data, path)
    return {"resident": data, "ffcv": path}


@pytest.mark.parametrize("augment", [None, AUGMENT], ids=["plain", "flip and crop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("loader", ["resident", "ffcv"])
@pytest.mark.benchmark(group="one epoch of batches, 2,000 images of 32x32")
def bench_loader(benchmark, sources, loader, dtype, augment):
    try:
        opened = fasttrain_data.open_loader(
            sources[loader], batch_size=128, loader=loader, augment=augment, dtype=dtype
        )
    except fasttrain_data.DataUnavailable as error:
        pytest.skip(str(error))
    benchmark(lambda: sum(len(labels) for _, labels in opened.epoch(0)))


@pytest.mark.parametrize("mode", ["raw", "jpg"])
@pytest.mark.benchmark(group="write 2,000 images of 32x32 as an FFCV file")
def bench_write(benchmark, sources, tmp_path, mode):
    benchmark(fasttrain_data.write_beton, sources["resident"], tmp_path / "x.beton", mode=mode)
