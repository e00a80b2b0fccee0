"""The layout: which element belongs to which group and model, and where it lies in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrain_kernels.step.layout import CHUNK, group_names, make_layout


def places(layout, tensor: int) -> torch.Tensor:
    """(num_rows, row_size): the documented place in memory of every element of every row."""
    num_rows, size, run = layout.num_rows[tensor], layout.row_size[tensor], layout.run[tensor]
    j, r = torch.arange(size), torch.arange(num_rows)[:, None]
    return (j // run) * run * num_rows + r * run + j % run


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(1, 6), min_size=0, max_size=4),
    order=st.randoms(use_true_random=False),
    groups=st.sampled_from(["filter", "tensor"]),
    num_models=st.sampled_from([1, 2, 3]),
)
def test_rows_lie_where_the_layout_says(shape, order, groups, num_models):
    if shape:
        shape[0] *= num_models
    elif num_models > 1:
        shape = [num_models]
    dims = list(range(len(shape)))
    order.shuffle(dims)
    memory = torch.arange(torch.Size(shape).numel()).reshape([shape[d] for d in dims])
    tensor = memory.permute([dims.index(d) for d in range(len(shape))])
    layout = make_layout([tensor], groups, num_models)
    num_rows = layout.num_rows[0]
    assert num_rows == (shape[0] if groups == "filter" and len(shape) > 1 else num_models)
    for row, place in zip(tensor.reshape(num_rows, -1), places(layout, 0), strict=True):
        assert sorted(row.tolist()) == place.tolist()
    per_model = num_rows // num_models
    assert layout.model_of_group.tolist() == [r // per_model for r in range(num_rows)]
    assert len(group_names("w", tensor, groups, num_models)) == num_rows


def test_chunks_cover_every_group_in_order():
    shapes = [(3, 5), (2, 2 * CHUNK + 1), (4,), (0, 3), (2, 0), (2, CHUNK)]
    layout = make_layout([torch.zeros(s) for s in shapes])
    sizes = [5] * 3 + [2 * CHUNK + 1] * 2 + [4] + [0] * 2 + [CHUNK] * 2
    assert layout.num_groups == len(sizes)
    covered = torch.zeros(layout.num_groups, dtype=torch.int64)
    for (_, _, begin, end), group in zip(layout.chunks, layout.group_of_chunk, strict=True):
        assert 0 < end - begin <= CHUNK and covered[group] == begin
        covered[group] = end
    assert covered.tolist() == sizes
    firsts = layout.first_chunk_of_group
    for group in range(layout.num_groups):
        assert (layout.group_of_chunk[firsts[group] : firsts[group + 1]] == group).all()


def test_channels_last_is_one_run_per_row():
    weight = torch.zeros(6, 4, 3, 3).to(memory_format=torch.channels_last)
    layout = make_layout([weight])
    assert layout.run == layout.row_size == (36,)


def test_sums_per_model():
    layout = make_layout([torch.zeros(4, 2), torch.zeros(6)], num_models=2)
    assert layout.model_of_group.tolist() == [0, 0, 1, 1, 0, 1]
    values = torch.tensor([1.0, 2, 4, 8, 16, 32])
    assert layout.per_model(values).tolist() == [19, 44]
    assert layout.per_group(torch.tensor([5.0, 7])).tolist() == [5, 5, 7, 7, 5, 7]


@pytest.mark.parametrize(
    ("tensors", "num_models", "message"),
    [
        ([], 1, "at least one tensor"),
        ([torch.zeros(3).expand(2, 3)], 1, "must not overlap"),
        ([torch.zeros(4).as_strided((3, 2), (1, 1))], 1, "must not overlap"),
        ([torch.zeros(3, 2)], 2, "num_models=2"),
        ([torch.zeros(())], 2, "num_models=2"),
        ([torch.zeros(2), torch.zeros(2, device="meta")], 1, "share a device"),
    ],
)
def test_what_has_no_layout_is_refused(tensors, num_models, message):
    with pytest.raises(ValueError, match=message):
        make_layout(tensors, "filter", num_models)


def test_tensors_without_elements_are_dense_whatever_their_strides():
    empty = torch.empty(0).as_strided((2, 0, 1), (0, 1, 0))
    assert make_layout([empty, torch.ones(3, 2)], "filter", 1).num_groups == 2 + 3
