"""The Hessian on the sphere against matrices known or written out, Lanczos, and the trace."""

import functools

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fasttrain.analysis.spectrum import SphereHessian, by_model, rademacher, top_eigenvalues, trace
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS, ImageClassifier, fold

SIZES = {"mlp": {"image_size": (4, 4)}}
# What a relative error may be of fp64 results after some hundred operations.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
DIM = 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quotients(scales: Tensor, points: Tensor) -> SphereHessian:
    """Of f(x) = sum a_i x_i^2 / ||x||^2, one model for every row of `points`."""
    theta = points.clone().requires_grad_()

    def loss() -> Tensor:
        return (scales * theta**2).sum(dim=1) / (theta**2).sum(dim=1)

    return SphereHessian([theta], [loss], len(points))


def matrices(hessian: SphereHessian) -> Tensor:
    """All of every model's matrix: (K, D, D)."""
    count = hessian.unit.shape[0]
    units = torch.eye(hessian.dim, dtype=torch.float64)
    return torch.stack([hessian(unit.expand(count, -1)) for unit in units], dim=2)


def network(model: str, count: int) -> tuple[ImageClassifier, Tensor, Tensor]:
    """A pack of different models in fp64 and train mode, with images and their labels."""
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        states.append(
            MODELS[model](10, in_channels=1, width=1, **SIZES.get(model, {})).state_dict()
        )
    net = MODELS[model](10, in_channels=1, width=1, num_models=count, **SIZES.get(model, {}))
    net.load_state_dict(fold(states))
    return net.double().train(), random(24, 1, 4, 4), torch.arange(24) % 10


def sphere_hessian(
    net: ImageClassifier, images: Tensor, labels: Tensor, room: float = 0.0
) -> SphereHessian:
    """Of the mean loss of two batches."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return CrossEntropy()(net(images), labels)[0] / 2

    halves = zip(images.chunk(2), labels.chunk(2), strict=True)
    parts = [functools.partial(loss, *half) for half in halves]
    return SphereHessian(net.sphere_parameters(), parts, net.num_models, room)


def test_graphs_that_are_kept_give_the_same_bits_and_are_made_once():
    net, images, labels = network("convnet", 2)
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    found = {}
    for room in (0, 2**30):
        hessian = sphere_hessian(net, images, labels, room)
        passes.clear()
        vectors = [hessian.tangent(random(2, hessian.dim, seed=seed)) for seed in range(3)]
        products = [hessian(vector) for vector in vectors]
        forms = hessian.quadratic_forms(random(2, hessian.dim, seed=3))
        found[room] = torch.stack(products), forms, len(passes)
    anew, kept = found[0], found[2**30]
    assert torch.equal(anew[0], kept[0]) and torch.equal(anew[1], kept[1])
    # Two batches in each of four sets of products, or none any more.
    assert (anew[2], kept[2]) == (8, 0)


def test_graphs_are_kept_only_where_there_is_room_for_those_of_all_parts():
    net, images, labels = network("convnet", 1)
    sizes = [2**bits for bits in range(12, 24)]
    kept = [bool(sphere_hessian(net, images, labels, room).kept) for room in sizes]
    assert kept == sorted(kept) and {*kept} == {False, True}


@pytest.mark.parametrize("radius", [1.0, 7.0])
def test_at_the_minimum_of_a_quotient_the_spectrum_is_known(radius):
    scales = torch.arange(1.0, DIM + 1, dtype=torch.float64) ** 2
    corner = torch.zeros(1, DIM, dtype=torch.float64)
    corner[0, 2] = radius
    found = torch.linalg.eigvalsh(matrices(quotients(scales, corner))[0])
    # 2 (a_i - a_j) at corner j; along the radius, which is no direction of the sphere, 0.
    expected = (2 * (scales - scales[2])).sort().values
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("radius", [1.0, 7.0])
def test_it_is_the_second_derivative_along_great_circles_of_losses_of_any_kind(radius):
    quadratic = random(DIM, DIM)
    theta = (radius * random(1, DIM, seed=1) / random(1, DIM, seed=1).norm()).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        # Neither scale-invariant nor stationary.
        return ((x @ quadratic) * x).sum(dim=1) + (x**3).sum(dim=1)

    hessian = SphereHessian([theta], [lambda: loss(theta)], 1)
    direction = hessian.tangent(random(DIM, seed=2))
    direction = direction / direction.norm()
    unit = theta.detach() / radius

    def along(t: Tensor) -> Tensor:
        return loss(radius * (t.cos() * unit + t.sin() * direction))[0]

    expected = torch.autograd.functional.hessian(along, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close((hessian(direction) * direction).sum(), expected, **CLOSE)
    assert hessian.radial.abs() > 0.1
    every = torch.eye(DIM).double() * DIM**0.5
    torch.testing.assert_close(trace(hessian, every)[0][0], matrices(hessian)[0].trace(), **CLOSE)


def test_it_is_symmetric_and_blind_to_the_radius():
    hessian = quotients(random(DIM), random(1, DIM, seed=1))
    matrix = matrices(hessian)[0]
    torch.testing.assert_close(matrix, matrix.T, **CLOSE)
    torch.testing.assert_close(matrix @ hessian.unit[0], torch.zeros(DIM).double(), **CLOSE)


def test_a_network_s_hessian_is_the_explicit_one():
    net, images, labels = network("convnet", 1)
    named = net.named_sphere_parameters()
    shapes = [weight.shape for _, weight in named]
    theta = by_model([weight.detach() for _, weight in named], 1)[0]
    hessian = sphere_hessian(net, images, labels)

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        weights = {
            name: part.view(shape)
            for (name, _), part, shape in zip(named, parts, shapes, strict=True)
        }
        logits = [functional_call(net, weights, (half,)) for half in images.chunk(2)]
        halves = zip(logits, labels.chunk(2), strict=True)
        total = sum(torch.nn.functional.cross_entropy(*half) for half in halves)
        assert isinstance(total, Tensor)
        return total / 2

    explicit = torch.autograd.functional.hessian(loss, theta)
    gradient = torch.autograd.functional.jacobian(loss, theta)
    assert isinstance(explicit, Tensor) and isinstance(gradient, Tensor)
    projection = torch.eye(len(theta)).double() - torch.outer(theta, theta) / theta.dot(theta)
    expected = theta.dot(theta) * projection @ explicit @ projection
    expected -= gradient.dot(theta) * projection
    values = torch.linalg.eigvalsh(expected)
    vector = random(len(theta))
    torch.testing.assert_close(hessian(vector[None])[0], expected @ vector, rtol=1e-8, atol=1e-8)

    found = top_eigenvalues(hessian, vector, count=10, tolerance=1e-5, max_iterations=100)
    assert (found.residuals < 1e-5).all()
    torch.testing.assert_close(found.values[0], values.flip(0)[:10], rtol=1e-8, atol=0)
    # Of a basis the estimate is no estimate: scaled so that the entries' variance is 1.
    basis = torch.eye(len(theta)).double() * len(theta) ** 0.5
    torch.testing.assert_close(trace(hessian, basis)[0], values.sum()[None], rtol=1e-8, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_products_of_a_pack_are_those_of_its_models_by_differences(model):
    net, images, labels = network(model, 2)
    hessian = sphere_hessian(net, images, labels)
    vectors = hessian.tangent(random(2, hessian.dim))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    found = hessian(vectors)
    # A larger one crosses a kink of a ReLU of the wide residual network.
    step = 1e-6
    ends = []
    for sign in (1, -1):
        angle = torch.tensor(sign * step, dtype=torch.float64)
        place = hessian.radius * (angle.cos() * hessian.unit + angle.sin() * vectors)
        with torch.no_grad():
            for weight, part in zip(
                net.sphere_parameters(), hessian._like_parameters(place), strict=True
            ):
                weight.copy_(part)
        losses = sum(part() for part in hessian.losses)
        assert isinstance(losses, Tensor)
        ends.append(by_model(torch.autograd.grad(losses.sum(), net.sphere_parameters()), 2))
    slope = hessian.radius * (ends[0] - ends[1]) / (2 * step)
    expected = hessian.tangent(slope) - hessian.radial * vectors
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * found.abs().max().item())


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
