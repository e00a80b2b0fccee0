"""Where the time of a grid goes: the loader, the training step, the optimiser, the checkpoint.

Run with `make bench` (pytest-benchmark; median and spread in the table it prints). The rows of one
group are alternatives for the same work.
"""

import numpy as np
import pytest
import torch

import fasttrain_data
from fasttrain.machine.files import tensors_to_bytes
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS, ImageClassifier
from fasttrain.settings.optimizers.groups import Built
from fasttrain.settings.optimizers.kinds import Sphere
from fasttrain.training.loop import train_epoch
from fasttrain.training.workbench import trained

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def images() -> fasttrain_data.ImageData:
    """2,000 random images of CIFAR size: the time of a step does not depend on what they show."""
    generator = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return pixels, np.arange(count, dtype=np.int64) % 10

    train, test = split(2000), split(10)
    return fasttrain_data.ImageData(
        name="random",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def network(model: str, width: int) -> tuple[ImageClassifier, Built]:
    torch.manual_seed(0)
    net = MODELS[model](10, width=width).to(memory_format=torch.channels_last)
    # The norm that the weights have at initialisation, about.
    return net, Sphere().build(trained(net), [Knobs(lr=1e-4)], radius=12.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("model", "width"), [("convnet", 16), ("resnet18", 8)])
@pytest.mark.benchmark(group="four steps of batch 64")
def bench_training(benchmark, images, model, width, precision):
    net, optimizer = network(model, width)
    batches = list(fasttrain_data.open_loader(images, batch_size=64).epoch(0))[:4]
    benchmark(train_epoch, net, CrossEntropy(), optimizer, batches, precision, CPU)


@pytest.mark.benchmark(group="optimiser step, ResNet-18 of width 32")
@pytest.mark.parametrize("norm", [False, True], ids=["step", "step and gradient norm"])
def bench_optimizer(benchmark, norm):
    net, optimizer = network("resnet18", 32)
    for weight in net.sphere_parameters():
        weight.grad = torch.randn_like(weight)

    total = torch.zeros(1, dtype=torch.float64)

    def step() -> None:
        optimizer.step()
        if norm:
            optimizer.add_effective_grad_norm_(total)

    benchmark(step)


@pytest.mark.benchmark(group="checkpoint, ResNet-18 of width 32")
def bench_checkpoint(benchmark):
    net, _ = network("resnet18", 32)
    benchmark(tensors_to_bytes, net.state_dict())
