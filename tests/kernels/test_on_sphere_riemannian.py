"""`OnSphere` as Riemannian SGD: the textbook form, geoopt's, and tangential states."""

import pytest
import torch
from torch import Tensor, nn

from fasttrain_kernels import OnSphere

from .spheres import close, loss_of, train, weights


def riemannian_sgd(parameters, lr, momentum, dampening, nesterov, steps, rows: bool) -> None:
    """Becigneul and Ganea 2019 on the unit sphere, one by one in plain torch."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True) if rows else (a * b).sum()

    buffers: list[Tensor | None] = [None] * len(parameters)
    for step in range(steps):
        grads = torch.autograd.grad(loss_of(parameters, 0.1 * step), parameters)
        for index, (theta, grad) in enumerate(zip(parameters, grads, strict=True)):
            point = theta.detach().clone()
            tangent = grad - dot(point, grad) * point
            known = buffers[index]
            buffer = tangent if known is None else momentum * known + (1 - dampening) * tangent
            direction = tangent + momentum * buffer if nesterov else buffer
            new = point - lr * (direction if momentum else tangent)
            new = new / dot(new, new).sqrt()
            theta.data.copy_(new)
            buffers[index] = buffer - dot(new, buffer) * new


def on_unit_spheres(rows: bool) -> list[nn.Parameter]:
    return [
        nn.Parameter(p.detach() / (p.detach().norm(dim=1, keepdim=True) if rows else p.norm()))
        for p in weights()
    ]


OPTIONS = [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.1, False), (0.8, 0.0, True)]


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), OPTIONS)
def test_sgd_is_riemannian_sgd_where_the_loss_is_not_scale_invariant(
    momentum, dampening, nesterov, rows
):
    ours, plain = on_unit_spheres(rows), on_unit_spheres(rows)
    options = dict(momentum=momentum, dampening=dampening, nesterov=nesterov)
    optimizer = OnSphere(
        torch.optim.SGD(ours, lr=0.01, **options),
        riemannian=True,
        scope="group",
        groups="filter" if rows else "tensor",
    )
    train(optimizer, ours, steps=6, shift=0.1)
    riemannian_sgd(plain, 0.01, momentum, dampening, nesterov, 6, rows)
    close(ours, plain)


@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), OPTIONS)
def test_sgd_is_that_of_geoopt(momentum, dampening, nesterov):
    geoopt = pytest.importorskip("geoopt")
    ours = on_unit_spheres(rows=True)
    theirs = [geoopt.ManifoldParameter(p.detach().clone(), geoopt.Sphere()) for p in ours]
    options = dict(momentum=momentum, dampening=dampening, nesterov=nesterov)
    optimizer = OnSphere(
        torch.optim.SGD(ours, lr=0.01, **options), riemannian=True, scope="group", groups="filter"
    )
    peer = geoopt.optim.RiemannianSGD(theirs, lr=0.01, **options)
    for a, b in zip(ours, theirs, strict=True):
        if momentum:
            # geoopt's buffer starts from a gradient that is not projected.
            optimizer.state[a]["momentum_buffer"] = torch.zeros_like(a)
            peer.state[b]["momentum_buffer"] = torch.zeros_like(b)
    train(optimizer, ours, steps=6, shift=0.1)
    train(peer, theirs, steps=6, shift=0.1)
    for a, b in zip(ours, theirs, strict=True):
        close(a.detach(), b.detach().as_subclass(Tensor))


def test_momentum_and_gradients_are_tangential_on_the_joint_sphere_of_every_model():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (6, 5), (8,)]
    pack = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    pack[0].data = pack[0].data.to(memory_format=torch.channels_last)
    wrapped = torch.optim.Adam(pack, lr=0.1)
    optimizer = OnSphere(wrapped, num_models=2, riemannian=True)
    for p in pack:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    kept = [p.detach().clone() for p in pack]
    optimizer.step()
    states = [optimizer.state[p]["exp_avg"] for p in pack]
    for model in range(2):

        def dot(a, b, model=model) -> float:
            pairs = zip(a, b, strict=True)
            return float(sum((x.chunk(2)[model] * y.chunk(2)[model]).sum() for x, y in pairs))

        assert abs(dot(kept, [p.grad for p in pack])) < 1e-12
        assert abs(dot([p.detach() for p in pack], states)) < 1e-12
