"""At chance or not, whatever the shares of the classes; what is said of a run that is."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fasttrain as package
from fasttrain.analysis import rules
from fasttrain.analysis.regimes import classify
from fasttrain.analysis.setups import all_setups
from fasttrain.plan.stages import Stage
from fasttrain.settings.knobs import Knobs
from fasttrain.settings.losses import CrossEntropy
from fasttrain.settings.networks.modules import MODELS
from fasttrain.settings.optimizers.kinds import Sphere
from fasttrain.training.chance import chance_of
from fasttrain.training.loop import train_epoch
from fasttrain.training.progress import COLUMNS, WALKED, Progress, Run, is_hopeless
from fasttrain.training.workbench import trained
from fasttrain_data import load, open_loader

GUESS_LOSS = CrossEntropy().guess
BALANCED = np.repeat(np.arange(10), 140)
IMBALANCED = np.repeat([0, 1], [1288, 112])
LN10 = math.log(10)


def one_digit_in_the_minority(path: Path) -> Path:
    """Digits as an .npz file: whether it is a 3, which 8 % of the training images are."""
    data = load("digits")
    threes = np.flatnonzero(data.train_labels == 3)
    kept = np.delete(np.arange(len(data.train_labels)), threes[112:])
    np.savez(
        path,
        train_images=data.train_images[kept],
        train_labels=(data.train_labels[kept] == 3).astype(np.int64),
        test_images=data.test_images,
        test_labels=(data.test_labels == 3).astype(np.int64),
    )
    return path


@pytest.mark.parametrize(
    ("labels", "loss", "balanced_accuracy", "at_chance"),
    [
        pytest.param(BALANCED, 2.31, 0.10, True, id="predicts one class"),
        pytest.param(BALANCED, 6.0, 0.114, True, id="random walk"),
        pytest.param(BALANCED, 5.7, 0.143, True, id="random walk that depends on the image"),
        pytest.param(BALANCED, 2.30, 0.10, False, id="barely begins to learn"),
        pytest.param(BALANCED, 2.53, 0.38, False, id="confident in its mistakes"),
        pytest.param(IMBALANCED, 0.29, 0.50, True, id="predicts the majority"),
        pytest.param(IMBALANCED, 4.1, 0.53, True, id="random walk, imbalanced"),
        pytest.param(IMBALANCED, 0.63, 0.74, False, id="less right than the majority"),
        pytest.param(IMBALANCED, 0.12, 0.70, False, id="more right than the majority"),
        pytest.param(np.arange(10), 2.4, 0.3, True, id="an image of each class"),
        pytest.param(np.arange(10), 2.4, 1.0, False, id="an image of each class, all right"),
        pytest.param(np.zeros(9, int), 0.01, 1.0, False, id="one class"),
    ],
)
def test_chance_is_a_loss_and_a_balanced_accuracy_of_a_guess(
    labels, loss, balanced_accuracy, at_chance
):
    assert chance_of(labels, GUESS_LOSS).holds(loss, balanced_accuracy) == at_chance


def test_the_loss_of_a_guess_is_the_entropy_of_the_shares():
    assert chance_of(BALANCED, GUESS_LOSS).loss == pytest.approx(LN10)
    shares = torch.tensor([0.92, 0.08], dtype=torch.float64)
    logits = shares.log().expand(1400, 2)
    best = torch.nn.functional.cross_entropy(logits, torch.from_numpy(IMBALANCED))
    assert chance_of(IMBALANCED, GUESS_LOSS).loss == pytest.approx(float(best))
    # A class without an image is none.
    assert chance_of(BALANCED + 5, GUESS_LOSS) == chance_of(BALANCED, GUESS_LOSS)


def test_balanced_accuracy_is_the_mean_over_classes_of_an_epochs_predictions():
    data = dataclasses.replace(load("digits").subset(n_train=90), class_names=tuple("0123456789ab"))
    data = dataclasses.replace(data, train_labels=np.where(data.train_labels > 6, 0, 2))
    torch.manual_seed(0)
    net = MODELS["convnet"](12, in_channels=1, width=2, num_models=2)
    optimizer = Sphere().build(trained(net), [Knobs(lr=0.0), Knobs(lr=1e-3)], radius=5.0)
    batches = list(open_loader(data, batch_size=32).epoch(0))
    seen = []
    handle = net.register_forward_hook(lambda _, __, logits: seen.append(logits.argmax(2)))
    totals = train_epoch(net, CrossEntropy(), optimizer, batches, "fp32", torch.device("cpu"))
    handle.remove()
    predicted, labels = torch.cat(seen, dim=1), torch.cat([labels for _, labels in batches])
    for model in range(2):
        right = (predicted[model] == labels).double()
        means = [float(right[labels == label].mean()) for label in (0, 2)]
        assert float(totals.train_accuracy[model]) == float(right.mean())
        assert float(totals.train_balanced_accuracy[model]) == sum(means) / 2


def run_of(lr: float, grad_norm: float, loss: float, epochs: int) -> Run:
    values = {"train_loss": loss, "train_balanced_accuracy": 0.1, "grad_norm": grad_norm}
    row = torch.tensor([values.get(name, math.nan) for name in COLUMNS], dtype=torch.float64)
    stage = Stage(knobs=Knobs(lr=lr), seed=0, num_epochs=30, setup=())
    return Run(stage, Progress({}, series=[row] * epochs))


def test_a_run_is_hopeless_if_it_walks_and_not_if_it_creeps():
    chance = chance_of(BALANCED, GUESS_LOSS)
    assert is_hopeless(run_of(1.0, 2e4, 6.0, 10), chance, 23)
    assert not is_hopeless(run_of(1.0, 2e4, 6.0, 9), chance, 23)
    assert not is_hopeless(run_of(1.0, 2e4, 2.2, 10), chance, 23)
    # A rate so small that the loss of the initialisation, above a guess's, has hardly fallen.
    assert not is_hopeless(run_of(1e-7, 170.0, 6.1, 10), chance, 23)
    assert WALKED == rules.WALKED


def test_with_92_per_cent_of_one_class_only_what_guesses_is_at_chance(fasttrain, tmp_path):
    """One epoch at a middling rate: less right in training than the majority, 97 % in testing."""
    data = one_digit_in_the_minority(tmp_path / "threes.npz")
    grid = ("sweep", "digits", "--dataset", data, "--flr", "1e-3", "--finetune-epochs", "1")
    grid += ("--k", "none", "--precision", "fp32", "--processes", "1", "--pack", "3", "--store")
    assert fasttrain(*grid, "short", "--plr", "1e-2,1", "--epochs", "1").code == 0
    table = package.load(tmp_path / "short")
    short = table[table["kind"] == "pretrain"].set_index("plr")
    assert short["state"].to_dict() == {1e-2: "done", 1.0: "at-chance"}
    assert short["train_accuracy"].max() < 0.92 and short.loc[1e-2, "test_accuracy"] > 0.95
    assert (table[table["kind"] == "finetune"]["state"] == "done").any()
    outcome = fasttrain(*grid, "long", "--plr", "1e-3,1", "--epochs", "12", "--stop-at-chance")
    assert outcome.code == 0 and "at chance" in outcome.out
    table = package.load(tmp_path / "long")
    long = table[table["kind"] == "pretrain"].set_index("plr")
    assert long["state"].to_dict() == {1e-3: "done", 1.0: "at-chance"}
    assert long["stopped"].to_dict() == {1e-3: False, 1.0: True}
    [judged] = all_setups(tmp_path / "long")
    assert judged.configuration["guess_loss"] == pytest.approx(0.279, abs=1e-3)
    assert judged.configuration["test_majority"] == 0.9
    regimes = classify(judged).set_index("plr")["regime"]
    assert regimes[1.0] == "3" and regimes[1e-3] == "1"


def test_a_finite_accuracy_stands_in_the_table_and_on_the_page(fasttrain, tiny, tmp_path):
    outcome = fasttrain("sweep", tiny, "--plr", "1e-2,1e-1", "--k", "none")
    table = package.load(tmp_path / "runs" / "tiny").set_index(["kind", "plr"])
    row = table.loc[("pretrain", 0.1)]
    assert row["state"] == "at-chance" and row["test_accuracy"] > 0
    shown = f"{100 * row['test_accuracy']:.2f}"
    [line] = [line for line in outcome.out.splitlines() if line.split()[:1] == ["0.1"]]
    assert shown in line and line.rstrip().endswith("at chance")
    page = (tmp_path / "runs" / "tiny" / "report" / "report.html").read_text()
    heatmap = page.split('<table class="heatmap"')[1].split("</table>")[0]
    assert f">{shown}†<" in heatmap and "✕" not in heatmap
    assert "<td>at-chance" in page and "diverged" not in page
