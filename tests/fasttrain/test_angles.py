"""Angles: exact where they are known, small and large."""

import math

import pytest
import torch

from fasttrain.training.angles import angle


@pytest.mark.parametrize("wanted", [0.0, 1e-12, 1e-7, 0.3, math.pi / 2, 3.0, math.pi])
def test_angle_of_known_vectors(wanted):
    a = [torch.tensor([3.0, 0.0], dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)]
    b = [torch.tensor([math.cos(wanted), math.sin(wanted)], dtype=torch.float64) * 7, a[1]]
    assert angle(a, b) == pytest.approx(wanted, rel=1e-9, abs=1e-16)
    assert angle(a, b) == angle(b, a)


def test_angle_does_not_depend_on_scale_or_on_how_a_vector_is_cut():
    vectors = torch.randn(2, 600, generator=torch.Generator().manual_seed(0)).double()
    whole = angle([vectors[0]], [vectors[1]])
    cut = angle(list(1e-20 * vectors[0].view(3, 200)), list(1e20 * vectors[1].view(3, 200)))
    assert cut == pytest.approx(whole, rel=1e-14)


def test_a_vector_without_direction_has_no_angle():
    assert math.isnan(angle([torch.zeros(3)], [torch.ones(3)]))
