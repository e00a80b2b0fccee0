"""The baseline trains the same networks by the same rule as the package does."""

import dataclasses

import pytest
import torch

from bench.grid.networks import NETWORKS
from bench.grid.published import PublishedLoop, rescale_, sphere_tensors, train_step
from fasttrain.plan.config import GridConfig, load_config
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS
from fasttrain.training.loading import configured_images
from fasttrain_data import open_loader
from fasttrain_kernels import SphereSGD

CASES = [("convnet", 4, 8, 1), ("convnet", 2, 32, 3), ("resnet18", 2, 16, 3)]
RADIUS = 5.0
ELR = 3e-3


def twins(model, width, side, channels, dtype=torch.float64):
    """The package's network and the baseline's, each made from seed 0."""
    made = []
    torch.manual_seed(0)
    made.append(MODELS[model](10, in_channels=channels, width=width))
    torch.manual_seed(0)
    with torch.no_grad():
        make = NETWORKS[model]
        made.append(make(10, in_channels=channels, width=width, side=side))
    return [net.to(dtype).train() for net in made]


@pytest.mark.parametrize(("model", "width", "side", "channels"), CASES)
def test_a_seed_gives_the_same_network(model, width, side, channels):
    ours, theirs = twins(model, width, side, channels, torch.float32)
    weights = sphere_tensors(theirs)
    assert len(weights) == len(ours.sphere_parameters())
    for mine, published in zip(ours.sphere_parameters(), weights, strict=True):
        assert torch.equal(mine, published)
    assert torch.equal(ours.head.weight, theirs[-1].weight)


@pytest.mark.parametrize(("model", "width", "side", "channels"), CASES)
def test_the_trajectory_is_that_of_the_package(model, width, side, channels):
    ours, theirs = twins(model, width, side, channels)
    optimizer = SphereSGD(ours.named_sphere_parameters(), elr=ELR, radius=RADIUS)
    optimizer.projected_()
    tensors = sphere_tensors(theirs)
    rescale_(tensors, RADIUS)
    sgd = torch.optim.SGD(tensors, lr=ELR * RADIUS**2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        images = torch.randn(8, channels, side, side, generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (8,), generator=generator)
        losses, hits = CrossEntropy()(ours(images), labels)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        loss, correct = train_step(theirs, sgd, RADIUS, images, labels)
        assert loss == pytest.approx(float(losses.detach()), rel=1e-9)
        assert correct == int(hits.sum())
    for mine, published in zip(ours.sphere_parameters(), tensors, strict=True):
        torch.testing.assert_close(published, mine, rtol=1e-9, atol=1e-11)
    assert sum(float(t.detach().square().sum()) for t in tensors) == pytest.approx(
        RADIUS**2, rel=1e-12
    )


@pytest.fixture
def loop(tiny, tmp_path) -> PublishedLoop:
    config = load_config(str(tiny))
    config = dataclasses.replace(config, grid=GridConfig(plr=(1e-2, 1e-1), flr=(1e-3, 1e-2)))
    (tmp_path / "runs").mkdir()
    return PublishedLoop(config, configured_images(config, None), tmp_path / "runs", 0, 0)


def test_every_epoch_leaves_a_checkpoint_and_fine_tuning_starts_from_one(loop):
    cells = loop.run()
    assert [cell[:2] for cell in cells] == [(1e-2, 1e-3), (1e-2, 1e-2), (1e-1, 1e-3), (1e-1, 1e-2)]
    assert all(0 <= accuracy <= 1 for *_, accuracy in cells)
    # Per rate 3 epochs of pre-training, and 2 for each of 2 fine-tunings.
    assert len(list(loop.folder.glob("*.pt"))) == 2 * (3 + 2 * 2)
    # The same fine-tuning again, from the file of its pre-training.
    model = loop.new_model()
    model.load_state_dict(torch.load(loop.folder / "plr-0.1-3.pt")["model"])
    _, accuracy = loop.train(model, 1e-2, 2, "again")
    assert accuracy == cells[-1][2]


def test_workers_are_started_anew_for_every_epoch(loop):
    usual = PublishedLoop(loop.config, loop.data, loop.folder, 0).loader("train")
    assert usual.num_workers >= 2 and not usual.persistent_workers


def test_images_are_those_of_the_package(loop):
    ours = next(iter(open_loader(loop.data, "test", batch_size=16).epoch(0)))
    theirs = loop.loader("test").dataset
    torch.testing.assert_close(torch.stack([theirs[i][0] for i in range(16)]), ours[0])
    assert [theirs[i][1] for i in range(16)] == ours[1].tolist()
