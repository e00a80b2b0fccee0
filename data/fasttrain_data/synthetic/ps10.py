"""PS10: ten classes, a simple and a complex pattern of the class side by side in every image.

A reconstruction of "pattern separation 10" (arXiv 1908.01878). Each half of an image is a square of
symbols, grey levels that are equally far apart; every line of it is a Markov chain, uniform at its
first symbol, with the transition matrix of the class: one for simple, one for complex patterns.

Complexity is the entropy of a pattern given the class, mean over classes: E_y H(P(x|y)). It is
computed from the matrices, exactly (`complexity`). The rows of a matrix are permutations, drawn
from the seed, of one list of probabilities p_k ~ exp(-b k), with b such that its entropy is what is
asked for: few bits a step make simple patterns, many make complex ones.

The right half is complex. Of the training images a share has the simple pattern alone, and as many
the complex one, so that neither suffices to fit all; the other half is then blank, grey. Probe sets
`simple-only` and `complex-only` are all test images without the other pattern.
"""

import numpy as np
import numpy.typing as npt

from fasttrain_data.catalogue import PS10_SIDE, PS10_SYMBOLS, check_bits
from fasttrain_data.errors import DataError
from fasttrain_data.images import ImageData, as_floats, channel_statistics

NUM_CLASSES = 10
Matrices = npt.NDArray[np.float64]  # (classes, symbols, symbols): from, to


def ps10(
    *,
    simple_bits: float,
    complex_bits: float,
    n_train: int,
    n_test: int,
    alone: float = 0.0,
    seed: int = 0,
) -> ImageData:
    """Return images (8, 16, 1), balanced over the classes, of patterns of these entropies a step.

    Args:
        simple_bits: entropy of a step, given the class, of the simple pattern.
        complex_bits: of the complex one.
        alone: share of the training images that have the simple pattern alone, and as many the
            complex one alone.

    Raises `DataError` for an entropy outside 0..3 bits, a simple pattern above the complex one, or
    a share outside 0..0.5.
    """
    check_bits(simple_bits, complex_bits)
    if not 0 <= alone <= 0.5:
        raise DataError(f"alone is {alone:g}, it must lie in 0..0.5")
    generator = np.random.default_rng([seed])
    matrices = [transitions(bits, generator) for bits in (simple_bits, complex_bits)]
    (train, train_labels), (test, test_labels) = (
        _images(n, matrices, generator) for n in (n_train, n_test)
    )
    # Balanced as the whole is: of every ten images one of each class.
    left, right = slice(None, PS10_SIDE), slice(PS10_SIDE, None)
    number = round(alone * n_train)
    train[:number] = _blanked(train[:number], right)
    train[number : 2 * number] = _blanked(train[number : 2 * number], left)
    mean, std = channel_statistics(train)
    about = (
        f"{name} patterns have a complexity E_y H(P(x|y)) of {complexity(of, PS10_SIDE):.2f} bits"
        f" ({bits:g} a step); the likeliest class is right for"
        f" {100 * (likeliest(test[:, :, half], of) == test_labels).mean():.1f} % of the test set"
        for name, bits, of, half in (
            ("simple", simple_bits, matrices[0], left),
            ("complex", complex_bits, matrices[1], right),
        )
    )
    probes = {
        "simple-only": (_blanked(test, right), test_labels),
        "complex-only": (_blanked(test, left), test_labels),
    }
    return ImageData(
        name="ps10",
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
        class_names=tuple(map(str, range(NUM_CLASSES))),
        mean=as_floats(mean),
        std=as_floats(std),
        probes=probes,
        notes=tuple(about),
    )


def transitions(bits: float, generator: np.random.Generator) -> Matrices:
    """Return a matrix for each class, all of whose rows have this entropy."""
    order = np.tile(np.arange(PS10_SYMBOLS), (NUM_CLASSES, PS10_SYMBOLS, 1))
    return _row(bits)[generator.permuted(order, axis=2)]


def _row(bits: float) -> npt.NDArray[np.float64]:
    """Return probabilities exp(-b k) / sum, k = 0, 1, ..., of this entropy."""
    low, high = 0.0, 200.0
    for _ in range(200):
        middle = (low + high) / 2
        # The entropy falls as b grows.
        low, high = (middle, high) if _entropy(_falling(middle)) > bits else (low, middle)
    return _falling(high)


def _falling(b: float) -> npt.NDArray[np.float64]:
    row = np.exp(-b * np.arange(PS10_SYMBOLS))
    return row / row.sum()


def _entropy(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy of the last axis, in bits."""
    return -(rows * np.log2(np.where(rows > 0, rows, 1))).sum(axis=-1)


def complexity(matrices: Matrices, side: int) -> float:
    """Return E_y H(P(x|y)) in bits, of squares of chains whose first symbol is uniform.

    The chain rule makes it exact: H of the first symbol, and for each step the entropy of the row
    of the symbol before it, in expectation over where the chain is then.
    """
    count = matrices.shape[-1]
    at = np.full((len(matrices), 1, count), 1 / count)
    line = _entropy(at[:, 0])
    for _ in range(side - 1):
        line = line + (at[:, 0] * _entropy(matrices)).sum(axis=1)
        at = at @ matrices
    return float(side * line.mean())


def likeliest(
    patterns: npt.NDArray[np.uint8],  # (N, side, side, 1)
    matrices: Matrices,
) -> npt.NDArray[np.int64]:
    """Return the class under which each pattern is the most probable: no classifier is better."""
    symbols = np.rint(patterns[..., 0] / 255 * (PS10_SYMBOLS - 1)).astype(np.int64)
    with np.errstate(divide="ignore"):
        logarithms = np.log(matrices)
    steps = logarithms[:, symbols[:, :, :-1], symbols[:, :, 1:]]
    return steps.sum(axis=(2, 3)).argmax(axis=0)


def _images(
    count: int, matrices: list[Matrices], generator: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    labels = np.arange(count) % NUM_CLASSES
    halves = [_patterns(labels, of, generator) for of in matrices]
    symbols = np.concatenate(halves, axis=2)
    levels = np.rint(np.linspace(0, 255, PS10_SYMBOLS)).astype(np.uint8)
    return levels[symbols][..., None], labels


def _patterns(
    labels: npt.NDArray[np.int64], matrices: Matrices, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return symbols (N, side, side)."""
    shape = len(labels), PS10_SIDE
    found = [generator.integers(0, PS10_SYMBOLS, shape)]
    for _ in range(PS10_SIDE - 1):
        rows = matrices[labels[:, None], found[-1]].cumsum(axis=-1)
        drawn = generator.random(shape)[..., None] * rows[..., -1:]
        found.append((drawn >= rows).sum(axis=-1))
    return np.stack(found, axis=2)


def _blanked(images: npt.NDArray[np.uint8], half: slice) -> npt.NDArray[np.uint8]:
    """Return the images with the columns of one half at the mean grey level."""
    images = images.copy()
    images[:, :, half] = 128
    return images
