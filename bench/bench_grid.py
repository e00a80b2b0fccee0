"""One epoch on digits: the published loop, and packs of fasttrain. Of a pack, divide by its size.

Run with `make bench` (pytest-benchmark); `fasttrain bench grid` compares whole grids, interleaved,
with memory, files and accuracies.
"""

import pytest
import torch

from bench.grid.cases import CASES
from bench.grid.published import PublishedLoop
from fasttrain.plan.config import RunOptions
from fasttrain.settings.knobs import Knobs
from fasttrain.training.loading import configured_images
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import open_workbench

CONFIG = CASES["digits"].config
GROUP = "an epoch of training and a test pass, digits, ConvNet of width 8"


@pytest.mark.benchmark(group=GROUP)
def bench_published_loop(benchmark, tmp_path):
    loop = PublishedLoop(CONFIG, configured_images(CONFIG, None), tmp_path, 0)
    benchmark(loop.train, loop.new_model(), 1e-3, 1, "epoch")


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [1, 4, 16])
def bench_pack(benchmark, tmp_path, size, precision):
    workbench = open_workbench(CONFIG, RunOptions(), tmp_path, torch.device("cpu"), precision, {})
    pack = Pack(workbench, 0, [Knobs(lr=1e-3)] * size, None)
    benchmark(pack.train, 0, tested=True)
