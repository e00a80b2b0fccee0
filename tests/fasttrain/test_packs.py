"""Packs: every model of one trains as it would alone, whatever the others do; how packs form."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fasttrain as package
from fasttrain.execution.packing import make_packs
from fasttrain.plan.stages import Stage, averages
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS, ImageClassifier, fold, unfold
from fasttrain.settings.optimizers.kinds import Sphere
from fasttrain.training.loop import EpochTotals, train_epoch
from fasttrain.training.workbench import trained
from fasttrain_data import load, open_loader

# Below the edge of stability: above it, training is chaotic and multiplies rounding without bound.
SIZES = {"mlp": {"image_size": (8, 8)}}
ELRS = (1e-4, 2e-4, 3e-4, 5e-4)
DIGITS = load("digits").subset(n_train=320)


def start(model: str, states: Sequence[dict[str, Tensor]], dtype: torch.dtype) -> ImageClassifier:
    net = MODELS[model](10, in_channels=1, width=4, num_models=len(states), **SIZES.get(model, {}))
    net.load_state_dict(fold(states))
    return net.to(dtype).to(memory_format=torch.channels_last)


def initial(model: str, count: int) -> list[dict[str, Tensor]]:
    """Different networks, so that a mix-up of models shows."""
    nets = []
    for seed in range(count):
        torch.manual_seed(seed)
        nets.append(MODELS[model](10, in_channels=1, width=4, **SIZES.get(model, {})).state_dict())
    return nets


def train(net: ImageClassifier, elrs: Sequence[float], dtype: torch.dtype) -> EpochTotals:
    optimizer = Sphere().build(trained(net), [Knobs(lr=elr) for elr in elrs], radius=5.0)
    optimizer.start_()
    batches = open_loader(DIGITS, batch_size=48, dtype=dtype).epoch(0)
    return train_epoch(net, CrossEntropy(), optimizer, batches, "fp32", torch.device("cpu"))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_a_pack_equals_its_own_single_run(model):
    states = initial(model, len(ELRS))
    pack = start(model, states, torch.float64)
    totals = train(pack, ELRS, torch.float64)
    packed = unfold(pack.state_dict(), len(ELRS))
    for index, (elr, state) in enumerate(zip(ELRS, states, strict=True)):
        alone = start(model, [state], torch.float64)
        own = train(alone, [elr], torch.float64)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(packed[index][name], value, rtol=1e-9, atol=1e-9)
        for together, single in zip(totals, own, strict=True):
            torch.testing.assert_close(together[index], single[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_a_neighbour_without_a_number_changes_nothing(model, dtype):
    states = initial(model, 3)
    healthy, beside = start(model, states, dtype), start(model, states, dtype)
    with torch.no_grad():
        for weight in beside.sphere_parameters():
            weight.chunk(3)[1].fill_(float("nan"))
    train(healthy, ELRS[:3], dtype)
    totals = train(beside, ELRS[:3], dtype)
    assert totals.train_loss.isfinite().tolist() == [True, False, True]
    expected, found = (unfold(net.state_dict(), 3) for net in (healthy, beside))
    for index in (0, 2):
        for name, value in expected[index].items():
            assert torch.equal(found[index][name], value)


def test_logits_of_a_pack_are_those_of_its_models():
    states = initial("convnet", 3)
    images = torch.randn(5, 1, 8, 8)
    pack = start("convnet", states, torch.float32)
    assert pack(images).shape == (3, 5, 10)
    for logits, state in zip(pack(images), states, strict=True):
        torch.testing.assert_close(logits, start("convnet", [state], torch.float32)(images))


def test_fold_and_unfold_are_inverses():
    states = initial("resnet18", 3)
    for before, after in zip(states, unfold(fold(states), 3), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def plan(num_plrs: int, num_flrs: int, counts: tuple[int, ...], seeds: int) -> list[Stage]:
    stages = []
    for seed in range(seeds):
        for plr in range(1, num_plrs + 1):
            parent = Stage(knobs=Knobs(lr=plr), seed=seed, num_epochs=5, setup=())
            stages += [parent, *averages(parent, counts)]
            for flr in range(1, num_flrs + 1):
                tuned = {"seed": seed, "num_epochs": 3, "setup": (), "parent": parent}
                stages.append(Stage(knobs=Knobs(lr=flr), **tuned))
    return stages


@given(
    num_plrs=st.integers(1, 9),
    num_flrs=st.integers(0, 5),
    counts=st.sets(st.integers(2, 6), max_size=3),
    seeds=st.integers(1, 3),
    size=st.integers(1, 12),
    root_size=st.integers(1, 12),
)
def test_packs_hold_every_stage_once_after_its_parent(
    num_plrs, num_flrs, counts, seeds, size, root_size
):
    stages = plan(num_plrs, num_flrs, tuple(counts), seeds)
    packs = make_packs(stages, size, root_size)
    listed = [stage.id for pack in packs for stage in pack]
    assert sorted(listed) == sorted(stage.id for stage in stages)
    done: set[str] = set()
    for pack in packs:
        assert len(pack) <= size
        assert len({(s.kind, s.seed, s.start_epoch, s.num_epochs) for s in pack}) == 1
        for stage in pack:
            assert stage.parent is None or stage.parent.id in done
        done |= {stage.id for stage in pack}
        if pack[0].parent is None:
            assert len(pack) <= root_size


def test_packs_of_a_wave_are_as_few_and_as_even_as_possible():
    assert [len(pack) for pack in make_packs(plan(11, 0, (), 1), 4)] == [4, 4, 3]


def test_legs_of_other_knobs_are_one_pack():
    shared = {"seed": 0, "num_epochs": 2, "setup": ()}
    knobs = [
        Knobs(lr=lr, weight_decay=decay, noise=noise)
        for lr in (1e-3, 1e-2)
        for decay in (None, 0.0, 0.1)
        for noise in (0.0, 0.1)
    ]
    stages = [Stage(knobs=own, **shared) for own in knobs]
    assert make_packs(stages, 12) == [stages]


def test_results_of_packs_and_of_single_runs_are_interchangeable(fasttrain, tiny, tmp_path):
    """Some stages by themselves, the others packed into the same store: like all by themselves.

    One model of the pack is lost to a non-finite loss; the other goes on.
    """
    grid = ("sweep", tiny, "--plr", "1e-4,1e180", "--flr", "1e-4,2e-4", "--k", "3")
    assert fasttrain(*grid, "--pack", "1", "--store", "single").code == 0
    assert fasttrain(*grid, "--pack", "4", "--store", "packed").code == 0
    first = ("sweep", tiny, "--plr", "1e-4", "--flr", "1e-4", "--k", "none", "--pack", "1")
    assert fasttrain(*first, "--store", "mixed").code == 0
    assert fasttrain(*grid, "--pack", "4", "--store", "mixed").code == 0
    single, packed, mixed = (
        package.load(tmp_path / name) for name in ("single", "packed", "mixed")
    )
    keys = ["stage", "state", "epoch"]
    assert single[keys].equals(packed[keys]) and single[keys].equals(mixed[keys])
    assert single["state"].tolist().count("non-finite") == 4
    for table in (packed, mixed):
        # Rounding, amplified by at most five epochs of three steps.
        difference = (table["train_loss"] - single["train_loss"]).abs().max()
        assert difference < 1e-3
