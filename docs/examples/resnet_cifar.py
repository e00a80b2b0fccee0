"""ResNet-18 of torchvision on CIFAR-10, its convs on one sphere at an effective learning rate.

    python docs/examples/resnet_cifar.py --data-root ~/data      # fetches CIFAR-10 into it
    python docs/examples/resnet_cifar.py --fake 64 --epochs 1    # random images, no network

Batch normalisation makes the network invariant to the scale of every conv: only their direction
learns, and the effective learning rate says how fast it turns (arXiv 2410.22113). What is not
invariant, the normalisers' own parameters and the head, takes plain SGD.
"""

import argparse

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, models, transforms

from fasttrain_kernels import SphereSGD, scale_invariant_parameters


def data_sets(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    normalise = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train, test = (transforms.Compose(steps) for steps in (augment + normalise, normalise))
    if options.fake:
        fake = [datasets.FakeData(options.fake, (3, 32, 32), 10, t) for t in (train, test)]
        return fake[0], fake[1]
    root = options.data_root
    return (
        datasets.CIFAR10(root, train=True, transform=train, download=True),
        datasets.CIFAR10(root, train=False, transform=test, download=True),
    )


def make_optimizer(model: torch.nn.Module, options: argparse.Namespace) -> SphereSGD:
    invariant = scale_invariant_parameters(model, torch.randn(2, 3, 32, 32))
    names = {name for name, _ in invariant}
    rest = [(name, p) for name, p in model.named_parameters() if name not in names]
    return SphereSGD(
        [{"params": invariant, "elr": options.elr}, {"params": rest, "sphere": False, "lr": 0.1}],
        elr=options.elr,
        momentum=0.9,
    )


@torch.no_grad()
def accuracy(model: torch.nn.Module, loader: DataLoader) -> float:
    model.eval()
    hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    model.train()
    return hits / len(loader.dataset)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data-cifar10")
    parser.add_argument("--fake", type=int, default=0, help="so many random images instead")
    parser.add_argument("--images", type=int, help="the first so many of both sets")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--elr", type=float, default=3e-4, help="effective learning rate")
    options = parser.parse_args()
    torch.manual_seed(0)
    sets = data_sets(options)
    if options.images:
        sets = tuple(Subset(part, range(options.images)) for part in sets)
    train = DataLoader(sets[0], options.batch_size, shuffle=True, drop_last=True)
    test = DataLoader(sets[1], options.batch_size)
    model = models.resnet18(num_classes=10)
    optimizer = make_optimizer(model, options)
    # A schedule acts on "lr", where a group on a sphere keeps its effective learning rate.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(options.epochs):
        losses = []
        for images, labels in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        angle = optimizer.statistics().step_angle.median()
        print(
            f"epoch {epoch + 1}: loss {torch.stack(losses).mean():.4f}, "
            f"test accuracy {accuracy(model, test):.1%}, a filter turns by {angle:.1e} rad a step"
        )
        schedule.step()


if __name__ == "__main__":
    main()
