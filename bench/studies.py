"""A training step of the settings of the studies, beside one model at a time in plain torch.

    python -m bench studies                      # every setting
    python -m bench studies tick --seconds 20    # some, and seconds for each way

Each way takes the same batches, loader included, at the setting's first learning rate: plain torch
(`bench.plain`: fp32 modules, autograd, torch's optimisers), a pack as
`fasttrain.training.loop` takes its steps, and where there is one the pack's kernel. Ways take
turns; times are CPU time of one thread, of a step and model, medians and quartiles. "loss" is the
mean training loss of the first steps from the same weights: ways whose losses differ are not
alternatives; after a pass over the training set it is the effective gradient norm of that. Images
of CIFAR are random ones: what they show takes no time.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.plain import Way, plain
from fasttrain.experiments.kinds import first_rates
from fasttrain.machine.precision import resolve_precision
from fasttrain.machine.provenance import about
from fasttrain.plan.config import Config, load_config
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.networks.kinds import MLP
from fasttrain.settings.optimizers.kinds import Sphere
from fasttrain.store.store import Store
from fasttrain.training.evaluate import score_test_set
from fasttrain.training.loop import train_epoch
from fasttrain.training.pack import Pack, drawing
from fasttrain.training.passes import measure_undisturbed
from fasttrain.training.step_epochs import StepEpochs
from fasttrain.training.workbench import Workbench
from fasttrain_data import ImageData

CPU = torch.device("cpu")
EVALUATED = 5
"""steps between two evaluations of the tick features as published"""


class Setting(NamedTuple):
    """A preset, the models of its pack, and steps at once."""

    preset: str
    size: int
    steps: int
    change: Callable[[Config], Config] = lambda config: config
    """what differs from the preset"""
    passed: bool = False
    """whether a pass over the training set follows the steps, which are those of an epoch"""


def squared(config: Config) -> Config:
    """The squared loss."""
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, loss="squared")
    )


def equal_norms(config: Config) -> Config:
    """Every filter on its own sphere, all of one norm."""
    return dataclasses.replace(config, optimizer=Sphere(scope="equal-norms"))


SETTINGS = {
    "tick": Setting("tick-demo", 48, 100),
    "digits": Setting("digits", 16, 20),
    "digits-mlp": Setting(
        "digits", 16, 20, lambda config: dataclasses.replace(config, network=MLP(width=32))
    ),
    "regimes-squared": Setting("digits-three-regimes", 9, 5, squared),
    "regimes-equal-norms": Setting("digits-three-regimes", 9, 20, equal_norms),
    "regimes-passes": Setting("digits-three-regimes", 9, 23, passed=True),
    "digits-vit": Setting("digits-vit", 1, 10),
    "cifar10-convnet-cpu": Setting("cifar10-convnet-cpu", 4, 4),
    "cifar10-convnet": Setting("cifar10-convnet", 1, 2),
    "cifar10-resnet18": Setting("cifar10-resnet18", 1, 1),
}


def workbench_of(name: str, folder: Path) -> Workbench:
    """The workbench of a setting."""
    config = SETTINGS[name].change(load_config(SETTINGS[name].preset))
    data = random_images(config) if "cifar" in name else config.data.load(None)
    precision = resolve_precision(config.training.precision, CPU)
    return Workbench(config, data, Store.open(folder, create=True), CPU, precision, {})


def random_images(config: Config) -> ImageData:
    """Images of CIFAR's size."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1024, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(len(pixels), dtype=np.int64) % 10
    return ImageData(
        name=config.data.kind,
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:10],
        test_labels=labels[:10],
        class_names=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def pack(workbench: Workbench, size: int, steps: int) -> Pack:
    """So many models at the setting's first rate."""
    made = Pack(workbench, 0, [Knobs(lr=first_rates(workbench.config)[0])] * size, None)
    made.loader = StepEpochs(workbench.passes(0), steps)
    return made


def packed(workbench: Workbench, size: int, steps: int, *, passed: bool) -> Way:
    """A pack, step by step."""
    made = pack(workbench, size, steps)
    arithmetic = workbench.precision, workbench.device
    still = workbench.unaugmented(0)

    def epoch(number: int) -> Tensor:
        with drawing(0, number, CPU):
            batches = made.loader.epoch(number)
            trained = train_epoch(
                made.model, workbench.loss, made.optimizer, batches, *arithmetic
            ).train_loss
        if not passed:
            return trained
        found = measure_undisturbed(made.model, workbench.loss, still.epoch(0), *arithmetic)
        return found.effective_grad_norm

    return Way(epoch, size)


def fused(workbench: Workbench, size: int, steps: int) -> Way:
    """A pack whose steps are one call."""
    made = pack(workbench, size, steps)
    kernel = made.fused
    assert kernel is not None
    return Way(lambda number: kernel.train_epoch(made.loader, number).train_loss, size)


def ways_of(workbench: Workbench, setting: Setting) -> dict[str, Way]:
    """Ways to take the setting's steps, the one to compare with first."""
    size, steps, passed = setting.size, setting.steps, setting.passed
    ways = {"one by one": plain(workbench, steps, passed=passed)}
    if workbench.kernel:
        name = f"one by one, evaluated every {EVALUATED} steps"
        ways = {name: plain(workbench, steps, evaluated=EVALUATED)} | ways
    ways[f"pack of {size}, {workbench.precision}"] = packed(workbench, size, steps, passed=passed)
    if workbench.kernel:
        ways[f"pack of {size}, kernel ({workbench.kernel})"] = fused(workbench, size, steps)
    return ways


def evaluations(workbench: Workbench, size: int) -> dict[str, Way]:
    """Ways of a pack that a kernel trains to score the test set; losses are of that."""
    made = pack(workbench, size, 1)
    kernel = made.fused
    assert kernel is not None

    def eager(_: int) -> Tensor:
        return score_test_set(
            made.model, workbench.loss, workbench.test_loader, workbench.precision, CPU
        ).loss

    ways = {
        f"{workbench.precision}": eager,
        f"kernel ({workbench.kernel})": lambda _: made.test().loss,
    }
    label = f"evaluation of {workbench.config.training.batch_size} samples, pack of {size}, "
    return {label + name: Way(way, size) for name, way in ways.items()}


def measure(
    ways: dict[str, Way], steps: float, seconds: float
) -> Iterator[tuple[str, list[float]]]:
    """Microseconds of a step and model of each way, in rounds of all ways."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds * len(ways)
    for number in itertools.count(1):
        for name, way in ways.items():
            begin = time.thread_time()
            way.steps(number)
            times[name].append((time.thread_time() - begin) / steps / way.num_models * 1e6)
        if number >= 3 and time.monotonic() > end:
            return iter(times.items())
    raise AssertionError


def rows(name: str, seconds: float) -> Iterator[list[str]]:
    """Of every way: setting, way, rounds, median, quartiles, times as fast, loss."""
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        workbench = workbench_of(name, Path(folder) / "store")
        turns: list[tuple[dict[str, Way], float]] = [(ways_of(workbench, setting), setting.steps)]
        if workbench.kernel:
            num_batches = len(workbench.data.test_labels) / workbench.config.training.batch_size
            turns.append((evaluations(workbench, setting.size), num_batches))
        for ways, steps in turns:
            # The first steps also compile.
            losses = {way: float(ways[way].steps(0).mean()) for way in ways}
            first = None
            for way, times in measure(ways, steps, seconds):
                low, median, high = statistics.quantiles(times, n=4)
                first = first or median
                yield [
                    *(name, way, str(len(times)), f"{median:.4g}", f"{low:.4g} to {high:.4g}"),
                    *(f"{first / median:.3g}", f"{losses[way]:.5f}"),
                ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench studies", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each way")
    options = parser.parse_args(arguments)
    for name in options.settings:
        if name not in SETTINGS:
            parser.error(f"{name!r}: known settings are {', '.join(SETTINGS)}")
    torch.set_num_threads(1)
    print(f"{about()}\n")
    print("| setting | way | n | µs a step and model | quartiles | times as fast | loss |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in options.settings or SETTINGS:
        for cells in rows(name, options.seconds):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
