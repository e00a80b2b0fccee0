"""Groups: the parameters whose norm is tracked together, and where they lie in memory.

With `groups="filter"` a tensor of two or more dimensions is split along its first one (a conv
weight has one group per output filter); with `groups="tensor"`, and for vectors and scalars, the
whole tensor is one group. A group never spans tensors.

With `num_models` = K the model axis of a pack is folded into the first dimension of every tensor:
of R rows, row r belongs to model r // (R / K). A group never spans models either, so that a tensor
that is "one group" is one per model.

Groups come in the order of the tensors, then of the rows. A row's elements are numbered by their
place in memory: element j of row r lies at

    (j // run) * run * num_rows + r * run + j % run

elements from the start of its tensor. Where the first dimension is outermost in memory (contiguous
tensors and channels_last conv weights) run = row_size, and that is r * row_size + j.

Every kernel works on chunks: pieces of at most `CHUNK` consecutive elements of one group. A chunk
has sums of its own, and the sums of a group are those of its chunks added in order, so that a
result depends on the shapes alone, never on how many threads or blocks there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 8192
"""Elements of a chunk: with its gradient it fits the second-level cache of a CPU core."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups, models and chunks of a list of tensors; the tables are on the tensors' device."""

    groups: str
    num_models: int
    shapes: tuple[torch.Size, ...]
    strides: tuple[tuple[int, ...], ...]
    num_rows: tuple[int, ...]
    """groups per tensor, all models together"""
    row_size: tuple[int, ...]
    """elements per group of each tensor"""
    run: tuple[int, ...]
    """elements of a row that are consecutive in memory, for each tensor"""
    chunks: Tensor
    """(num_chunks, 4) int32: tensor, row within it, first element, end element; in group order"""
    group_of_chunk: Tensor
    """(num_chunks,) int32"""
    first_chunk_of_group: Tensor
    """(num_groups + 1,) int32; an empty group has no chunk"""
    model_of_group: Tensor
    """(num_groups,) int32"""
    groups_by_model: Tensor
    """(num_models, num_groups / num_models) int64: the groups of each model, in order"""
    kept: dict[str, Any] = field(default_factory=dict)
    """what backends keep of it, by their names"""

    @property
    def num_groups(self) -> int:
        return sum(self.num_rows)

    @property
    def num_chunks(self) -> int:
        return len(self.chunks)

    def per_model(self, values: Tensor) -> Tensor:
        """Sum values per group, (..., num_groups), over each model: (..., num_models)."""
        if self.num_models == 1:
            return values.sum(-1, keepdim=True)
        return values[..., self.groups_by_model].sum(-1)

    def per_group(self, values: Tensor) -> Tensor:
        """The value of each group's model: (num_models,) -> (num_groups,)."""
        if self.num_models == 1:
            return values.expand(self.num_groups)
        return values[self.model_of_group]


def make_layout(tensors: Sequence[Tensor], groups: str = "filter", num_models: int = 1) -> Layout:
    """The layout of a list of tensors on one device.

    Raises:
        ValueError: no tensor, several devices, a tensor whose elements overlap, or whose first
            dimension does not divide into `num_models`.
    """
    if not tensors:
        raise ValueError("a layout needs at least one tensor")
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise ValueError(f"tensors of one param group must share a device; got {devices}")
    shapes = [_rows(tensor, groups, num_models) for tensor in tensors]
    num_rows, row_size, run = zip(*shapes, strict=True)
    pieces = [-(-size // CHUNK) for size in row_size]
    chunk_tables, counts, models = [], [], []
    for index, (rows, size, count) in enumerate(zip(num_rows, row_size, pieces, strict=True)):
        begin = np.tile(np.arange(count) * CHUNK, rows)
        row = np.repeat(np.arange(rows), count)
        end = np.minimum(begin + CHUNK, size)
        chunk_tables.append(np.stack([np.full_like(row, index), row, begin, end], axis=1))
        counts.append(np.full(rows, count))
        models.append(np.arange(rows) * num_models // max(rows, 1))
    counts, models = np.concatenate(counts), np.concatenate(models)
    device = tensors[0].device

    def table(values: np.ndarray, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, dtype)

    return Layout(
        groups=groups,
        num_models=num_models,
        shapes=tuple(tensor.shape for tensor in tensors),
        strides=tuple(tensor.stride() for tensor in tensors),
        num_rows=num_rows,
        row_size=row_size,
        run=run,
        chunks=table(np.concatenate(chunk_tables)),
        group_of_chunk=table(np.repeat(np.arange(len(counts)), counts)),
        first_chunk_of_group=table(np.concatenate([[0], np.cumsum(counts)])),
        model_of_group=table(models),
        groups_by_model=table(
            np.argsort(models, kind="stable").reshape(num_models, -1), torch.int64
        ),
    )


def group_names(name: str, tensor: Tensor, groups: str, num_models: int = 1) -> list[str]:
    """Names of a tensor's groups: `conv.weight[0]`, ... or the tensor's own name."""
    if groups == "filter" and tensor.ndim > 1:
        return [f"{name}[{row}]" for row in range(tensor.shape[0])]
    return [name] if num_models == 1 else [f"{name}[model {m}]" for m in range(num_models)]


def rows(tensor: Tensor, num_rows: int) -> Tensor:
    """The tensor with one row per group, (num_rows, row_size); a view where memory allows it."""
    return tensor.reshape(num_rows, -1) if tensor.numel() else tensor.new_empty(num_rows, 0)


def lie_alike(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether tensors of one shape and these strides have their elements in the same places."""
    # The stride of a dimension of size 1 means nothing, and none does where there is no element.
    return (
        a == b or 0 in shape or all(n == 1 or x == y for n, x, y in zip(shape, a, b, strict=True))
    )


def _rows(tensor: Tensor, groups: str, num_models: int) -> tuple[int, int, int]:
    """(num_rows, row_size, run) of one tensor."""
    shape = tuple(tensor.shape)
    if not is_dense(shape, tensor.stride(), gaps=True):
        raise ValueError(
            f"the elements of a tensor must not overlap in memory; got shape {shape} with strides "
            f"{tensor.stride()}"
        )
    first = shape[0] if shape else 1
    if first % num_models:
        raise ValueError(
            f"the first dimension must divide into num_models={num_models}; got {shape}"
        )
    num_rows = first if groups == "filter" and tensor.ndim > 1 else num_models
    row_size = tensor.numel() // num_rows if num_rows else 0
    if num_rows <= 1 or row_size == 0:
        return num_rows, row_size, max(row_size, 1)
    # One index of the first dimension is stride(0) consecutive elements; a row is one or several.
    return num_rows, row_size, tensor.stride(0) * (first // num_rows)


def is_dense(shape: Sequence[int], strides: Sequence[int], gaps: bool = False) -> bool:
    """Whether elements lie side by side in memory; with `gaps`, whether none overlap."""
    if 0 in shape:
        return True
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride != expected and not (gaps and stride > expected):
                return False
            expected = stride * size if gaps else expected * size
    return True
