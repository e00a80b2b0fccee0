"""Norms of groups: what follows from their definition, and counts that add up."""

import numpy as np
import pytest
import torch

from fasttrain.analysis.norms import (
    describe,
    filter_norms,
    group_elrs,
    histograms,
    log_spaced,
    tensor_norms,
)
from fasttrain.analysis.tables import TABLES

FILTERS = [4, 1, 7]
RADIUS, ELR = 5.0, 1e-3


def on_sphere(num_epochs: int, spread: float = 1.0) -> np.ndarray:
    """Norms of filters, fp32, together of norm RADIUS in every epoch."""
    norms = 10 ** np.random.default_rng(0).normal(0, spread, (num_epochs, sum(FILTERS)))
    return (norms * RADIUS / np.linalg.norm(norms, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_inverse_learning_rates_of_groups_add_up(spread):
    norms = on_sphere(3, spread)
    for groups in (norms, tensor_norms(norms, FILTERS)):
        total = (1 / group_elrs(groups, ELR * RADIUS**2)).sum(axis=1)
        np.testing.assert_allclose(total, 1 / ELR, rtol=1e-6)


def test_norms_of_filters_and_of_tensors_are_those_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(count, 2, 3, 3, generator=generator) for count in FILTERS]
    filters = filter_norms(weights)
    assert filters[4] == pytest.approx(float(weights[1].double().norm()))
    expected = [float(weight.double().norm()) for weight in weights]
    np.testing.assert_allclose(tensor_norms(filters.numpy()[None], FILTERS)[0], expected)


def test_epochs_are_log_spaced_with_both_ends():
    assert log_spaced(0) == [0]
    assert log_spaced(1) == [0, 1]
    assert log_spaced(5) == [0, 1, 2, 3, 4, 5]
    many = log_spaced(1000)
    assert many[:3] == [0, 1, 2]
    assert many[-1] == 1000
    assert len(many) < 30


def test_alike_groups_count_in_full_and_a_single_large_one_as_one():
    alike = np.full((1, 12), RADIUS / np.sqrt(12))
    single = np.full((1, 12), 1e-5)
    single[0, 3] = RADIUS
    table = describe(np.concatenate([alike, single]), FILTERS, start_epoch=30, eta=ELR * RADIUS**2)
    assert list(table.columns) == [name for name in TABLES["norms"] if name != "stage"]
    rows = table[table["level"] == "filter"].set_index("epoch")
    assert rows.index.tolist() == [30, 31]
    assert rows["num_groups"].tolist() == [12, 12]
    assert rows["effective_groups"].tolist() == pytest.approx([12.0, 1.0])
    assert rows.loc[30, "spread"] == pytest.approx(0.0, abs=1e-12)
    assert rows.loc[31, "spread"] == pytest.approx(np.log10(single).std())
    assert rows.loc[30, ["min_elr", "median_elr", "max_elr"]].tolist() == pytest.approx([0.012] * 3)
    assert rows.loc[31, "min_elr"] == pytest.approx(ELR)
    assert rows.loc[31, "max_elr"] == pytest.approx(ELR * RADIUS**2 / 1e-10)
    assert (table[table["level"] == "tensor"]["num_groups"] == len(FILTERS)).all()


def test_histograms_count_every_group_once():
    norms = on_sphere(1)[0].astype(np.float64)
    # Below the range, none at all, above it, and in a bin of its own.
    norms[:4] = [RADIUS * 1e-9, 0.0, RADIUS * 1.5, RADIUS * 10**-3.01]
    table = histograms({0: norms, 7: norms}, FILTERS, RADIUS)
    assert list(table.columns) == [name for name in TABLES["histograms"] if name != "stage"]
    counts = table.groupby(["epoch", "level"])["count"].agg(["sum", "size"])
    assert counts.index.tolist() == [(e, level) for e in (0, 7) for level in ("filter", "tensor")]
    assert counts["sum"].tolist() == [12, 3, 12, 3]
    assert (counts["size"] == 50).all()
    filters = table[(table["epoch"] == 0) & (table["level"] == "filter")]
    assert filters["count"].iloc[0] == 2
    assert filters["count"].iloc[-1] >= 1
    [holds] = filters.index[(filters["log10_low"] <= -3.01) & (-3.01 < filters["log10_high"])]
    assert filters.loc[holds, "count"] >= 1
    assert (filters["log10_low"].iloc[0], filters["log10_high"].iloc[-1]) == (-6.0, 0.0)
