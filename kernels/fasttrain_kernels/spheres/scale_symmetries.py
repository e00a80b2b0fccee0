"""Sets of parameters whose common scale changes nothing, from derivatives of the output.

Column i of V is df / dlog ||theta_i||. A vector s with V s = 0 is a symmetry: theta_i may be
multiplied by c^s_i. Wanted are those of zeros and ones. A network has others besides (a layer times
c, the next one divided by it), so that the wanted ones are searched for in the space of all.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

SMALL = 1e-3
"""Singular values, relative to the largest, that count as 0: epsilons leave that much."""
NEAR = 0.05
"""How far a number may be from the whole number that it is meant to be."""
MAX_NODES = 200_000
"""of the search: it ends there with what it has found"""


def null_space(derivatives: Tensor) -> np.ndarray:
    """Symmetries, (dim, num_parameters), reduced: each has a 1 where all others have a 0."""
    columns = derivatives.cpu().numpy()
    sizes = np.linalg.norm(columns, axis=0)
    if not sizes.size:
        return np.zeros((0, 0))
    # Every parameter counts the same, however little it does.
    _, values, vectors = np.linalg.svd(columns / sizes)
    return _reduced(vectors[(values > SMALL * values[0]).sum() :] / sizes)


def _reduced(rows: np.ndarray) -> np.ndarray:
    """The reduced row echelon form, pivots as far back as there are any."""
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    done = 0
    for column in reversed(range(rows.shape[1])):
        if done == len(rows):
            break
        best = done + int(np.abs(rows[done:, column]).argmax())
        if abs(rows[best, column]) < NEAR * np.abs(rows[done:]).max():
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows[:done]


def indicators(symmetries: np.ndarray) -> list[list[int]]:
    """Where the symmetries of zeros and ones have their ones; the smallest sets first."""
    found = [np.flatnonzero(vector).tolist() for vector in _search(symmetries)]
    return sorted(found, key=lambda members: (len(members), [-m for m in reversed(members)]))


def _search(symmetries: np.ndarray) -> Iterator[np.ndarray]:
    """Sums of symmetries, each taken or not, that have zeros and ones only."""
    dim, size = symmetries.shape
    if dim == 0:
        return
    involved = np.abs(symmetries) > NEAR
    # The last symmetry that has a say in each number: from there on it is known.
    last = np.where(involved.any(axis=0), dim - 1 - involved[::-1].argmax(axis=0), -1)
    stack = [(0, np.zeros(size))]
    for _ in range(MAX_NODES):
        if not stack:
            return
        depth, vector = stack.pop()
        if depth == dim:
            if vector.any():
                yield vector.round()
            continue
        known = last == depth
        for value in (1, 0):
            new = vector + value * symmetries[depth]
            whole = new[known].round()
            if ((np.abs(new[known] - whole) < NEAR) & (whole >= 0) & (whole <= 1)).all():
                stack.append((depth + 1, new))
