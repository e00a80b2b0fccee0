"""Norms of filters and tensors over training, and the learning rates that follow from them.

On one sphere of radius rho each group i of weights has its own norm n_i, and with it its own
effective learning rate (arXiv 2410.22113):

    ELR_i = eta / n_i^2,    eta = ELR rho^2,        so that sum_i 1 / ELR_i = 1 / ELR.

Of SGD at a raw rate eta the first holds too (momentum is not counted). Adam, others,
and a sphere for each filter or tensor, have no such eta: there ELR_i is NaN.

Groups are filters or tensors. How uneven they are is told by the standard deviation of log10 n_i,
by the effective number of groups (sum n_i^2)^2 / sum n_i^4 (1 if one holds all the norm, their
number if all are alike), and by the histogram of log10(n_i / rho), rho
the norm of all weights where there is no sphere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..settings.optimizers.kinds import SGD, Sphere

FILTER, TENSOR = "filter", "tensor"
RANGE = (-6.0, 0.0)
"""of log10(n_i / rho) in histograms"""
NUM_BINS = 50
EPOCHS_PER_DECADE = 8


def filter_norms(weights: Sequence[Tensor]) -> Tensor:
    """||theta_i|| of every filter of conv weights (filters, ...), in their order: fp64."""
    return torch.cat([weight.double().reshape(len(weight), -1).norm(dim=1) for weight in weights])


def tensor_norms(
    norms: np.ndarray,  # (epochs, filters)
    filters: Sequence[int],  # of each tensor
) -> np.ndarray:
    """||theta_t|| of every tensor from those of its filters: (epochs, tensors) fp64."""
    starts = np.concatenate([[0], np.cumsum(filters)[:-1]])
    return np.sqrt(np.add.reduceat(norms.astype(np.float64) ** 2, starts, axis=1))


def log_spaced(num_epochs: int) -> list[int]:
    """Epochs of a stage to look at: 0, its start, then log-spaced ones up to its end."""
    decades = np.log10(max(num_epochs, 1))
    count = int(np.ceil(decades * EPOCHS_PER_DECADE)) + 1
    spaced = np.unique(np.round(np.logspace(0, decades, count)).astype(int))
    return [0, *(int(epoch) for epoch in spaced if epoch <= num_epochs)]


def describe(
    norms: np.ndarray,  # (epochs, filters): of the start of the stage, then of every epoch
    filters: Sequence[int],  # of each tensor
    *,
    start_epoch: int,
    eta: float,
) -> pd.DataFrame:
    """NORMS of a stage without its id, at log-spaced epochs, its start and its end."""
    chosen = log_spaced(len(norms) - 1)
    tables = []
    for level, values in by_level(norms[chosen], filters).items():
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = group_elrs(values, eta)
            squares = values**2
            columns = {
                "epoch": [start_epoch + epoch for epoch in chosen],
                "level": level,
                "num_groups": values.shape[1],
                "spread": np.log10(values).std(axis=1),
                "effective_groups": squares.sum(axis=1) ** 2 / (squares**2).sum(axis=1),
                "min_elr": rates.min(axis=1),
                "median_elr": np.median(rates, axis=1),
                "max_elr": rates.max(axis=1),
            }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def histograms(
    norms: Mapping[int, np.ndarray],  # by epoch (filters,)
    filters: Sequence[int],
    radius: float | None,
) -> pd.DataFrame:
    """HISTOGRAMS of a stage without its id: what lies outside `RANGE` is in the outermost bins.

    Args:
        radius: what norms are divided by; None is that of all weights together.
    """
    edges = np.linspace(*RANGE, NUM_BINS + 1)
    tables = []
    for epoch, of_filters in norms.items():
        whole = radius or np.linalg.norm(of_filters)
        for level, values in by_level(of_filters[None], filters).items():
            with np.errstate(divide="ignore"):
                logarithms = np.log10(values[0] / whole)
            counts, _ = np.histogram(np.clip(logarithms, *RANGE), edges)
            columns = {"log10_low": edges[:-1], "log10_high": edges[1:], "count": counts}
            tables.append(pd.DataFrame({"epoch": epoch, "level": level, **columns}))
    return pd.concat(tables, ignore_index=True)


def by_level(norms: np.ndarray, filters: Sequence[int]) -> dict[str, np.ndarray]:
    """Norms (epochs, filters) as those of each level: (epochs, groups) fp64."""
    return {FILTER: norms.astype(np.float64), TENSOR: tensor_norms(norms, filters)}


def raw_rate(optimizer: Any, lr: float, radius: float) -> float:
    """The raw rate eta that all weights share; NaN if there is none."""
    if isinstance(optimizer, Sphere):
        return lr * radius**2 if optimizer.scope in ("joint", "equal-norms") else np.nan
    return lr if isinstance(optimizer, SGD) else np.nan


def group_elrs(norms: np.ndarray, eta: float) -> np.ndarray:
    """The effective learning rate of every group, of the shape of their norms."""
    return eta / norms.astype(np.float64) ** 2
