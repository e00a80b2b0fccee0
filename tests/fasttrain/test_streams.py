"""Models side by side: each with the bits of a pack of one, whoever trains beside it.

The stand-in keeps what each graph would write, and what a stream does not order may come in any
order: so the steps of the models are replayed in several.
"""

import itertools
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fasttrain.settings.knobs import Knobs
from fasttrain.training import captured as captured_module
from fasttrain.training import streams as module
from fasttrain.training.pack import Pack
from fasttrain.training.streams import SideBySide

from .test_captured import StandIn, with_captures
from .test_kept_graphs import addresses, of, workbench_of

KNOBS = [Knobs(lr=lr, weight_decay=lr) for lr in (1e-3, 3e-3, 1e-2)]
ORDERS = {
    "a step of each": None,
    "one after another": lambda walks: [index for index, steps in enumerate(walks) for _ in steps],
    "backwards": lambda walks: [i for i, steps in reversed([*enumerate(walks)]) for _ in steps],
    "at random": lambda walks: random.Random(0).sample(
        every := [index for index, steps in enumerate(walks) for _ in steps], len(every)
    ),
}


def in_order(monkeypatch, order) -> None:
    """Steps of the models in this order within an epoch, as streams may run them."""
    if order is None:
        return

    def side_by_side(models, epoch):
        walks = [model.steps(epoch) for model in models]
        for index in order([range(model.num_steps) for model in models]):
            next(walks[index])
        return [model.totals() for model in models]

    monkeypatch.setattr(module, "side_by_side", side_by_side)


def alone(workbench, knobs, count=4, seed=0, **start) -> list[list]:
    """What each model is as a pack of one."""
    found = []
    for own in knobs:
        pack = Pack(workbench, seed, [own], None, **start)
        found.append([pack.train(epoch, tested=True) for epoch in range(count)])
    return found


def assert_each(found, expected) -> None:
    """That epochs of models together are, in their order, those of each alone."""
    for number, epoch in enumerate(found):
        for index, own in enumerate(expected):
            single = own[number]
            for name in ("scores", "probes", "norms", "moved"):
                mine, other = getattr(epoch, name)[index : index + 1], getattr(single, name)
                assert torch.equal(mine.nan_to_num(7), other.nan_to_num(7)), name
            for name in ("states", "averages", "optimizers"):
                mine, other = getattr(epoch, name)[index], getattr(single, name)[0]
                assert mine.keys() == other.keys()
                assert all(torch.equal(mine[key], other[key]) for key in mine), name


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["sphere", "momentum", "adam"])
def test_every_model_has_the_bits_of_a_pack_of_one(monkeypatch, tmp_path, name, order):
    knobs = of(name, KNOBS)
    expected = alone(workbench_of(tmp_path, name), knobs)
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    in_order(monkeypatch, ORDERS[order])
    together = SideBySide(workbench_of(tmp_path, name), 0, knobs, None)
    assert together.is_ahead
    assert_each([together.train(epoch, tested=True) for epoch in range(4)], expected)
    # Two sizes of a batch of each model.
    assert stand_in.captures == 2 * len(knobs)


def test_no_two_models_share_an_address_that_a_step_writes(monkeypatch, tmp_path):
    with_captures(monkeypatch, StandIn())
    together = SideBySide(workbench_of(tmp_path, "momentum"), 0, KNOBS, None)
    together.train(0, tested=False)
    every = [set(addresses(pack)) for pack in together.packs]
    assert all(len(own) > 20 for own in every)
    for one, other in itertools.combinations(every, 2):
        assert not one & other
    # The images are read alone: there is one set of them.
    assert len({pack.loader._images.data_ptr() for pack in together.packs}) == 1


class Written(TorchDispatchMode):
    """Where operations of torch write in place, of all that is there before and after them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()
        self.new: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        places = {t.untyped_storage().data_ptr() for t in _written(func, args, kwargs or {})}
        self.places |= places - self.new
        made = {t.untyped_storage().data_ptr() for t in tree_leaves(found) if torch.is_tensor(t)}
        given = [t for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
        self.new |= made - {t.untyped_storage().data_ptr() for t in given}
        return found


def _written(func, args, kwargs) -> list[torch.Tensor]:
    places = [a for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    values = tree_leaves([named.get(a.name) for a in places])
    return [value for value in values if torch.is_tensor(value)]


def test_no_operation_of_two_models_writes_to_one_place(monkeypatch, tmp_path):
    """Of those of torch, whatever lists of tensors there are."""
    with_captures(monkeypatch, StandIn())
    together = SideBySide(workbench_of(tmp_path, "adam"), 0, of("adam", KNOBS), None)
    together.train(0, tested=False)
    written = []
    for pack in together.packs:
        pack.captured.cursor.begin_(1)
        with Written() as mode:
            pack.captured._take(16)
        written.append(mode.places)
    assert all(len(places) > 20 for places in written)
    for one, other in itertools.combinations(written, 2):
        assert not one & other


def test_what_ends_leaves_the_others_as_they_are(monkeypatch, tmp_path):
    knobs = of("sphere", KNOBS)
    expected = alone(workbench_of(tmp_path), knobs)
    stand_in = StandIn()
    with_captures(monkeypatch, stand_in)
    workbench = workbench_of(tmp_path)
    first = SideBySide(workbench, 0, knobs, None)
    before = [first.train(epoch, tested=True) for epoch in range(2)][-1]
    held = {id(pack.captured) for pack in first.packs}
    first.close()
    captures = stand_in.captures
    # The one in the middle is over.
    left = [0, 2]
    rest = SideBySide(workbench, 0, [knobs[i] for i in left], [before.states[i] for i in left])
    after = [rest.train(epoch, tested=True) for epoch in (2, 3)]
    assert_each(after, [expected[i][2:] for i in left])
    assert {id(pack.captured) for pack in rest.packs} < held
    assert sum(map(len, workbench.graphs.kept.values())) == 1
    # None of a size of a batch that had its graph before.
    assert stand_in.captures - captures <= len(left)


def test_averages_and_passes_are_those_of_each(tmp_path):
    """Here without graphs: one model after another."""
    workbench, knobs = workbench_of(tmp_path), of("sphere", KNOBS)
    start = workbench.initial_state(0)
    names = [*workbench.sphere_names, *workbench.free_names]
    average = {name: start[name].clone() for name in names}
    weights = [start[name] for name in workbench.sphere_names]
    singles = [Pack(workbench, 0, [own], [start], [average], 1, starts=[weights]) for own in knobs]
    together = SideBySide(workbench, 0, knobs, [start] * 3, [average] * 3, 1, starts=[weights] * 3)
    assert not together.is_ahead
    expected = [[pack.train(0, tested=True, passed=True)] for pack in singles]
    found = together.train(0, tested=True, passed=True)
    assert_each([found], expected)
    assert torch.equal(found.passes, torch.cat([own[0].passes for own in expected]))
    for mine, other in zip(together.states(), singles, strict=True):
        assert all(torch.equal(mine[name], other.states()[0][name]) for name in mine)
    scores = [pack.score_average(1) for pack in singles]
    for mine, others in zip(together.score_average(1), zip(*scores, strict=True), strict=True):
        assert torch.equal(mine.nan_to_num(7), torch.cat(others).nan_to_num(7))
    for mine, other in zip(together.statistics(), singles, strict=True):
        assert all(torch.equal(mine[name], other.statistics()[0][name]) for name in mine)


def test_a_model_that_cannot_be_captured_leaves_the_others_theirs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(captured_module, "_said", set())
    knobs = of("sphere", KNOBS)
    expected = alone(workbench_of(tmp_path), knobs)
    calls = itertools.count()

    def sometimes(step, stream):
        if next(calls) == 1:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return step

    with_captures(monkeypatch, sometimes)
    together = SideBySide(workbench_of(tmp_path), 0, knobs, None)
    assert_each([together.train(epoch, tested=True) for epoch in range(4)], expected)
    assert [pack.captured.failed for pack in together.packs] == [False, True, False]
    assert not together.is_ahead
    assert len(capsys.readouterr().err.splitlines()) == 1
