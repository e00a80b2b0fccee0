"""Data that are drawn from seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, Strict

from fasttrain_data.catalogue import (
    LARGEST_MARGIN,
    TICK_MARGIN,
    TICK_PROBE,
    TICK_TEST,
    TICK_TRAIN,
    check_bits,
    check_pattern_pairs,
)

from ..fields import Count
from ..limits import MOST
from .part import Above0, Data, DataSeed

if TYPE_CHECKING:
    from fasttrain_data import ImageData

Number = Annotated[float, Strict()]
Bits = Annotated[float, Strict(), Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Tick(Data):
    """Synthetic features (`fasttrain_data.synthetic.tick`): 512 training and 2,000 test samples.

    Several draws are trained on in turn: run n has draw n modulo their number, and what a run draws
    itself, weights and batches, is that of n divided by it, so that both are crossed. The frozen
    head goes with the draw.
    """

    kind: Literal["tick"] = "tick"
    seed: Annotated[int, Strict(), Field(ge=0, le=MOST)] = 0
    """seed of the first draw; draw i has seed + i"""
    draws: Annotated[Count, Field(le=1000)] = 1
    """number of data sets; the seeds of the study take them in turn"""
    n_probe: Annotated[Count, Field(le=1_000_000)] = TICK_PROBE
    """samples of each probe set, in which one feature is informative"""
    margin: Annotated[float, Strict(), Field(ge=0, le=LARGEST_MARGIN)] = TICK_MARGIN
    """distance of the samples from the curve that separates the classes"""

    @property
    def dataset(self) -> str:
        return self.kind

    def load(self, root: Path | None) -> "ImageData":
        return self.draw(0)

    @property
    def num_draws(self) -> int:
        return self.draws

    def draw(self, number: int) -> "ImageData":
        from fasttrain_data.synthetic.tick import tick

        return tick(
            self.seed + number,
            n_train=self.n_train or TICK_TRAIN,
            n_test=self.n_test or TICK_TEST,
            n_probe=self.n_probe,
            margin=self.margin,
        )

    def head_seed(self, draw: int) -> int | None:
        return self.seed + draw


@dataclass(frozen=True, kw_only=True)
class PatternPairs(Data):
    """Pairs of an easy, noisy pattern P and a hard, exact one, Q.

    A reconstruction of the theoretical setting of 1907.04595. Probe sets `p-only`, `q-only` and
    `mixed`. Data are drawn from the seed here, the same for all runs.
    """

    kind: Literal["pattern-pairs"] = "pattern-pairs"
    dimension: Count = 100
    """d, numbers in a pattern"""
    kappa: Number = 1.0
    """the number of training samples is d / kappa^2"""
    p_share: Number = 0.2
    """share of the samples with P alone"""
    q_share: Number = 0.2
    """share of the samples with Q alone"""
    scale: Above0 = 10.0
    """largest norm of x2; that of x1 is about 1"""
    separation: Above0 = 0.2
    """distance of the classes of Q, relative to its norm"""
    seed: Annotated[int, Strict(), Field(ge=0, le=MOST)] = 0
    """seed of the data"""

    @property
    def dataset(self) -> str:
        return self.kind

    def check(self, root: Path | None) -> None:

        check_pattern_pairs(self.dimension, self.kappa, self.p_share, self.q_share)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.synthetic.pattern_pairs import pattern_pairs

        return pattern_pairs(
            dimension=self.dimension,
            kappa=self.kappa,
            p_share=self.p_share,
            q_share=self.q_share,
            scale=self.scale,
            separation=self.separation,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PS10(Data):
    """A simple and a complex pattern side by side, ten classes (`fasttrain_data.synthetic.ps10`).

    A reconstruction of that of 1908.01878. Probe sets `simple-only` and `complex-only` lack the
    other pattern.
    """

    kind: Literal["ps10"] = "ps10"
    n_train: Count = 2000
    n_test: Count = 1000
    simple_bits: Bits = 0.5
    """entropy of a step of the simple pattern, given the class"""
    complex_bits: Bits = 2.5
    """entropy of a step of the complex pattern, given the class"""
    alone: Annotated[float, Strict(), Field(ge=0, le=0.5)] = 0.2
    """share of the training images with the simple pattern alone, and of those with the complex"""
    seed: DataSeed = 0
    """seed of the patterns"""

    @property
    def dataset(self) -> str:
        return self.kind

    def check(self, root: Path | None) -> None:
        check_bits(self.simple_bits, self.complex_bits)

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data.synthetic.ps10 import ps10

        return ps10(
            simple_bits=self.simple_bits,
            complex_bits=self.complex_bits,
            alone=self.alone,
            n_train=self.n_train,
            n_test=self.n_test,
            seed=self.seed,
        )
