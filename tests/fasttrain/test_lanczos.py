"""The largest eigenvalues by Lanczos, and the trace, against matrices that are written out."""

import torch

from fasttrain.analysis.spectrum import rademacher, top_eigenvalues, trace

from .spectra import CLOSE, DIM, matrices, quotients, random


def test_lanczos_finds_the_largest_of_every_model_and_tells_how_well():
    scales = torch.cat([random(60).abs(), random(1, seed=3).abs() + 5])
    hessian = quotients(scales, random(3, 61, seed=1))
    every = torch.linalg.eigvalsh(matrices(hessian)).flip(1)
    start = random(61, seed=2)
    short = top_eigenvalues(hessian, start, count=3, tolerance=1e-12, max_iterations=4)
    assert short.iterations == 4
    assert (short.residuals > 1e-12).all()
    # Within a residual of each there is an eigenvalue.
    away = (every[:, None] - short.values[:, :, None]).abs().amin(dim=2)
    assert (away <= short.residuals * short.values[:, :1].abs()).all()
    found = top_eigenvalues(hessian, start, count=5, tolerance=1e-9, max_iterations=61)
    torch.testing.assert_close(found.values, every[:, :5], **CLOSE)
    assert (found.residuals <= 1e-9).all()
    assert found.iterations < 60


def test_what_is_not_looked_for_long_enough_is_not_found():
    hessian = quotients(random(DIM), random(2, DIM, seed=1))
    found = top_eigenvalues(hessian, random(DIM), count=4, tolerance=1e-3, max_iterations=2)
    assert found.values[:, :2].isfinite().all() and found.residuals[:, :2].isfinite().all()
    assert found.values[:, 2:].isnan().all() and found.residuals[:, 2:].isnan().all()


def test_a_small_space_has_no_more_eigenvalues_than_dimensions():
    hessian = quotients(random(4), random(2, 4, seed=1))
    # One of those of the matrix is that of the radius.
    every = torch.linalg.eigvalsh(matrices(hessian)).flip(1)
    found = top_eigenvalues(hessian, random(4), count=5, tolerance=1e-9, max_iterations=50)
    assert found.iterations == 3
    for values, expected in zip(found.values, every, strict=True):
        inside = expected[expected.abs() > 1e-9]
        torch.testing.assert_close(values[:3], inside, **CLOSE)
    assert found.values[:, 3:].isnan().all() and found.residuals[:, 3:].isnan().all()


def test_multiple_eigenvalues_are_found_as_often_as_they_are():
    # Two eigenvalues, so that two products say all that one start can say.
    scales = torch.tensor([3.0] + [1.0] * 5 + [2.0] * 5, dtype=torch.float64)
    corner = torch.zeros(2, 11, dtype=torch.float64)
    corner[0, 0], corner[1, 1] = 1.0, 1.0
    expected = torch.tensor([[-2.0] * 5 + [-4.0], [4.0] + [2.0] * 5], dtype=torch.float64)
    hessian = quotients(scales, corner)
    for count in (1, 2, 6):
        found = top_eigenvalues(hessian, random(11), count=count, tolerance=1e-9, max_iterations=50)
        torch.testing.assert_close(found.values, expected[:, :count], **CLOSE)
        assert (found.residuals <= 1e-9).all()


def test_a_multiple_eigenvalue_among_others_is_found_as_often_as_it_is():
    # What one start shows is 10, 8, 6, 2, 0: a second one has to say that 10 is twice there.
    scales = torch.tensor([0.0, 5.0, 5.0, 4.0, 3.0] + [1.0] * 8, dtype=torch.float64)
    corner = torch.zeros(1, 13, dtype=torch.float64)
    corner[0, 0] = 1.0
    for count in (1, 2, 3, 4, 5):
        found = top_eigenvalues(
            quotients(scales, corner), random(13), count=count, tolerance=1e-9, max_iterations=50
        )
        expected = torch.tensor([[10.0, 10.0, 8.0, 6.0, 2.0]], dtype=torch.float64)[:, :count]
        torch.testing.assert_close(found.values, expected, **CLOSE)


def test_a_flat_loss_has_eigenvalues_and_trace_zero():
    hessian = quotients(torch.ones(DIM).double(), random(1, DIM))
    found = top_eigenvalues(hessian, random(DIM), count=2, tolerance=1e-3, max_iterations=5)
    assert (found.values.abs() < 1e-12).all()
    probes = rademacher(3, DIM, torch.Generator().manual_seed(0)).double()
    assert trace(hessian, probes)[0].abs() < 1e-12


def test_what_is_found_does_not_depend_on_how_long_others_take():
    scales = torch.cat([random(60).abs(), random(1, seed=3).abs() + 5])
    points = random(2, 61, seed=1)
    # Near the axis of the largest its quotient has other curvatures, found in other numbers.
    points[1, 60] += 20
    alone = [
        top_eigenvalues(
            quotients(scales, point[None]), random(61), count=3, tolerance=0.05, max_iterations=60
        )
        for point in points
    ]
    assert alone[0].iterations != alone[1].iterations
    both = top_eigenvalues(
        quotients(scales, points), random(61), count=3, tolerance=0.05, max_iterations=60
    )
    torch.testing.assert_close(both.values, torch.cat([one.values for one in alone]), **CLOSE)


def test_the_trace_lies_within_its_error():
    hessian = quotients(random(DIM), random(2, DIM, seed=1))
    exact = matrices(hessian).diagonal(dim1=1, dim2=2).sum(dim=1)
    probes = rademacher(4000, DIM, torch.Generator().manual_seed(0)).double()
    assert probes.abs().unique().tolist() == [1.0]
    few, many = trace(hessian, probes[:100]), trace(hessian, probes)
    assert ((many[0] - exact).abs() < 4 * many[1]).all()
    # 40 times as many probes: 6.3 times as exact.
    assert ((4 < few[1] / many[1]) & (few[1] / many[1] < 9)).all()


def test_a_model_without_a_number_leaves_its_neighbours_alone():
    points = random(3, DIM)
    scales = random(DIM, seed=1)
    beside = points.clone()
    beside[1] = torch.nan
    probes = rademacher(5, DIM, torch.Generator().manual_seed(0)).double()
    results = []
    for each in (points, beside):
        hessian = quotients(scales, each)
        top = top_eigenvalues(hessian, random(DIM, seed=2), count=2, tolerance=0, max_iterations=6)
        results.append(torch.stack([*top.values.T, *top.residuals.T, *trace(hessian, probes)]))
    healthy, found = results
    assert torch.equal(found[:, [0, 2]], healthy[:, [0, 2]])
    assert found[:, 1].isnan().all()
