"""P and Q patterns: of the theory of large initial rates (arXiv 1907.04595), a reconstruction.

An input is a pair x = (x1, x2) of vectors in R^d, its class y = +-1. Some have x1 alone, some x2
alone, the others both; what is lacking is 0.

    P   x1 = y w*/sqrt(d) + z, z ~ N(0, I/d) given that y <w*, z> >= 0
        easy to generalise, noisy, linear: how many samples it takes is told by their number over d
    Q   x2 = a zeta0 for y = -1, a (zeta0 + b zeta) for y = +1, with b = +-1 and a ~ U[0, 1]
        without noise, not linear: y = -1 lies between the two others

w* and zeta0 are directions of norm 1, zeta is of norm `radius` and orthogonal to zeta0. Probe sets
`p-only` and `q-only` have one pattern; the test set is mixed as the training set is. Everything is
a function of the seed.
"""

import math

import numpy as np
import numpy.typing as npt

from fasttrain_data.catalogue import check_shares
from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData

Vectors = npt.NDArray[np.float64]
Set = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def pattern_pairs(
    *,
    d: int,
    n_train: int,
    n_test: int = 2000,
    radius: float = 0.5,
    p_share: float = 0.2,
    q_share: float = 0.2,
    seed: int = 0,
) -> ImageData:
    """Return float32 inputs of shape (2, d, 1): a row for x1, one for x2; class 1 is y = +1.

    Args:
        d: dimension of each pattern.
        n_train: training samples.
        n_test: of the test set, and of each probe set.
        radius: norm of zeta.
        p_share: share of the samples with x1 alone.
        q_share: with x2 alone.
        seed: of everything.

    Raises `DataError` for fewer than 2 dimensions, sizes or a radius that are not above 0, or
    shares outside 0..1 together.
    """
    check_shares(p_share, q_share)
    if d < 2:
        raise DataError(f"d is {d}, patterns need 2 dimensions or more")
    if not 0 < radius < math.inf or min(n_train, n_test) < 1:
        raise DataError(f"radius {radius:g}, {n_train} and {n_test} samples must be above 0")
    generator = np.random.default_rng([seed])
    pair = _Pair(d, radius, generator)
    mixed = p_share, q_share
    train, test = (pair.draw(n, *mixed, generator) for n in (n_train, n_test))
    probes = {
        "p-only": pair.draw(n_test, 1.0, 0.0, generator),
        "q-only": pair.draw(n_test, 0.0, 1.0, generator),
    }
    return ImageData(
        name="pattern-pairs",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=("-1", "+1"),
        mean=(0.0,),
        std=(1.0,),
        probes=probes,
        notes=(f"d = {d}, N = {n_train}: kappa = sqrt(d/N) is {math.sqrt(d / n_train):.3g}",),
    )


class _Pair:
    """The directions of both patterns."""

    def __init__(self, d: int, radius: float, generator: np.random.Generator) -> None:
        self.d = d
        self.w, self.zeta0, zeta = (_direction(generator.standard_normal(d)) for _ in range(3))
        self.zeta = radius * _direction(zeta - (zeta @ self.zeta0) * self.zeta0)

    def draw(
        self, count: int, p_share: float, q_share: float, generator: np.random.Generator
    ) -> Set:
        labels = generator.integers(0, 2, count)
        y = np.where(labels == 1, 1.0, -1.0)
        place = generator.random(count)
        x1, x2 = self._p(y, generator), self._q(y, generator)
        x2[place < p_share] = 0
        x1[(place >= p_share) & (place < p_share + q_share)] = 0
        return np.stack([x1, x2], axis=1).astype(np.float32)[..., None], labels

    def _p(self, y: Vectors, generator: np.random.Generator) -> Vectors:
        noise = generator.standard_normal((len(y), self.d)) / math.sqrt(self.d)
        along = noise @ self.w
        # The half of a normal distribution where y <w*, z> >= 0.
        wanted = y * (np.abs(along) + 1 / math.sqrt(self.d))
        return noise + (wanted - along)[:, None] * self.w

    def _q(self, y: Vectors, generator: np.random.Generator) -> Vectors:
        side = np.where(y > 0, 2.0 * generator.integers(0, 2, len(y)) - 1, 0.0)
        length = generator.random(len(y))
        return length[:, None] * (self.zeta0 + side[:, None] * self.zeta)


def _direction(vector: Vectors) -> Vectors:
    return vector / np.linalg.norm(vector)
