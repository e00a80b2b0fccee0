"""Transfer: what a linear classifier of other images makes of features; what cannot be a target."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_grids import published_grid

import fasttrain as package
from fasttrain.analysis import transfer
from fasttrain.analysis.regimes import classify as classify_regimes
from fasttrain.analysis.setups import all_setups
from fasttrain.analysis.target import Target
from fasttrain.analysis.transfer import classify, transferred
from fasttrain.cli.main import run
from fasttrain.plan.config import RunOptions, load_config
from fasttrain.report.figures import drawn
from fasttrain.report.figures.transfer import TRANSFER
from fasttrain.settings.knobs import Knobs
from fasttrain.training.pack import Pack
from fasttrain.training.workbench import open_workbench
from fasttrain_data import load

CHAIN = """
[data]
dataset = "digits"
n_train = 150
n_test = 50
[network]
{network}
[optimizer]
kind = "sgd"
[training]
batch_size = 50
[grid]
seeds = 2
[experiment]
kind = "chain"
legs = [{{ lr = 1e-1, epochs = 2 }}, {{ lr = [1e-2, 1e-3], epochs = 1 }}]
"""
PRACTICAL = 'width = 2\nform = "practical"'


@pytest.fixture
def workbench(tiny, tmp_path):
    config = load_config(str(tiny))
    return open_workbench(config, RunOptions(), tmp_path / "store", torch.device("cpu"), "fp32", {})


def swept(folder, network=PRACTICAL):
    """A store of chains."""
    (folder / "chain.toml").write_text(CHAIN.format(network=network))
    store = folder / "s"
    arguments = ["--store", str(store), "--processes", "1", "--pack", "4", "--quiet"]
    assert run(["sweep", str(folder / "chain.toml"), *arguments]) == 0
    return store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("swept"))


@pytest.fixture
def store(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "store")


def clouds(count=300, classes=3, size=5):
    """Features of classes that overlap, and their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    return random.normal(size=(count, size)) + random.normal(size=(classes, size))[labels], labels


def test_the_classifier_is_at_the_minimum_of_its_loss(monkeypatch):
    """Softmax probabilities of the fit, weighed against labels, are what the penalty balances."""
    from sklearn import linear_model

    fits = []

    class Kept(linear_model.LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            fits.append((self, X))
            return super().fit(X, y, sample_weight)

    monkeypatch.setattr(linear_model, "LogisticRegression", Kept)
    features, labels = clouds()
    classify(features, labels, features, labels)
    [(fitted, used)] = fits
    np.testing.assert_allclose(used.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(used.std(axis=0), 1)
    scores = used @ fitted.coef_.T + fitted.intercept_
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradient = (shares - np.eye(3)[labels]).T @ used + fitted.coef_
    assert np.abs(gradient).max() / len(labels) < 2 * transfer.TOLERANCE


def test_scale_and_place_of_features_do_not_matter_and_what_is_constant_is_nothing():
    features, labels = clouds()
    found = classify(features[:200], labels[:200], features[200:], labels[200:])
    assert 0.4 < found[1] <= found[0] + 0.1
    moved = np.concatenate([1e3 * features - 7, np.full((300, 2), 3.0)], axis=1)
    assert classify(moved[:200], labels[:200], moved[200:], labels[200:]) == found
    nothing = np.full((300, 4), 0.5)
    share = np.bincount(labels).max() / 300
    assert classify(nothing, labels, nothing, labels) == pytest.approx((share, share))


def test_a_fit_that_does_not_converge_is_a_failure(monkeypatch):
    monkeypatch.setattr(transfer, "MOST_ITERATIONS", 2)
    features, labels = clouds()
    with pytest.raises(RuntimeError, match="has not converged in 2 iterations"):
        classify(features, labels, features, labels)


def test_features_are_those_of_images_as_the_network_was_given_its_own(workbench):
    pack = Pack(workbench, 0, [Knobs(lr=lr) for lr in (1e-2, 1e-1)], None)
    pack.train(0, tested=False)
    pack.train(1, tested=False)
    target = load("digits").subset(100, 60)
    target = dataclasses.replace(target, mean=(0.9,), std=(0.1,))
    table = transferred(workbench, pack.states(), target)
    assert table["num_features"].tolist() == [16, 16]
    for place, state in enumerate(pack.states()):
        model = workbench.new_model(0)
        model.load_state_dict(state)
        model.eval()
        found = []
        for images in (target.train_images, target.test_images):
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            mean, std = workbench.data.mean[0], workbench.data.std[0]
            with torch.no_grad():
                found.append(model.features((pixels - mean) / std).double().numpy())
        expected = classify(found[0], target.train_labels, found[1], target.test_labels)
        row = table.iloc[place]
        # A feature in another rounding: one of the images may tip over.
        assert row["train_accuracy"] == pytest.approx(expected[0], abs=0.011)
        assert row["accuracy"] == pytest.approx(expected[1], abs=0.018)
        alone = transferred(workbench, [state], target)
        assert alone["accuracy"][0] == pytest.approx(row["accuracy"], abs=0.018)
    assert table["accuracy"].min() > 0.3


def test_every_leg_is_measured_once_for_a_target_and_gains_are_over_the_leg_before(store, capsys):
    asked = ["analyse", str(store), "--only", "transfer", "--target", "digits"]
    assert run([*asked, "--target-train", "100"]) == 0
    table = package.load_analyses(store)["transfer"]
    stages = package.load(store)
    assert set(table["stage"]) == set(stages["stage"]) and len(table) == 6
    assert set(table["target"]) == {"digits"}
    capsys.readouterr()
    assert run([*asked, "--target-train", "100"]) == 0
    assert "0 analyses to make, 6 done before" in capsys.readouterr().out
    [results] = all_setups(store)
    figure = TRANSFER.table(results, pd.DataFrame())
    rows = figure[figure["step"] == "0.1 → 0.01"].iloc[0]
    by_path = stages.merge(table, on="stage").groupby("path")[["test_accuracy", "accuracy"]].mean()
    own, other = (by_path.loc["0.1>0.01"] - by_path.loc["0.1"]).to_numpy(float)
    assert rows["source_gain"] == pytest.approx(own)
    assert rows["target_gain"] == pytest.approx(other)
    assert rows["ratio"] == pytest.approx(other / own) if own > 0 else np.isnan(rows["ratio"])
    package.Results(store).figure("transfer").draw_without_rendering()
    # Other images, another analysis.
    assert run([*asked, "--target-train", "120"]) == 0
    assert "6 analyses to make, 0 done before" in capsys.readouterr().out


def test_workers_find_the_target_and_give_the_same_numbers(finished, tmp_path):
    tables = []
    for processes in (1, 2):
        copy = shutil.copytree(finished, tmp_path / f"s{processes}")
        sizes = {"target_train": 100, "target_test": 60}
        given = {"only": ["transfer"], "target": "digits", "processes": processes, **sizes}
        tables.append(package.analyse(copy, **given).measurements["transfer"])
    keys = {"by": "stage", "ignore_index": True}
    first, second = (table.sort_values(**keys) for table in tables)
    pd.testing.assert_frame_equal(first, second)


def write(path, images, labels, **others):
    half = len(labels) // 2
    train = {"train_images": images[:half], "train_labels": labels[:half]}
    test = {"test_images": images[half:], "test_labels": labels[half:]}
    np.savez(path, **train, **test, **others)
    return str(path)


def targets(folder):
    """Targets that nothing can be transferred to, and what is said of each."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 4
    return [
        (write(folder / "wide.npz", random.integers(0, 256, (40, 9, 8, 1), np.uint8), labels),
         ["9 x 8 x 1 (H, W, C)", "8 x 8 x 1", "must be the same"]),
        (write(folder / "rgb.npz", np.repeat(small, 3, axis=3), labels),
         ["8 x 8 x 3 (H, W, C)", "8 x 8 x 1"]),
        (write(folder / "one.npz", small, np.zeros(40, int)), ["two classes at least"]),
    ]  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_target_that_does_not_fit_is_one_line_before_anything_is_written(
    store, tmp_path, capsys, place
):
    path, words = targets(tmp_path)[place]
    before = {p: p.stat().st_mtime_ns for p in store.glob("analyses/*")}
    capsys.readouterr()
    assert run(["analyse", str(store), "--target", path]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and path in err
    assert all(word in err for word in words)
    assert {p: p.stat().st_mtime_ns for p in store.glob("analyses/*")} == before


def test_a_network_without_features_of_its_own_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plain_net.py").write_text(
        "from torch import nn\n\n\nclass Plain(nn.Sequential):\n"
        "    def __init__(self, shape, num_outputs):\n"
        "        size = shape[0] * shape[1] * shape[2]\n"
        "        layers = nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, num_outputs)\n"
        "        super().__init__(*layers)\n\n\n"
        "class Featured(Plain):\n"
        "    def features(self, images):\n"
        "        return nn.Sequential(*list(self)[:3])(images)\n"
    )
    for name, code in (("Plain", 2), ("Featured", 0)):
        folder = tmp_path / name
        folder.mkdir()
        store = swept(folder, f'kind = "custom"\nfactory = "plain_net:{name}"')
        capsys.readouterr()
        asked = ["--only", "transfer", "--target", "digits", "--target-train", "50"]
        assert run(["analyse", str(store), *asked, "--target-test", "50"]) == code
        err = capsys.readouterr().err
        assert ("Plain has none" in err and err.count("\n") == 1) == (code == 2)
    assert set(package.load_analyses(store)["transfer"]["num_features"]) == {8}


def test_targets_are_told_apart_by_content_and_travel_without_their_images():
    import pickle

    target = Target("digits", None, 50, 20)
    assert target.settings()["digest"] != Target("digits", None, 60, 20).settings()["digest"]
    assert len(pickle.dumps(target)) < 1000


def test_the_figure_of_a_grid_has_every_series_and_what_it_gains_over_pre_training():
    results = published_grid(seeds=(0, 1), num_epochs=12)
    stages = results.stages
    table = pd.DataFrame(
        {"stage": stages["stage"], "target": "others", "num_features": 8}
        | {"train_accuracy": 1.0, "accuracy": 0.5 * stages["test_accuracy"]}
    )
    starts = stages[stages["kind"] == "pretrain"].set_index(["plr", "seed"])["stage"]
    parents = [
        None if row["kind"] == "pretrain" else starts[row["plr"], row["seed"]]
        for row in stages.to_dict("records")
    ]
    results = dataclasses.replace(
        results, stages=stages.assign(parent=pd.Series(parents, dtype=object)), transfer=table
    )
    regimes = classify_regimes(results)
    [item] = [i for i in drawn(results, regimes) if i.drawing is TRANSFER]
    assert item.table is not None
    tuned = item.table[item.table["series"] != "pre-trained"]
    assert len(tuned) and item.table["series"].nunique() == 4
    gained = tuned[tuned["source_gain"] > 0]
    np.testing.assert_allclose(gained["ratio"], 0.5)
    assert item.table.loc[item.table["series"] == "pre-trained", "ratio"].isna().all()
    item.figure.draw_without_rendering()
    [line] = [x for x in item.figure.axes[0].lines if x.get_label() == "pre-trained"]
    shown = item.table[item.table["series"] == "pre-trained"].sort_values("x")
    assert np.asarray(line.get_ydata(), float).tolist() == (100 * shown["mean"]).tolist()
