"""Pairs of patterns: P, which generalises easily and is noisy, and Q, which does not and is exact.

A reconstruction of the theoretical setting of arXiv 1907.04595, of which no simulation is public.
A sample is two vectors of d numbers, x = (x1, x2), and a class y = -1 or 1:

    x1 of P    y w* / sqrt(d) + z,   z ~ N(0, I/d), of which y <w*, z> >= 0;   w* a unit vector
    x2 of Q    y = -1: a s zeta0;    y = 1: a s (zeta0 + b r zeta)
               a ~ U[0, 1], b = -1 or 1, each as likely; zeta0 and zeta orthogonal unit vectors

P is linear in x1 and holds as much noise as a sample of d dimensions can; Q has no noise, and no
linear function of x2 tells it. Of the training samples a share has P alone (x2 = 0), a share Q
alone, the others both; the test set is drawn likewise. In the probe sets all samples have P alone,
Q alone, or both: `p-only`, `q-only`, `mixed`. There are N = d / kappa^2 training samples, rounded:
kappa is about the angle at which a linear classifier finds w* from them.
"""

import numpy as np
import numpy.typing as npt

from fasttrain_data.catalogue import check_pattern_pairs
from fasttrain_data.images import ImageData

Samples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
NUM_TEST = 2000
"""samples of the test set and of each probe set"""


def pattern_pairs(
    *,
    dimension: int,
    kappa: float,
    p_share: float,
    q_share: float,
    scale: float,
    separation: float,
    n_test: int = NUM_TEST,
    seed: int = 0,
) -> ImageData:
    """Return the sets of a seed: float32 samples of shape (2, d, 1), row 0 is x1 and row 1 is x2.

    Args:
        p_share: of the samples that have P alone.
        q_share: of those that have Q alone.
        scale: s, the largest norm of x2.
        separation: r, the distance of the two classes of Q at a = s = 1, ||r zeta||.

    Raises `DataError` naming what lies outside its range.
    """
    count = check_pattern_pairs(dimension, kappa, p_share, q_share)
    generator = np.random.default_rng([seed])
    directions = unit_directions(dimension, generator)

    def drawn(num_samples: int, p_alone: float, q_alone: float) -> Samples:
        labels = np.arange(num_samples) % 2
        y = np.where(labels == 1, 1.0, -1.0)
        x1 = _p(y, directions[0], generator)
        x2 = scale * _q(y, directions[1], separation * directions[2], generator)
        draw = generator.random(num_samples)
        x2[draw < p_alone] = 0
        x1[(draw >= p_alone) & (draw < p_alone + q_alone)] = 0
        return np.stack([x1, x2], axis=1).astype(np.float32)[..., None], labels

    train = drawn(count, p_share, q_share)
    test = drawn(n_test, p_share, q_share)
    return ImageData(
        name="pattern-pairs",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=("-1", "1"),
        mean=(0.0,),
        std=(1.0,),
        probes={
            "p-only": drawn(n_test, 1, 0),
            "q-only": drawn(n_test, 0, 1),
            "mixed": drawn(n_test, 0, 0),
        },
    )


def unit_directions(dimension: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return w*, zeta0 and zeta as rows: unit vectors, the last two orthogonal."""
    w, zeta0, zeta = generator.standard_normal((3, dimension))
    w, zeta0 = w / np.linalg.norm(w), zeta0 / np.linalg.norm(zeta0)
    zeta -= (zeta @ zeta0) * zeta0
    return np.stack([w, zeta0, zeta / np.linalg.norm(zeta)])


def _p(
    y: npt.NDArray[np.float64], w: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    dimension = len(w)
    z = generator.standard_normal((len(y), dimension)) / dimension**0.5
    along = z @ w
    # The half-space of the condition is the mirror image of the other one.
    z += ((y * np.abs(along) - along) + y / dimension**0.5)[:, None] * w
    return z


def _q(
    y: npt.NDArray[np.float64],
    zeta0: npt.NDArray[np.float64],
    zeta: npt.NDArray[np.float64],
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    a = generator.random(len(y))
    b = 2.0 * generator.integers(0, 2, len(y)) - 1
    return a[:, None] * (zeta0 + ((y > 0) * b)[:, None] * zeta)
