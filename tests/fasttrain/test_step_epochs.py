"""Epochs of steps: the batches of passes one after another; lengths and test passes by steps."""

import itertools

import pandas as pd
import pytest
import torch

import fasttrain as ft
from fasttrain.training.step_epochs import StepEpochs
from fasttrain_data import load, open_loader

DIGITS = load("digits").subset(n_train=150, n_test=50)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_epochs_of_steps_go_through_the_passes(steps):
    passes = open_loader(DIGITS, batch_size=64, seed=3)
    epochs = StepEpochs(passes, steps)
    through = itertools.chain.from_iterable(passes.epoch(number) for number in range(20))
    for epoch in range(4):
        batches = list(epochs.epoch(epoch))
        assert len(batches) == steps == len(epochs)
        for (images, labels), (expected, same) in zip(batches, through, strict=False):
            assert torch.equal(images, expected) and torch.equal(labels, same)


def test_an_epoch_that_is_left_early_or_taken_again_is_the_same():
    epochs = StepEpochs(open_loader(DIGITS, batch_size=64, seed=3), 2)
    whole = [[labels for _, labels in epochs.epoch(number)] for number in range(4)]
    next(iter(epochs.epoch(2)))
    for number in (3, 0, 0, 1, 2):
        for (_, labels), same in zip(epochs.epoch(number), whole[number], strict=True):
            assert torch.equal(labels, same)


def study(**keys):
    return ft.study("digits", n_train=150, n_test=50, width=2, batch_size=50, seeds=1, **keys)


def test_a_run_counted_in_steps_is_the_run_counted_in_passes(tmp_path):
    keys = {"plr": [1e-3, 2e-3], "flr": [1e-3], "k": [2], "finetune_epochs": 2}
    whole = ft.sweep(study(epochs=4, **keys), store=tmp_path / "passes", pack=2)
    steps = ft.sweep(study(epochs=4, steps=3, **keys), store=tmp_path / "steps", pack=2)
    names = ["kind", "plr", "epoch", "train_loss", "test_accuracy"]
    # Three steps are a pass: the same numbers, of other stages.
    pd.testing.assert_frame_equal(whole.stages[names], steps.stages[names])
    assert set(whole.stages["stage"]).isdisjoint(steps.stages["stage"])
    # In other units: the same steps in all.
    keys = {"plr": [1e-3, 2e-3], "flr": [], "k": []}
    single = ft.sweep(study(epochs=12, steps=1, **keys), store=tmp_path / "single", pack=2)
    ends = whole.stages[whole.stages["kind"] == "pretrain"]
    for name in ("test_loss", "test_accuracy"):
        assert single.stages[name].tolist() == ends[name].tolist()
    assert single.epochs.groupby("stage").size().tolist() == [12, 12]
