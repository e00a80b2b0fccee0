"""Geometry of minima: angle matrices, and the linear paths between the ends of stages.

The published protocol (arXiv 2410.22113) of a path from A to B, sphere weights as one vector:

    theta(alpha) = (1 - alpha) A + alpha B,     A, B and every theta(alpha) rescaled to norm rho

at 21 points, or as many as are asked for (of the tick features 11); what trains beside the sphere
is mixed likewise and not rescaled, and without a sphere nothing is. At each one batch-normalisation
statistics are re-estimated over the training set; training scores are those of that pass, in train
mode, test scores are in eval mode, as all scores of a network without batch normalisation. The
barrier is

    max over alpha of max(0, (1 - alpha) acc(A) + alpha acc(B) - acc(alpha)),

of a loss with the sign turned. Points are evaluated as packs, on the batches of epoch 0.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors
import torch
from torch import Tensor

from ..execution.packing import evenly
from ..settings.networks.modules import fold
from ..training.angles import angle
from ..training.evaluate import reestimate_batch_norm_, score_test_set
from ..training.pack import State, drawing
from ..training.workbench import Workbench

NUM_POINTS = 21
"""of a path, its ends among them"""
SCORES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
GRAM_BYTES = 2**28
"""memory for the part of all networks that is multiplied at a time"""


class Line(NamedTuple):
    """A path between two networks, by their names, and what the pair is called."""

    pair: str
    a: str
    b: str
    k: int | None = None
    """checkpoints of the average, if one of them is"""


class Weights(NamedTuple):
    """Where the sphere weights of a network lie: a safetensors file, and what their names have
    in front there."""

    path: Path
    prefix: str


def angle_matrix(networks: Sequence[Weights], names: Sequence[str]) -> np.ndarray:
    """Angles between all networks, (N, N) fp64 in rad, of the named tensors as one vector each.

    One Gram product per part of a tensor, as large as `GRAM_BYTES` allow, in fp64: networks are
    read part by part and never held whole. Angles come from their cosines, so those below 1e-7 are
    known to about 3e-8 only.
    """
    gram = torch.zeros(len(networks), len(networks), dtype=torch.float64)
    for name in names:
        for part in _parts(networks, name):
            gram += part @ part.T
    norms = gram.diagonal().sqrt()
    cosines = (gram / torch.outer(norms, norms)).clamp(-1, 1)
    return cosines.arccos().fill_diagonal_(0.0).numpy()


def _parts(networks: Sequence[Weights], name: str) -> Iterator[Tensor]:
    """A tensor of all networks in parts of some rows: (N, numbers) fp64."""
    with safetensors.safe_open(networks[0].path, framework="pt") as file:
        shape = file.get_slice(f"{networks[0].prefix}{name}").get_shape()
    row_bytes = 8 * len(networks) * math.prod(shape[1:])
    step = max(1, GRAM_BYTES // row_bytes)
    for first in range(0, shape[0], step):
        rows = []
        for path, prefix in networks:
            with safetensors.safe_open(path, framework="pt") as file:
                part = file.get_slice(f"{prefix}{name}")[first : first + step]
                rows.append(part.flatten().double())
        yield torch.stack(rows)


def interpolate(
    a: Sequence[Tensor], b: Sequence[Tensor], alpha: float, radius: float | None
) -> list[Tensor]:
    """The point alpha of the path from a to b, computed in fp64, in their dtype.

    Ends and point are rescaled to the sphere, unless the radius is None.
    """
    ends = (_on_sphere([tensor.double() for tensor in end], radius) for end in (a, b))
    mixed = [(1 - alpha) * x + alpha * y for x, y in zip(*ends, strict=True)]
    point = _on_sphere(mixed, radius)
    return [value.to(like.dtype) for value, like in zip(point, a, strict=True)]


def _on_sphere(tensors: Sequence[Tensor], radius: float | None) -> list[Tensor]:
    if radius is None:
        return list(tensors)
    norm = math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
    return [tensor * (radius / norm) for tensor in tensors]


def follow(
    lines: Sequence[Line],
    states: Mapping[str, State],
    seed: int,
    workbench: Workbench,
    size: int,
    num_points: int = NUM_POINTS,
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Evaluate paths between networks of one seed; of each its row of PAIRS and rows of PATHS.

    Args:
        states: state_dicts of the networks that the lines name.
        size: most models in a pack. An end that several lines share is evaluated once.
    """
    alphas = [index / (num_points - 1) for index in range(num_points)]
    keys = list(dict.fromkeys(_key(line, alpha) for line in lines for alpha in alphas))
    weights, free = (
        {name: [state[n] for n in names] for name, state in states.items()}
        for names in (workbench.sphere_names, workbench.free_names)
    )
    radius = (
        workbench.config.network.radius if workbench.config.optimizer.kind == "sphere" else None
    )

    def point(key: tuple[str, str, float]) -> State:
        a, b, alpha = key
        mixed = interpolate(weights[a], weights[b], alpha, radius)
        beside = interpolate(free[a], free[b], alpha, None)
        names = [*workbench.sphere_names, *workbench.free_names]
        return {**states[a], **dict(zip(names, [*mixed, *beside], strict=True))}

    scores: dict[tuple[str, str, float], list[float]] = {}
    for part in evenly(keys, size):
        rows = score_pack([point(key) for key in part], seed, workbench).tolist()
        scores |= dict(zip(part, rows, strict=True))
    found = []
    for line in lines:
        path = pd.DataFrame([scores[_key(line, alpha)] for alpha in alphas], columns=list(SCORES))
        ends = {"pair": line.pair, "stage_a": line.a, "stage_b": line.b}
        pair = {
            **ends,
            "angle": angle(weights[line.a], weights[line.b]),
            **barriers(path, np.array(alphas)),
            "k": line.k,
        }
        found.append(
            (
                pd.DataFrame([pair]).astype({"k": "Int64"}),
                path.assign(**ends, alpha=alphas)[[*ends, "alpha", *SCORES]],
            )
        )
    return found


def _key(line: Line, alpha: float) -> tuple[str, str, float]:
    """What a point is, whichever lines it is on: an end is a network's own."""
    if alpha in (0.0, 1.0):
        end = line.b if alpha else line.a
        return end, end, 0.0
    return line.a, line.b, alpha


def barriers(path: pd.DataFrame, alphas: np.ndarray) -> dict[str, float]:
    """The four barriers of a path, each the largest excess over the line between its ends."""
    result = {}
    for name in SCORES:
        values = path[name].to_numpy()
        line = (1 - alphas) * values[0] + alphas * values[-1]
        above = values - line if name.endswith("loss") else line - values
        split, what = name.split("_")
        column = f"{split}_barrier" if what == "accuracy" else f"{split}_loss_barrier"
        # Ends are on the line whatever the rounding.
        result[column] = float(np.maximum(above, 0)[1:-1].max())
    return result


def score_pack(states: Sequence[State], seed: int, workbench: Workbench) -> Tensor:
    """`SCORES` of models as one pack, statistics re-estimated: (num_models, 4) fp64 on the host."""
    model = workbench.new_model(seed, len(states)).to(states[0][workbench.sphere_names[0]].dtype)
    model.load_state_dict(fold(states))
    batches = workbench.train_loader(seed).epoch(0)
    with drawing(seed, 0, workbench.device):
        train = reestimate_batch_norm_(
            model, workbench.loss, batches, workbench.precision, workbench.device
        )
    test = score_test_set(
        model, workbench.loss, workbench.test_loader, workbench.precision, workbench.device
    )
    return torch.stack([*train, *test], dim=1).cpu()
