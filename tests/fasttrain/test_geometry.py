"""Angles between many networks, and paths between two: against one at a time, and by definition."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from fasttrain.analysis import geometry
from fasttrain.analysis.geometry import (
    NUM_POINTS,
    Line,
    Weights,
    angle_matrix,
    barriers,
    follow,
    interpolate,
    score_pack,
)
from fasttrain.plan.config import Config, RunOptions, TrainingConfig
from fasttrain.settings.data.named import Named
from fasttrain.settings.networks.kinds import NETWORKS
from fasttrain.training.angles import angle
from fasttrain.training.workbench import Workbench, open_workbench

SHAPES = {"first.weight": (5, 3, 3, 3), "second.weight": (7, 5, 1, 1)}


def make_workbench(model: str, path: Path) -> Workbench:
    config = Config(
        data=Named(n_train=90, n_test=40),
        network=NETWORKS[model](width=2, radius=3.0),
        training=TrainingConfig(batch_size=32),
    )
    return open_workbench(config, RunOptions(), path, torch.device("cpu"), "fp32", {})


def neighbours(workbench: Workbench, count: int) -> list[dict[str, torch.Tensor]]:
    """Networks of one seed, hence with one head, that differ in their conv weights."""
    generator = torch.Generator().manual_seed(1)
    first = workbench.initial_state(0)
    return [
        {
            name: value + 0.3 * index * torch.randn(value.shape, generator=generator) * value.std()
            if name in workbench.sphere_names
            else value
            for name, value in first.items()
        }
        for index in range(count)
    ]


def in_fp64(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every batch be in fp64."""

    def widened(loader):
        return SimpleNamespace(epoch=lambda e: ((x.double(), y) for x, y in loader.epoch(e)))

    plain = workbench.train_loader
    monkeypatch.setattr(workbench, "train_loader", lambda seed: widened(plain(seed)))
    monkeypatch.setattr(workbench, "test_loader", widened(workbench.test_loader))


@pytest.mark.parametrize("budget", [1, 4000, 2**28], ids=["row by row", "parts", "whole"])
def test_a_matrix_of_angles_is_that_of_pairs(budget, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "GRAM_BYTES", budget)
    generator = torch.Generator().manual_seed(0)
    first = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    vectors = [first, {name: -2 * value for name, value in first.items()}]
    for distance in (1e-4, 1e-2, 1.0, 100.0):
        noise = {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}
        vectors.append({name: first[name] + distance * noise[name] for name in SHAPES})
    networks = []
    for index, vector in enumerate(vectors):
        path = tmp_path / f"{index}.safetensors"
        prefix = ("model.", "average.")[index % 2]
        decoy = {"model.first.weight": torch.zeros(1)} if index % 2 else {}
        stored = {f"{prefix}{name}": value for name, value in vector.items()}
        safetensors.torch.save_file({**stored, **decoy}, path)
        networks.append(Weights(path, prefix))
    matrix = angle_matrix(networks, list(SHAPES))
    pairwise = [[angle(list(a.values()), list(b.values())) for b in vectors] for a in vectors]
    assert matrix.dtype == np.float64
    assert matrix.diagonal().tolist() == [0.0] * len(vectors)
    # Their cosines tell angles to about 1e-16 / angle, and near pi likewise.
    np.testing.assert_allclose(matrix, pairwise, rtol=0, atol=1e-7)
    clear = (np.array(pairwise) > 1e-5) & (np.array(pairwise) < 3)
    assert clear.sum() >= 20
    assert (np.abs(matrix - pairwise)[clear] < 4e-15 / np.array(pairwise)[clear]).all()


def test_points_of_a_path_lie_on_the_sphere_between_its_ends():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        [torch.randn(4, 3, generator=generator), torch.randn(6, generator=generator)] for _ in "ab"
    )
    a = [5 * tensor for tensor in a]
    for alpha in (0.0, 0.3, 0.5, 1.0):
        point = interpolate(a, b, alpha, radius=2.0)
        assert [tensor.dtype for tensor in point] == [torch.float32] * 2
        assert float(torch.cat([t.flatten() for t in point]).norm()) == pytest.approx(2.0, rel=1e-6)
    # Ends are rescaled first: a is no nearer to the middle for being longer.
    middle = interpolate(a, b, 0.5, radius=2.0)
    assert angle(a, middle) == pytest.approx(angle(middle, b), abs=1e-6)
    assert angle(a, interpolate(a, b, 0.0, 2.0)) < 1e-6
    assert angle(b, interpolate(a, b, 1.0, 2.0)) < 1e-6


def test_barriers_are_excesses_over_the_line_between_the_ends():
    alphas = np.array([0.0, 0.25, 0.5, 1.0])
    path = pd.DataFrame(
        {
            "train_accuracy": [1.0, 0.9, 0.4, 0.6],
            "test_accuracy": [0.5, 0.7, 0.9, 0.5],
            "train_loss": [0.0, 0.1, 2.0, 1.0],
            "test_loss": [3.0, 2.0, 1.0, 0.0],
        }
    )
    found = barriers(path, alphas)
    assert found["train_barrier"] == pytest.approx(0.8 - 0.4)
    assert found["test_barrier"] == 0.0
    assert found["train_loss_barrier"] == pytest.approx(2.0 - 0.5)
    assert found["test_loss_barrier"] == 0.0


@pytest.mark.parametrize("model", ["convnet", "resnet18"])
def test_points_evaluated_as_a_pack_are_what_each_is_alone(model, tmp_path, monkeypatch):
    workbench = make_workbench(model, tmp_path)
    points = neighbours(workbench, 4)
    single = torch.cat([score_pack([point], 0, workbench) for point in points])
    together = score_pack(points, 0, workbench)
    assert len(single.unique(dim=0)) == len(points)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)
    in_fp64(workbench, monkeypatch)
    points = [{n: v.double() if v.ndim else v for n, v in point.items()} for point in points]
    single = torch.cat([score_pack([point], 0, workbench) for point in points])
    torch.testing.assert_close(score_pack(points, 0, workbench), single, rtol=0, atol=1e-9)


def test_paths_follow_the_protocol_whatever_the_size_of_packs(tmp_path, monkeypatch):
    workbench = make_workbench("convnet", tmp_path)
    low, high, average = neighbours(workbench, 3)
    states = {"l": low, "h": high, "s": average}
    lines = [Line("low-high", "l", "h"), Line("swa-low", "s", "l", 5)]
    sizes = []

    def counted(points, seed, workbench):
        sizes.append(len(points))
        return score_pack(points, seed, workbench)

    monkeypatch.setattr(geometry, "score_pack", counted)
    found = follow(lines, states, 0, workbench, 12)
    # The end l is shared, and no pack is larger than allowed.
    assert sum(sizes) == 2 * NUM_POINTS - 1
    assert max(sizes) <= 12
    for (pair, path), line in zip(found, lines, strict=True):
        assert path["alpha"].tolist() == pytest.approx(np.linspace(0, 1, 21).tolist())
        assert (path[["stage_a", "stage_b"]] == [line.a, line.b]).all(axis=None)
        weights = [[states[end][n] for n in workbench.sphere_names] for end in (line.a, line.b)]
        assert pair["angle"].item() == angle(*weights)
        for index in (0, 13, 20):
            mixed = interpolate(*weights, index / 20, 3.0)
            state = {**states[line.a], **dict(zip(workbench.sphere_names, mixed, strict=True))}
            alone = score_pack([state], 0, workbench)[0]
            row = path.iloc[index][list(geometry.SCORES)].astype(float)
            np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-5)
    assert found[0][0]["k"].isna().all()
    assert found[1][0]["k"].tolist() == [5]


def test_statistics_of_the_stored_states_do_not_matter(tmp_path):
    workbench = make_workbench("resnet18", tmp_path)
    state = workbench.initial_state(0)
    spoilt = {n: torch.full_like(v, 9) if "running" in n else v for n, v in state.items()}
    assert any(not torch.equal(state[name], spoilt[name]) for name in state)
    assert torch.equal(score_pack([state], 0, workbench), score_pack([spoilt], 0, workbench))
