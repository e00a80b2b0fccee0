"""Optimiser steps, timed: ours against other ways to take the same step on the sphere.

Run with `fasttrain bench kernels`. Every variant first takes one step that is compared with the
reference; then all are timed in turn, round after round, so that other load hits them alike. The
yardstick is a copy of the parameters (8 bytes each): `of copy` is a variant's bytes per second over
the copy's. Bytes are what the algorithm has to move, 4 per value read or written once per pass.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .optimizer_variants import CASES, Case, Problem, Step, variants


@dataclass(frozen=True)
class Row:
    """Times of one variant in seconds, per step."""

    case: str
    variant: str
    num_params: int
    bytes_per_param: int
    times_s: list[float]
    copy_s: float
    """median of copying the parameters once"""

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)

    @property
    def gb_per_s(self) -> float:
        return self.bytes_per_param * self.num_params / self.median_s / 1e9

    @property
    def of_copy(self) -> float:
        """Bytes per second over those of the copy."""
        return self.bytes_per_param / 8 * self.copy_s / self.median_s

    def cells(self) -> list[str]:
        low, _, high = statistics.quantiles(self.times_s, n=4)
        return [
            self.variant,
            f"{self.bytes_per_param}",
            f"{self.median_s * 1e3:.3f}",
            f"{low * 1e3:.3f} to {high * 1e3:.3f}",
            f"{self.gb_per_s:.1f}",
            f"{self.of_copy * 100:.0f} %",
        ]


def measure(case: Case, rounds: int, compiled: bool = True) -> Iterator[Row]:
    """Check every variant on a case, then time them in turn.

    Raises:
        AssertionError: a variant's step is not the step on the joint sphere.
    """
    num_params = Problem.of(case).num_params()
    steps: dict[str, tuple[Step, int]] = {}
    expected: Tensor | None = None
    for name, variant in variants(compiled).items():
        step, result = variant.make(Problem.of(case))
        step()
        if variant.joint:
            found = result()
            expected = found if expected is None else expected
            torch.testing.assert_close(
                found, expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
        steps[name] = (step, variant.bytes_per_param)
    source, target = torch.randn(num_params), torch.empty(num_params)
    steps["copy of the parameters"] = (lambda: target.copy_(source), 8)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            times[name].append(_time(step, repeat=max(1, 2_000_000 // num_params)))
    copy_s = statistics.median(times["copy of the parameters"])
    for name, (_, size) in steps.items():
        yield Row(case.name, name, num_params, size, times[name], copy_s)


def _time(step: Step, repeat: int) -> float:
    # The first call finds another variant's data in the cache.
    step()
    started = time.perf_counter()
    for _ in range(repeat):
        step()
    return (time.perf_counter() - started) / repeat


HEADINGS = ["step", "bytes", "median ms", "quartiles ms", "GB/s", "of copy"]


def tables(names: list[str], rounds: int, compiled: bool = True) -> Iterator[str]:
    """A Markdown table per case, as soon as it is measured."""
    for name in names:
        rows = list(measure(CASES[name], rounds, compiled))
        lines = [
            f"{rows[0].case}: {rows[0].num_params:,} parameters, n = {rounds}",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|---{'|---:' * (len(HEADINGS) - 1)}|",
            *(f"| {' | '.join(row.cells())} |" for row in rows),
            "",
        ]
        yield "\n".join(lines)
