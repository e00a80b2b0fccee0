"""Curvature of scale-invariant losses: the Hessian on the unit sphere, and what is read off it.

For a loss L, parameters theta of norm rho, u = theta / rho, gradient g and Hessian H at theta, the
Riemannian Hessian on the sphere of radius rho is, for a tangent vector v (<v, u> = 0),

    P H v - (<g, theta> / rho^2) v        P = I - u u^T

(Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 5.3). Times rho^2 it is that
of u -> L(rho u) on the unit sphere, which does not depend on rho if L is scale-invariant; the
second term is then zero up to the epsilon of batch normalisation, and is kept, so that the matrix
is exact for every L.

All models of a pack are measured at once: shapes are (K, D) of K models with D parameters each.
Random vectors are the same for every model, so that what is found of one depends neither on the
others nor on its place among them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..training.passes import by_model

BREAKDOWN = 1e-6
"""what is left of a vector, relative to the matrix, below which nothing is left but rounding"""


Gradient = tuple[Tensor, ...]
"""by parameter, with the graph that it is differentiated by"""


class SphereHessian:
    """The Hessian on the unit sphere of every model's loss, as products with vectors.

    Args:
        parameters: what the sphere holds, of K models folded together (rows in the order of the
            models), requiring gradients.
        losses: parts of the loss, (K,) each; L is their sum.
        room: bytes that the graphs of all their gradients may take. They are kept then, which about
            halves what a product takes; otherwise each is made anew for every set of products, so
            that memory is that of one part. The numbers are the same.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        losses: Sequence[Callable[[], Tensor]],
        num_models: int,
        room: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.losses = losses
        self.num_models = num_models
        theta = by_model([p.detach() for p in parameters], num_models)
        self.dim = theta.shape[1]
        self.radius = torch.linalg.vector_norm(theta, dim=1, keepdim=True)
        self.unit = theta / self.radius
        self.radial = torch.zeros_like(self.radius)
        for loss in losses:
            gradient = torch.autograd.grad(loss().sum(), self.parameters)
            self.radial += (by_model(gradient, num_models) * theta).sum(dim=1, keepdim=True)
        self.kept: list[Gradient] = []
        """of every part, if there is room for them"""
        first, size = _sized(lambda: self._gradient(losses[0]))
        if size * len(losses) <= room:
            self.kept = [first, *map(self._gradient, losses[1:])]

    def tangent(self, vectors: Tensor) -> Tensor:
        """P v of every model: (K, D), or (D,) for all of them, -> (K, D)."""
        along = (self.unit * vectors).sum(dim=1, keepdim=True)
        return vectors - along * self.unit

    def __call__(self, vectors: Tensor) -> Tensor:
        """The product with (K, D); what is not tangent to the sphere is mapped to zero."""
        return self._products([self.tangent(vectors)])[0]

    def quadratic_forms(
        self,
        vectors: Tensor,  # (P, D), the same for every model
    ) -> Tensor:
        """v^T P (Hessian) P v of every vector and model: (P, K) fp64."""
        projected = [self.tangent(vector) for vector in vectors]
        products = self._products(projected)
        pairs = zip(projected, products, strict=True)
        return torch.stack([(v.double() * hv).sum(dim=1) for v, hv in pairs])

    def _products(self, projected: Sequence[Tensor]) -> list[Tensor]:
        totals = [torch.zeros_like(vectors) for vectors in projected]
        for gradient in self.kept or map(self._gradient, self.losses):
            for index, (total, vectors) in enumerate(zip(totals, projected, strict=True)):
                product = torch.autograd.grad(
                    gradient,
                    self.parameters,
                    self._like_parameters(vectors),
                    retain_graph=bool(self.kept) or index + 1 < len(projected),
                )
                total += by_model(product, self.num_models)
        return [
            self.radius**2 * self.tangent(total) - self.radial * vectors
            for total, vectors in zip(totals, projected, strict=True)
        ]

    def _gradient(self, loss: Callable[[], Tensor]) -> Gradient:
        # No weight is shared: the Hessian of the sum has a block for every model.
        return torch.autograd.grad(loss().sum(), self.parameters, create_graph=True)

    def _like_parameters(self, vectors: Tensor) -> list[Tensor]:
        sizes = [p.numel() // self.num_models for p in self.parameters]
        parts = vectors.split(sizes, dim=1)
        return [part.reshape(p.shape) for part, p in zip(parts, self.parameters, strict=True)]


def _sized(make: Callable[[], Gradient]) -> tuple[Gradient, int]:
    """A gradient, and about how many bytes its graph holds."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        held[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return make(), sum(held.values())


class Top(NamedTuple):
    """The largest eigenvalues of every model, as found by Lanczos' method.

    (K, count) fp64 on the host, descending; NaN where none was found, or the model has no number.
    """

    values: Tensor
    residuals: Tensor
    """||A x - value x|| / |largest value| of the Ritz vectors x, ||x|| = 1"""
    iterations: int
    """products of the model that took most"""


def top_eigenvalues(
    hessian: SphereHessian,
    start: Tensor,  # (D,), random
    *,
    count: int,
    tolerance: float,
    max_iterations: int,
) -> Top:
    """The `count` (algebraically) largest eigenvalues of every model on the tangent space.

    Lanczos' method with full reorthogonalisation (twice), all models in step, until all relative
    residuals of each are at most `tolerance`, or for `max_iterations` products, or the whole space.
    Within the residual of each value there is an eigenvalue. Residuals are relative to the largest
    value, since the next ones may be close to 0, where a ratio to themselves would say nothing.

    From one start only one vector of the space of a multiple eigenvalue is seen: the others are
    found where what is spanned is mapped to itself, and the search goes on orthogonally to it.
    """
    limit = min(max_iterations, hessian.dim - 1)
    first = hessian.tangent(start)
    basis = [first / _norm(first)]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    found: Top | None = None
    settled = torch.zeros(len(hessian.unit), dtype=torch.bool)
    # Where each model last went on with a fresh vector.
    blocks = torch.zeros(len(hessian.unit), dtype=torch.int64)
    while True:
        rest = hessian(basis[-1])
        alphas.append((rest.double() * basis[-1]).sum(dim=1))
        rest = _without(rest, basis)
        beta = _norm(rest)
        matrix, last = _tridiagonal(alphas, betas), beta[:, 0].double().cpu()
        now = _ritz(matrix, last, min(count, hessian.dim - 1), count)
        found = _updated(found, now, settled)
        ended = beta <= BREAKDOWN * torch.stack(alphas).abs().amax(dim=0)[:, None]
        # What is mapped to itself leaves no residual, and says nothing of what is beside it.
        done = ~(ended[:, 0].cpu() | (now.residuals > tolerance).any(dim=1))
        for model in (done & (blocks > 0)).nonzero().flatten().tolist():
            block = matrix[model, blocks[model] :, blocks[model] :]
            done[model] = _is_below(block, last[model], now.values[model], tolerance)
        settled |= done
        if len(alphas) >= limit or bool(settled.all()):
            residuals = torch.where(found.values.isnan(), torch.nan, found.residuals)
            return found._replace(residuals=residuals)
        if bool(ended.any()):
            blocks[ended[:, 0].cpu()] = len(alphas)
            fresh = _without(hessian.tangent(start.roll(len(basis))), basis)
            beta, rest = torch.where(ended, 0, beta), torch.where(ended, fresh / _norm(fresh), rest)
        betas.append(beta[:, 0].double())
        basis.append(torch.where(beta > 0, rest / beta, rest))


def _updated(before: Top | None, now: Top, settled: Tensor) -> Top:
    """What is found now of models that are not settled: the others have what they had alone."""
    if before is None:
        return now
    kept = settled[:, None]
    values = torch.where(kept, before.values, now.values)
    return Top(values, torch.where(kept, before.residuals, now.residuals), now.iterations)


def _norm(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def _without(vectors: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """The part of (K, D) that is orthogonal to every vector of the basis, to rounding."""
    for direction in [*basis, *basis]:
        vectors = vectors - (direction * vectors).sum(dim=1, keepdim=True) * direction
    return vectors


def _tridiagonal(alphas: list[Tensor], betas: list[Tensor]) -> Tensor:
    """The matrix on what is spanned, (K, n, n), of n diagonals (K,) and what is beside them."""
    matrix = torch.diag_embed(torch.stack(alphas, dim=1).cpu())
    for row, beta in enumerate(betas):
        matrix[:, row, row + 1] = matrix[:, row + 1, row] = beta.cpu()
    return matrix


def _is_below(block: Tensor, last: Tensor, values: Tensor, tolerance: float) -> bool:
    """Whether a model's last block shows that nothing beside the earlier ones is among the largest.

    All that is left is orthogonal to the earlier blocks, and so at most the block's largest value.
    """
    every, vectors = torch.linalg.eigh(block)
    scale, least = values[0].abs(), values[~values.isnan()][-1]
    known = last * vectors[-1, -1].abs() <= tolerance * scale
    return bool(known & (every[-1] <= least + BREAKDOWN * scale))


def _ritz(
    matrix: Tensor,  # (K, n, n)
    last: Tensor,  # (K,), the norm of what is left
    existing: int,
    count: int,
) -> Top:
    """Ritz values: infinite residuals of those that there may be later, NaN of all others."""
    sound = matrix.isfinite().all(dim=2).all(dim=1)[:, None]
    every, vectors = torch.linalg.eigh(torch.where(sound[:, None], matrix, 0.0))
    values, residuals = torch.full((2, len(matrix), count), torch.nan, dtype=torch.float64)
    residuals[:, :existing] = torch.inf
    found = min(existing, matrix.shape[1])
    values[:, :found] = every.flip(1)[:, :found]
    errors = last[:, None] * vectors[:, -1].flip(1)[:, :found].abs()
    # A constant loss: 0 is its eigenvalue exactly.
    scale = every[:, -1:].abs()
    residuals[:, :found] = torch.where(errors > 0, errors / scale, errors)
    values, residuals = (torch.where(sound, each, torch.nan) for each in (values, residuals))
    return Top(values, residuals, matrix.shape[1])


def trace(
    hessian: SphereHessian,
    probes: Tensor,  # (P, D), of independent entries of mean 0 and variance 1
) -> tuple[Tensor, Tensor]:
    """Trace on the tangent space of every model and its standard error over probes: (K,) fp64.

    Hutchinson's estimate, the mean of z^T (P A P) z: its expectation is the trace of P A P, so
    projecting the probes needs no further correction.
    """
    forms = hessian.quadratic_forms(probes)
    error = forms.std(dim=0) / len(probes) ** 0.5
    return forms.mean(dim=0).cpu(), error.cpu()


def rademacher(num_probes: int, dim: int, generator: torch.Generator) -> Tensor:
    """Probes (num_probes, dim) whose entries are 1 or -1, fp32 on the host."""
    return torch.randint(0, 2, (num_probes, dim), generator=generator).float() * 2 - 1
