"""What guessing scores on a training set, whatever the shares of its classes.

A run is *at chance* when it shows no sign of having learnt, by two measures at once:

    loss                at least the best of a prediction that does not look at the image: of the
                        cross-entropy that of the class shares, H = -sum p_c ln p_c (ln C if
                        balanced)
    balanced accuracy   the mean over classes of the share of their images that are right, as of a
                        guess: 1/C, whatever the shares

Each alone misleads. Large rates are confident in their mistakes, so that a loss above H goes with
38 % of ten digits right, or with 97 % of the test images after one epoch in which the loss was
still falling. A run that begins to learn has a loss below H before its predictions change. Plain
accuracy misleads where one class has 92 % of the images: predicting that class always has 92 %, and
a network that tells the classes apart may have less.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DONE, AT_CHANCE, NON_FINITE = ENDS = ("done", "at-chance", "non-finite")
"""How a stage ends: as it should, with the training scores of a guess, or with a loss that is not
finite; each is a result."""
GUESS = 0.05
"""Balanced accuracy above a uniform guess's, as a share of what is above it, that is none: 0.145 of
10 classes. Equilibria measured have more than 0.1, random walks less than 0.03: their predictions
depend on the image, at random, which scatters more than guesses do."""
NUM_ERRORS = 3
"""Standard errors of a guess that are none either: they are more where a class has few images."""


class Chance(NamedTuple):
    """What a prediction that does not look at the image reaches on a training set."""

    loss: float
    """the least mean loss"""
    balanced_accuracy: float
    """up to which a network may have guessed"""

    def holds(self, loss: float, balanced_accuracy: float) -> bool:
        """Whether a network with these finite training scores may be guessing.

        Training without a mistake is never a guess, however few the images are.
        """
        guesses = balanced_accuracy <= self.balanced_accuracy and balanced_accuracy < 1
        return guesses and loss >= self.loss


def chance_of(labels: np.ndarray, guess: Callable[[np.ndarray], float]) -> Chance:
    """The chance level of a training set with these labels, (num_images,) of integers.

    Args:
        guess: the least mean loss, of the shares of the classes.
    """
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    uniform = 1 / len(counts)
    # Of a uniform guess: the mean of the accuracies of classes that are independent.
    error = math.sqrt(uniform * (1 - uniform) * (1 / counts).sum()) * uniform
    return Chance(guess(shares), uniform + max(NUM_ERRORS * error, GUESS * (1 - uniform)))
