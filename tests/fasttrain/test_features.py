"""Frequency bands: they share an image out among them, and accuracies are those of the stages."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrain.analysis.features import ALL, band_accuracy, band_masks, edges, keep_band
from fasttrain.analysis.tables import TABLES
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.settings.knobs import Knobs
from fasttrain.store.columns import SCORES
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import Workbench, open_workbench

SIZES = [(8, 8), (28, 28), (32, 32), (33, 33), (64, 64), (2, 2), (1, 1), (32, 20), (9, 31)]
EDGES = {
    8: [(0, 1), (1, 2.25), (2.25, 6.25), (6.25, 8.25)],
    28: [(0, 1), (1, 7.875), (7.875, 21.875), (21.875, 28.875)],
    32: [(0, 1), (1, 9), (9, 25), (25, 33)],
}


@pytest.fixture
def workbench(tiny: Path, tmp_path: Path) -> Workbench:
    config = load_config(str(tiny))
    return open_workbench(config, RunOptions(), tmp_path / "store", torch.device("cpu"), "fp32", {})


@pytest.mark.parametrize("size", EDGES)
def test_edges_scale_with_the_image_but_for_the_mean_brightness(size):
    assert edges(size, size) == EDGES[size]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_bands_add_up_to_the_image(size, channels):
    masks = band_masks(*size)
    assert (masks.sum(dim=0) == 1).all()
    images = torch.rand(2, channels, *size, dtype=torch.float64)
    bands = [keep_band(images, mask) for mask in masks]
    torch.testing.assert_close(sum(bands), images)
    # The first is the mean brightness of every channel.
    mean = images.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(bands[0], mean.expand_as(images))


@pytest.mark.parametrize("size", [8, 28, 32])
def test_a_cosine_lies_in_the_band_of_its_frequency(size):
    masks = band_masks(size, size)
    rows = torch.arange(size, dtype=torch.float64)[:, None]
    for down in range(size // 2 + 1):
        for across in range(size // 2 + 1):
            wave = torch.cos(2 * torch.pi * (down * rows + across * rows.T) / size)
            power = torch.stack([keep_band(wave, mask).pow(2).sum() for mask in masks])
            inside = [low <= down + across < high for low, high in EDGES[size]]
            assert ((power > 1e-9 * power.sum()) == torch.tensor(inside)).all()


def test_frequencies_of_images_that_are_not_square_count_per_pixel():
    # Stripes of 4 pixels, along either axis: 8 periods per 32 pixels.
    masks = band_masks(32, 20)
    down, across = torch.meshgrid(torch.arange(32.0), torch.arange(20.0), indexing="ij")
    for along in (down, across):
        kept = [keep_band(torch.cos(torch.pi * along / 2), mask).norm().item() for mask in masks]
        assert np.argmax(kept) == 1 and sum(kept) == pytest.approx(kept[1], rel=1e-4)


def test_unfiltered_images_have_the_test_accuracy_of_every_model(workbench):
    pack = Pack(workbench, 0, [Knobs(lr=lr) for lr in (1e-3, 1e-2, 5e-2)], None)
    scores = [pack.train(epoch, tested=True).scores for epoch in range(3)]
    states = pack.states()
    table = band_accuracy(workbench, states)
    columns = {"model": "int64"} | {n: k for n, k in TABLES["bands"].items() if n != "stage"}
    assert {name: str(kind) for name, kind in table.dtypes.items()} == columns
    assert table.model.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert table.band.tolist() == [ALL, 1, 2, 3, 4] * 3
    assert (
        table[table.band == ALL].accuracy.tolist()
        == scores[-1][:, SCORES.index("test_accuracy")].tolist()
    )
    assert table[table.model == 1].low.tolist() == [0, 0, 1, 2.25, 6.25]
    for place, state in enumerate(states):
        alone = band_accuracy(workbench, [state])
        of_pack = table[table.model == place].reset_index(drop=True)
        assert alone.drop(columns="model").equals(of_pack.drop(columns="model"))


def test_the_mean_brightness_is_normalised_and_other_bands_are_not(workbench):
    pack = Pack(workbench, 0, [Knobs(lr=1e-2)], None)
    pack.train(0, tested=False)
    model, data = pack.model.eval(), workbench.data
    black = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        label = model(black).argmax().item()
        assert label != model((black - data.mean[0]) / data.std[0]).argmax().item()
    # Flat images are their own first band, and black in every other.
    flat = np.zeros_like(data.test_images)
    flat += np.linspace(0, 255, len(flat)).astype(np.uint8)[:, None, None, None]
    labels = np.full_like(data.test_labels, label)
    labels[:5] = (label + 1) % 10
    data = dataclasses.replace(data, test_images=flat, test_labels=labels)
    table = band_accuracy(dataclasses.replace(workbench, data=data), pack.states()).accuracy
    assert table[1] == table[ALL] < 0.9
    assert table[2] == table[3] == table[4] == 0.9
