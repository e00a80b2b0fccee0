"""The regime of one pre-training run, by rules on its curves. Every threshold is here.

On the sphere a step turns the weights by phi, tan phi = ELR rho ||g|| = PLR * G with G the
effective gradient norm ||g||*||theta|| (arXiv 2410.22113; 2209.03695 for the regimes). From phi
follow the units in which a run is long or short, whatever its epochs and batches: steps of angle
phi in random directions keep exp(-S/2) of the direction they began at, S = sum of phi^2, so that a
run has *explored* its surroundings once S >> 1, and has not left its start while S << 1.

    1  convergence   loss and gradient fall to zero, phi with them: it stops moving
    2  equilibrium   the loss stays where it is although the run has explored
    3  divergence    a random walk: a loss above the best guess's (`chance`: the entropy of the
                     class shares), a step that replaces the direction (phi > 45 degrees), the
                     balanced accuracy of a guess

What shows none of them is undecided: it may be too short to tell.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ..training.chance import GUESS

Regime = Literal["1", "2A", "2B", "2", "3", "undecided"]

CONVERGED = 1e-2
"""Training loss of a converged run, as published."""
EXPLORED = 10.0
"""S of a run's last half above which a constant loss is an equilibrium: e^-5 of the direction is
left. Published runs just below the boundary 1|2 wait as long before they converge."""
WALKED = 50.0
"""S of a whole run below which it is no random walk yet: first epochs explored up to 20."""
AT_REST = 1.0
"""S of a run's last quarter below which it is no equilibrium: most of the direction is kept."""
UNMOVED = 0.1
"""S of a whole run below which it has not left its start: if its loss falls, it converges slowly.
An equilibrium's first epoch explores more."""
LEARNT = 0.5
"""Share of the best guess's loss: a loss above it is still the first fall, which regimes 1
and 2 share."""
STILL_FALLING = 0.05
"""Share of the way left to convergence, in log loss, that a window's fall must be to count: at
this rate twenty more such windows converge. Less is a plateau, or drift."""
SIGNIFICANT = 2.0
"""Standard scores of a trend (Mann-Kendall): 5 points of one order have 2.4."""
MIN_WINDOW = 5
"""Epochs of the shortest window: fewer cannot show a trend."""
MIN_EPOCHS = 2 * MIN_WINDOW
"""Epochs of the shortest run that can be an equilibrium: half of it must show no trend."""
MAX_POINTS = 100
"""Points that a trend is taken of; longer windows are reduced to medians of as many parts."""
BARRIER = 0.02
"""Train accuracy lost between end points of one basin: published less than 0.001 in 2A and 0.6 to
0.85 where basins differ; their geometric middle."""
ANGLE = 0.37
"""Angle between end points of one basin, rad: published 0.17 in 2A and 0.82 in 2B; their geometric
middle."""
FITTED = 0.98
"""Train accuracy of a good minimum: published end points fit the training set, 1,000 images can
miss a few."""


@dataclass(frozen=True)
class Curves:
    """What a pre-training run shows, and what its units are."""

    plr: float
    loss: np.ndarray  # (epochs,) training loss
    accuracy: np.ndarray  # (epochs,) balanced training accuracy in [0, 1]
    grad_norm: np.ndarray  # (epochs,) effective
    steps_per_epoch: float
    """NaN if unknown"""
    num_classes: int
    guess_loss: float
    """of the shares of the classes, nats: the loss of the best guess"""
    lost: bool = False
    """ended early because its loss became non-finite"""
    stopped: bool = False
    """given up at chance, by the rule of `--stop-at-chance`"""

    def step_angle(self) -> np.ndarray:
        """phi of every epoch, (epochs,) rad."""
        return np.arctan(self.plr * self.grad_norm)


class Verdict(NamedTuple):
    """A regime, and why, with the figures."""

    regime: Regime
    reason: str


def converged_epoch(loss: np.ndarray) -> float:
    """The first epoch with a training loss below `CONVERGED`, counted from 1, or NaN."""
    below = np.flatnonzero(loss < CONVERGED)
    return float(below[0] + 1) if len(below) else math.nan


def judge(curves: Curves) -> Verdict:
    """The regime of a run: "1", "2", "3" or "undecided"."""
    if curves.lost or not all(np.isfinite(curves.loss[-1:])):
        return Verdict("3", f"the loss became non-finite in epoch {max(1, len(curves.loss))}")
    if not len(curves.loss):
        return Verdict("undecided", "no epoch of it is known")
    finite = np.isfinite(curves.loss) & np.isfinite(curves.grad_norm)
    loss, phi = curves.loss[finite], curves.step_angle()[finite]
    if not len(loss):
        return Verdict("undecided", "no gradient norm of it is known")
    if not math.isfinite(curves.steps_per_epoch):
        return Verdict("undecided", "the number of training images is unknown")
    half, quarter = _tail(len(loss), 2), _tail(len(loss), 4)
    explored = curves.steps_per_epoch * np.square(phi)
    end, angle = float(np.median(loss[quarter])), float(np.median(phi[quarter]))
    falling = _falls(loss[half], CONVERGED)
    settled = len(loss) >= MIN_EPOCHS and not falling
    if walk := _random_walk(curves, end, angle, float(explored.sum()), settled):
        return Verdict("3", walk)
    late, last = float(explored[half].sum()), float(explored[quarter].sum())
    resting = last < AT_REST
    text = f"loss {end:.2g}, step angle {angle:.2g} rad"
    least = min(end, float(loss[-1]))
    if resting and least < CONVERGED:
        return Verdict("1", f"converged: loss {least:.2g}, step angle {angle:.2g} rad")
    if falling and float(explored.sum()) < UNMOVED:
        return Verdict("1", f"converges slowly: {text}, explored {explored.sum():.2g} in all")
    low = end < LEARNT * curves.guess_loss
    if falling and resting and low and _trend(np.log(phi[half])).significant < 0:
        return Verdict("1", f"converges: {text}, both falling, explored {last:.2g}")
    if len(loss) < MIN_EPOCHS and late >= EXPLORED:
        return Verdict("undecided", f"{text}: {len(loss)} epochs are too few to show a trend")
    if late >= EXPLORED and not falling:
        return Verdict("2", f"stationary: {text}, explored {late:.3g} in the last half")
    way = "falls" if falling else "does not fall"
    missing = "has explored only" if late < EXPLORED else "explored"
    return Verdict("undecided", f"{text}: the loss {way}, the last half {missing} {late:.2g}")


def split_equilibrium(angle: float, barrier: float, accuracy: float) -> Verdict:
    """Whether an equilibrium's end points at the lowest and the highest FLR share a basin: 2A, 2B.

    Args:
        angle: between the two, rad, NaN if unknown.
        barrier: of train accuracy on the straight line between them, a fraction, NaN if unknown.
        accuracy: the lesser training accuracy of the two, NaN if one has none.
    """
    if math.isfinite(barrier):
        text, one_basin = f"train barrier {100 * barrier:.2g} %", barrier < BARRIER
    elif math.isfinite(angle):
        text, one_basin = f"angle {angle:.2g} rad, barrier unknown", angle < ANGLE
    else:
        return Verdict("2", "A or B needs the angle or barrier between low and high FLR")
    text = f"low and high FLR: {text}"
    if not one_basin:
        return Verdict("2B", text)
    if accuracy >= FITTED:
        return Verdict("2A", text)
    fitted = "unknown" if math.isnan(accuracy) else f"{100 * accuracy:.3g} %"
    return Verdict("2", f"{text}, but their training accuracy is {fitted}: too short to tell")


def _tail(length: int, part: int) -> slice:
    """The last 1/part of a series, at least `MIN_WINDOW` of it."""
    return slice(max(0, length - max(MIN_WINDOW, length // part)), None)


def _random_walk(curves: Curves, loss: float, angle: float, explored: float, settled: bool) -> str:
    """Why this is regime 3, or nothing; an accuracy tells only once the loss has settled."""
    guess = curves.guess_loss
    if curves.stopped:
        return f"stopped at chance: loss {loss:.2g} above a guess's {guess:.2g}"
    known = curves.accuracy[np.isfinite(curves.accuracy)]
    accuracy = float(np.median(known[_tail(len(known), 4)])) if len(known) else math.nan
    chance = 1 / curves.num_classes
    guesses = settled and accuracy - chance < GUESS * (1 - chance)
    if explored > WALKED and loss > guess and (angle > math.pi / 4 or guesses):
        text = f"loss {loss:.2g} above a guess's {guess:.2g}, step angle {angle:.2g} rad"
        return f"random walk: {text}, balanced accuracy {100 * accuracy:.3g} %"
    return ""


class _Trend(NamedTuple):
    change: float
    """over the whole window, by the median slope between its points (Theil, Sen)"""
    significant: int
    """-1 falls, 1 rises, 0 cannot be told"""


def _trend(values: np.ndarray) -> _Trend:
    """The trend of equally spaced values, robust against outliers."""
    values = values[np.isfinite(values)]
    if len(values) > 2 * MAX_POINTS:
        parts = np.array_split(values, MAX_POINTS)
        values = np.array([np.median(part) for part in parts])
    n = len(values)
    if n < MIN_WINDOW:
        return _Trend(0.0, 0)
    first, second = np.triu_indices(n, 1)
    rises = values[second] - values[first]
    score = float(np.sign(rises).sum())
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    significant = int(math.copysign(abs(score) > SIGNIFICANT * deviation, score))
    return _Trend(float(np.median(rises / (second - first))) * (n - 1), significant)


def _falls(loss: np.ndarray, goal: float) -> bool:
    """Whether the loss of a window falls, by a share of its way to the goal that counts."""
    trend = _trend(np.log(np.maximum(loss, 1e-300)))
    way = math.log(max(float(np.median(loss)), 1e-300) / goal)
    return trend.significant < 0 and -trend.change > STILL_FALLING * way
