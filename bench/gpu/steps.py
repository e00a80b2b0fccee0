"""Training steps of every network: eager, compiled, as graphs, in packs, on streams.

A step is what training takes: gather and augmentation, forward, loss, backward, optimiser, sums.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fasttrain.machine.memory import peak_bytes, reset_peak
from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named, Npz
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import ConvNet, ResNet18
from fasttrain.training.captured import WARM_UP, CapturedEpochs, cuda_graph
from fasttrain.training.loop import sums_of, train_step
from fasttrain.training.workbench import Workbench, open_workbench

from ..grid.cases import generate
from .by_kernel import filled, rows
from .machine import Size, seconds, wait
from .model import predicted, roof_us
from .table import Row

NETWORKS: dict[str, ConvNet | ResNet18] = {
    "ConvNet c=8": ConvNet(width=8, radius=12.0),
    "ConvNet c=32": ConvNet(width=32, radius=12.0),
    "ResNet-18 c=16": ResNet18(width=16, radius=20.0),
    "ResNet-18 c=32": ResNet18(width=32, radius=20.0),
    "digits": ConvNet(width=8, radius=12.0),
}
LARGEST = {"ResNet-18 c=16": 16, "ResNet-18 c=32": 16}
"""most models of a pack that is measured, of networks that fill a device sooner"""
STREAMS = (2, 4, 8)
CASTS = "graph, weights cast"
"""of one model, without the bf16 copies that the optimiser writes"""
COMPILE_S = 15
"""seconds without which compilation is not begun"""
LR = 1e-3

Step = Callable[[], object]


def workbench_of(name: str, size: Size, device: torch.device, folder: Path) -> Workbench:
    """Where steps of a network are taken: digits, or images of CIFAR's size."""
    if name == "digits":
        data, batch = Named(kind="digits"), 64
    else:
        path = folder / f"images-{size.images}.npz"
        if not path.exists():
            generate(path, size.images, max(64, size.images // 5))
        data, batch = Npz(path=str(path), flip=True, crop_padding=4), 16 if size.tiny else 128
    network = NETWORKS[name]
    if size.tiny:
        network = type(network)(width=4, radius=5.0)
    config = Config(data=data, network=network, training=TrainingConfig(batch_size=batch))
    return open_workbench(config, RunOptions(), folder / "store", device, "bf16", {})


def captured_epochs(
    workbench: Workbench, num_models: int, *, copies: bool = True
) -> CapturedEpochs:
    """A pack whose whole batches are a graph already; on a CPU its steps are only repeated.

    Without copies of the weights autocast casts them, as in steps that are taken one by one.
    """
    model = workbench.new_model(0, num_models)
    optimizer = workbench.new_optimizer(model, 0, [Knobs(lr=LR)] * num_models)
    optimizer.start_()
    on_gpu = workbench.device.type == "cuda"
    capture = cuda_graph if on_gpu else lambda step, stream: step
    loader, precision = workbench.passes(0), workbench.precision
    made = CapturedEpochs(
        model, workbench.loss, optimizer, loader, precision, workbench.device, capture
    )
    if not copies:
        made.copies = None
    for epoch in itertools.count():
        made.train_epoch(epoch)
        if made.failed or max(made.taken.values()) >= WARM_UP and made.graphs:
            return made
    raise AssertionError


def replay(made: CapturedEpochs) -> Step:
    """The graph of a whole batch, again and again from the first row of an epoch."""
    batch = max(made.cursor.sizes())
    if batch not in made.graphs:
        raise RuntimeError("a step could not be captured: the line above says why")
    made.cursor.begin_(0)

    def step() -> None:
        # The place in the epoch stays in range: it is written on the device, as for an epoch.
        made.cursor.rewind_()
        made.graphs[batch]()

    return step


def _pack(workbench: Workbench, num_models: int) -> Step:
    return replay(captured_epochs(workbench, num_models))


def one_by_one(workbench: Workbench, num_models: int) -> Step:
    """Steps as they are launched without a graph of ours."""
    model = workbench.new_model(0, num_models)
    optimizer = workbench.new_optimizer(model, 0, [Knobs(lr=LR)] * num_models)
    optimizer.start_()
    sums = sums_of(model, workbench.loss, workbench.device)
    passes = workbench.passes(0)
    batches = itertools.cycle([next(iter(passes.epoch(0)))])

    def step() -> None:
        arithmetic = workbench.precision, workbench.device
        train_step(model, workbench.loss, optimizer, next(batches), sums, *arithmetic)

    return step


def on_streams(workbench: Workbench, count: int) -> Step:
    """Graphs of so many single models, each on a stream of its own."""
    made = [captured_epochs(workbench, 1) for _ in range(count)]
    steps = [replay(one) for one in made]

    def step() -> None:
        for one, own in zip(made, steps, strict=True):
            with torch.cuda.stream(one.stream) if one.stream else contextlib.nullcontext():
                own()

    return step


def training_steps(
    name: str, size: Size, device: torch.device, folder: Path, ceilings: dict[str, float]
) -> list[Row]:
    """Microseconds per step and model of every way to train a network, beside what is predicted."""
    workbench = workbench_of(name, size, device, folder)
    return [
        Row(
            {"network": name, "way": way, "models": num_models},
            functools.partial(_measured, workbench, way, num_models, make, size, ceilings),
            COMPILE_S if way == "compiled" else 0,
        )
        for way, num_models, make in _ways(name, workbench, size)
    ]


def _measured(
    workbench: Workbench,
    way: str,
    num_models: int,
    make: Callable[[], Step],
    size: Size,
    ceilings: dict[str, float],
) -> dict[str, Any]:
    """Of one way: time, memory and what is predicted."""
    device, network = workbench.device, workbench.config.network
    images, batch = workbench.data.train_images, workbench.config.training.batch_size
    assert isinstance(network, ConvNet | ResNet18)
    memory = reset_peak(device)
    taken = seconds(make(), size, device) / num_models
    # Streams and single steps are packs of one, side by side.
    packed = num_models if way.startswith("graph") else 1
    side, channels = int(images.shape[1]), int(images.shape[3])
    copies = way not in ("eager", "compiled", CASTS)
    paper = predicted(network, side, channels, batch, packed, ceilings, copies=copies)
    row = {"us": taken * 1e6, "images/s": batch / taken}
    row |= {"MiB": (peak_bytes(device) - memory) / 2**20}
    row |= {"of the roof": roof_us(paper) / (taken * 1e6)}
    wait(device)
    return row | {f"predicted {key}": value for key, value in paper.items()}


def by_kernel(
    size: Size, device: torch.device, folder: Path, ceilings: dict[str, float]
) -> dict[str, list[dict[str, Any]]]:
    """Every network's step of one model as a graph, by kind of kernel: on paper and measured."""
    found = {}
    for name in NETWORKS:
        workbench = workbench_of(name, size, device, folder)
        images, batch = workbench.data.train_images, workbench.config.training.batch_size
        network = workbench.config.network
        assert isinstance(network, ConvNet | ResNet18)
        paper = rows(network, int(images.shape[1]), int(images.shape[3]), batch, 1, ceilings)
        found[name] = filled(paper, _pack(workbench, 1), 1, device)
    return found


def _ways(name: str, workbench: Workbench, size: Size) -> list[tuple[str, int, Callable[[], Step]]]:
    ways: list[tuple[str, int, Callable[[], Step]]] = [
        ("eager", 1, lambda: one_by_one(workbench, 1))
    ]
    for count in size.packs:
        if count <= LARGEST.get(name, max(size.packs)):
            pack = functools.partial(_pack, workbench, count)
            ways.append((f"graph, pack of {count}", count, pack))
    casts = functools.partial(captured_epochs, workbench, 1, copies=False)
    ways.append((CASTS, 1, lambda: replay(casts())))
    for count in STREAMS[:1] if size.tiny else STREAMS:
        several = functools.partial(on_streams, workbench, count)
        ways.append((f"{count} graphs on streams", count, several))
    if not size.tiny:
        # The last: nobody knows how long it takes.
        compiled = dataclasses.replace(workbench, compiled=True)
        ways.append(("compiled", 1, lambda: one_by_one(compiled, 1)))
    return ways
