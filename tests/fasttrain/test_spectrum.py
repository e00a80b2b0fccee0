"""The Hessian on the sphere against matrices known or written out."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fasttrain.analysis.spectrum import SphereHessian, by_model, top_eigenvalues, trace
from fasttrain.settings.networks.modules import MODELS

from .spectra import CLOSE, DIM, matrices, network, quotients, random, sphere_hessian


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
