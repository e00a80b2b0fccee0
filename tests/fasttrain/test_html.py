"""The page: whole, offline, escaped, of bounded size, and honest about what is missing."""

import re

import numpy as np
import pandas as pd
import pytest

from fasttrain.report import write_report

NAN = float("nan")
CONFIG = {
    "data": {"dataset": "digits", "batch_size": 128},
    "network": {"model": "convnet", "width": 8},
    "training": {"epochs": 4, "radius": None},
    "num_classes": 10,
}
PROVENANCE = {
    "fasttrain": "0.1.0",
    "torch": "2.15.0",
    "commit": None,
    "date": "2026-01-05",
    "time_s": 5025.0,
    "command": "fasttrain sweep digits --plr '1e-4:1:3'",
}


def _tables(
    plrs=(1e-3, 1e-2, 0.5), flrs=(1e-3,), ks=(2,), seeds=(0, 1), num_epochs=3, **names
) -> tuple[pd.DataFrame, pd.DataFrame]:
    noise = np.random.default_rng(0)
    base = {"setup": "s1", "dataset": "digits", "model": "convnet", "width": 8} | names
    stages, epochs = [], []
    for seed in seeds:
        for plr in plrs:
            cells = [("pretrain", NAN, NAN), *(("finetune", flr, NAN) for flr in flrs)]
            for kind, flr, k in [*cells, *(("swa", NAN, k) for k in ks)]:
                cell = {"kind": kind, "seed": seed, "plr": plr, "flr": flr, "k": k}
                cell |= {"stage": f"{base['setup'].encode().hex():>08.8}{len(stages):08d}"}
                values = {"train_loss": noise.uniform(), "train_accuracy": noise.uniform()}
                values |= {"test_loss": noise.uniform(), "test_accuracy": noise.uniform()}
                values |= {"grad_norm": noise.uniform(), "epoch": num_epochs}
                stages.append(base | cell | values | {"state": "done", "time_s": 1.5})
                for epoch in range(1, num_epochs + 1):
                    row = {name: value * noise.uniform(0.9, 1) for name, value in values.items()}
                    row |= cell | {"setup": base["setup"], "epoch": epoch}
                    if kind == "pretrain":
                        epochs.append(row)
    return pd.DataFrame(stages), pd.DataFrame(epochs)


def _sections(page: str) -> list[str]:
    return page.split("<section>")[1:]


def test_page_is_self_contained_and_complete(tmp_path):
    stages, epochs = _tables()
    path = write_report(tmp_path / "new", stages, epochs, {"s1": CONFIG}, PROVENANCE)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "new" / "report.html"
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'>]{0,20})", page)
    assert len(sources) == 3 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    names = sorted(file.name for file in (path.parent / "figures").iterdir())
    kinds = ("accuracy", "curves", "heatmap")
    assert names == [f"s1-{kind}.{end}" for kind in kinds for end in ("png", "svg")]
    # Nothing temporary stays behind.
    assert sorted(file.name for file in path.parent.iterdir()) == ["figures", "report.html"]
    for text in ("data.batch_size", "training.radius", "1 h 23 min", "unknown", "All 18 stages"):
        assert text in page
    assert "fasttrain sweep digits --plr &#39;1e-4:1:3&#39;" in page
    assert all(stage in page for stage in stages["stage"])


def test_names_are_escaped_and_safe_in_paths(tmp_path):
    stages, epochs = _tables(dataset="<script>alert(1)</script>", setup="../$a$<b>")
    page = write_report(tmp_path, stages, epochs.iloc[:0], {}, PROVENANCE).read_text(
        encoding="utf-8"
    )
    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_writing_twice_gives_the_same_bytes(tmp_path):
    stages, epochs = _tables(flrs=(), seeds=(0,))
    arguments = (stages, epochs.iloc[:0], {"s1": CONFIG}, PROVENANCE)
    first, second = (write_report(tmp_path / name, *arguments) for name in ("a", "a/b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("setups", [{}, {"s1": CONFIG}], ids=["unknown", "known"])
def test_nothing_finished(tmp_path, setups):
    page = write_report(tmp_path, pd.DataFrame(), pd.DataFrame(), setups, PROVENANCE).read_text(
        encoding="utf-8"
    )
    assert "No stage has finished yet" in page and "<img" not in page
    assert len(_sections(page)) == len(setups)


def test_only_pretraining_of_one_seed(tmp_path):
    stages, epochs = _tables(flrs=(), ks=(), seeds=(3,))
    page = write_report(tmp_path, stages, epochs, {"s1": CONFIG}, PROVENANCE).read_text(
        encoding="utf-8"
    )
    assert page.count("<img") == 2 and "Best cell" not in page
    assert "n = 1: no error bar" in page


def test_diverged_and_missing_values(tmp_path):
    stages, epochs = _tables()
    lost = ["train_loss", "test_loss", "test_accuracy", "grad_norm"]
    stages.loc[stages["plr"] == 0.5, lost] = NAN
    stages.loc[stages["plr"] == 0.5, "state"] = "diverged"
    stages.loc[0, "train_loss"] = np.inf
    page = write_report(tmp_path, stages, epochs.iloc[:0], {"s1": CONFIG}, PROVENANCE).read_text(
        encoding="utf-8"
    )
    assert "12 stages done, 6 diverged." in page
    assert "<td>nan</td>" not in page and "<td>inf</td>" not in page


def test_set_ups_have_their_own_sections(tmp_path):
    tables = [_tables(flrs=(), ks=(), setup=name, dataset=f"set-{name}") for name in ("s1", "s2")]
    stages = pd.concat([stages for stages, _ in tables])
    setups = {"s2": CONFIG, "waiting": CONFIG}
    page = write_report(tmp_path, stages, pd.DataFrame(), setups, PROVENANCE).read_text(
        encoding="utf-8"
    )
    first, waiting, last = _sections(page)
    assert "set-s2" in first and "set-s1" not in first and "Configuration" in first
    assert "No stage has finished yet." in waiting and "<img" not in waiting
    assert "set-s1" in last and "Configuration" not in last


def test_large_grid_stays_below_two_megabytes(tmp_path):
    plrs, flrs = np.geomspace(1e-5, 1, 32), np.geomspace(1e-5, 0.1, 16)
    stages, epochs = _tables(plrs, flrs, (2, 5, 10, 50, 100), (0,), num_epochs=200)
    path = write_report(tmp_path, stages, epochs, {"s1": CONFIG}, PROVENANCE)
    assert path.stat().st_size < 2_000_000
