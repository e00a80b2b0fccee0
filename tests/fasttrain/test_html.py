"""The page: whole, offline, escaped, of bounded size, and honest about what is missing."""

import base64
import dataclasses
import hashlib
import io
import json
import re

import pandas as pd
import pytest
from PIL import Image

from fasttrain.errors import EnvironmentProblem
from fasttrain.report import write_report

from .pages import CONFIG, NAN, PROVENANCE, decreed, make_grid  # noqa: F401

pytestmark = pytest.mark.usefixtures("decreed")


def _page(folder, grids, **options) -> str:
    path = write_report(folder, grids, PROVENANCE, **options)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def _sections(page: str) -> list[str]:
    return page.split('<h2 id="terms"')[0].split("<section")[1:]


def _data(page: str) -> list[dict]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for text in found]


def _changed(grid, change):
    stages = grid.stages.copy()
    change(stages)
    return dataclasses.replace(grid, stages=stages)


def test_page_is_self_contained_and_complete(tmp_path):
    grid = make_grid()
    page = _page(tmp_path / "new", [grid])
    sources = re.findall(r"src\s*=\s*[\"']?([^\"'>]{0,20})", page)
    assert len(sources) == 1 and sources[0].startswith("data:image/svg+xml,")
    # Papers are linked, and never loaded; the namespace of SVG is a name, no address.
    unlinked = re.sub(r'<a href="https://arxiv.org/abs/', "", page)
    assert not re.search(
        r"https?:(?!//www.w3.org/2000/svg)|@import|<link|<iframe| on\w+=", unlinked
    )
    # Nothing temporary stays behind.
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["figures", "report.html"]
    for text in ("data.flip", "network.radius", "1 h 23 min", "unknown", "All 32 stages"):
        assert text in page
    for text in ("a published figure", "fasttrain analyse"):
        assert text in page
    assert "fasttrain sweep digits --plr &#39;1e-4:1:3&#39;" in page
    assert all(stage in page for stage in grid.stages["stage"])


def test_every_link_leads_somewhere(tmp_path):
    page = _page(tmp_path, [make_grid(), make_grid(setup="s2", model="resnet18")])
    links = re.findall(r'href="([^"]*)"', page)
    places = {link[1:] for link in links if link.startswith("#")}
    assert places <= set(re.findall(r'id="([^"]*)"', page))
    contents = {f"setup-s{n}{part}" for n in (1, 2) for part in ("", "-grid", "-accuracy")}
    assert places >= contents | {"terms", "provenance", "setup-s1-summary", "setup-s2-stages"}
    files = [link for link in links if not link.startswith(("#", "https://arxiv.org/abs/"))]
    assert {link.rpartition(".")[2] for link in files} == {"png", "svg", "csv"}
    assert all((tmp_path / link).is_file() for link in files)


def test_terms_and_papers_are_linked_once_and_always():
    from fasttrain.report.page.glossary import Links

    links = Links()
    first = links.of("Regimes of <b>: regime 2, the effective learning rate of a PLR, by TR")
    assert first.count('<a class="term" href="#term_regime">regime</a>') == 1
    assert '<a class="term" href="#term_effective_learning_rate">effective learning rate' in first
    assert "&lt;b&gt;" in first and 'href="https://arxiv.org/abs/2209.03695"' in first
    # Explained before; papers are looked up at every figure.
    second = links.of("regime 1 at a PLR, PLRs, TRAIN; TR")
    assert second.count("<a") == 1 and second.endswith(">TR</a>")


def test_only_the_page_s_own_style_and_script_are_allowed(tmp_path):
    page = _page(tmp_path, [make_grid()])
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert 'http-equiv="refresh"' not in page
    assert '<meta http-equiv="refresh" content="7">' in _page(tmp_path, [], refresh_s=7)


def test_names_are_escaped_and_safe_in_paths(tmp_path):
    grid = make_grid(dataset="<script>alert(1)</script>", setup="../$a$<b>")
    configuration = {"</script><b>": "<!--<script>"}
    grid = dataclasses.replace(grid, configuration=configuration)
    command = "fasttrain sweep '</script><!--.toml'"
    commands = dict.fromkeys(grid.stages["stage"], command)
    page = _page(tmp_path, [grid], commands=commands, unfinished=[("<b>", "1", "failed: <b>")])
    assert page.count("<script") == 2 and "<!--" not in page
    # What the page itself sets in bold are the titles of figures.
    assert page.count("<b>") == page.count("<b>Title &lt;of&gt; it") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;/script&gt;&lt;!--.toml" in page and _data(page)[0]["commands"] == []
    names = [path.name for path in (tmp_path / "figures").iterdir() if path.name[0] != "."]
    assert len(names) == 3 and all(re.fullmatch(r"[\w.-]+", name) for name in names)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first, second = (_page(tmp_path / name, [make_grid()]) for name in ("a", "b"))
    assert first == second


def test_nothing_finished(tmp_path):
    assert "No stage has finished yet" in _page(tmp_path, [])
    grid = dataclasses.replace(make_grid(), stages=pd.DataFrame(), epochs=pd.DataFrame())
    page = _page(tmp_path, [grid], unfinished=[("pretrain plr 0.1 seed 0", "2 of 3", "begun")])
    assert "No stage has finished yet" in page and "<img" not in page
    assert len(_sections(page)) == 1 and "2 of 3" in page


def test_heatmap_has_a_cell_for_every_result(tmp_path):
    grid = make_grid()
    lost = ["train_loss", "test_loss", "test_accuracy", "grad_norm"]

    def change(stages):
        every = (stages["plr"] == 0.5) & (stages["kind"] == "pretrain")
        stages.loc[every, lost] = NAN
        stages.loc[every, "state"] = "non-finite"
        one = (stages["plr"] == 5e-2) & (stages["flr"] == 1e-3) & (stages["seed"] == 1)
        stages.loc[one, "state"] = "at-chance"

    grid = _changed(grid, change)
    gone = (grid.stages["plr"] == 1e-3) & (grid.stages["kind"] == "swa")
    page = _page(tmp_path, [dataclasses.replace(grid, stages=grid.stages[~gone])])
    (data,) = _data(page)
    assert data["plrs"] == ["0.001", "0.01", "0.05", "0.5"]
    labels = ["FLR 0.01", "FLR 0.001", "pre-trained", "average, k = 2"]
    assert re.findall(r'<tr[^>]*><th scope="row">([^<]*)</th><td class="[vlw]', page) == labels
    assert [row["flags"] for row in data["rows"]] == [" --flr 0.01", " --flr 0.001", "", " --k 2"]
    (table,) = re.findall(r'<table class="heatmap".*?</table>', page, re.DOTALL)
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", table)
    cells = [re.findall(r'<td class="([^"]*)">([^<]*)</td>', row) for row in rows]
    assert cells[2][3] == ("lost", "✕") and "accuracy, non-finite" in data["cells"][2][3][0]
    assert cells[3][0] == ("waiting", "·") and "result, not finished" in data["cells"][3][0][0]
    assert cells[1][2][1].endswith("†") and ", 1/2 at chance" in data["cells"][1][2][0]
    # Both of two that are equally good.
    assert cells[0][3] == ("v23 best", "83.00") and cells[1][3] == ("v23 best", "83.00")
    words = "PLR 0.5, FLR 0.01: 83.00 ± 0.71 % (n = 2 seeds), done"
    assert data["regimes"][3] == "; PLR in regime 3 (divergence)"
    assert data["cells"][0][3][0] == words
    # The stages of a cell are those in the table of the page, with the pre-training of their seed.
    shown = [re.split("<td>", line) for line in re.findall(r"<tr><td>.*", page)]
    shown = [row for row in shown if row[1] in ("pretrain", "finetune", "swa")]
    assert len(shown) == 30
    for place, parent, seed in data["cells"][0][3][1]:
        assert shown[place][1:5] == ["finetune", "0.5", "3", "0.01"]
        assert shown[parent][1:3] == ["pretrain", "0.5"]
        assert int(shown[place][6]) == int(shown[parent][6]) == seed
    assert "<td>nan" not in page and "<td>inf" not in page
    assert re.findall(r'colspan="(\d)"><span>([^<]*)<', table) == [
        ("2", "1"),
        ("1", "2A"),
        ("1", "3"),
    ]


def test_set_ups_have_their_own_sections_and_say_how_they_differ(tmp_path):
    wide = {**CONFIG, "network": {**CONFIG["network"], "width": 16, "model": "resnet18"}}
    grids = [
        make_grid(flrs=(), ks=(), setup="s1"),
        dataclasses.replace(make_grid(setup="s2", width=16, model="resnet18"), configuration=wide),
        dataclasses.replace(make_grid(setup="s3"), stages=pd.DataFrame(), configuration={}),
    ]
    page = _page(tmp_path, grids)
    first, second, waiting = _sections(page)
    assert 'href="#setup-s1"' in page and 'id="setup-s2"' in second
    assert "network.width = 8" in first and "network.width = 16" in second
    assert "resnet18 of width 16" in second and "resnet18" not in first.split("Configuration")[0]
    assert "No stage has finished yet." in waiting and "heatmap" not in waiting
    assert len(_data(page)) == 2


def test_only_pretraining_of_one_seed(tmp_path):
    page = _page(tmp_path, [make_grid(plrs=(1e-3,), flrs=(), ks=(), seeds=(3,))])
    assert "n = 1: no error bar" in page and "the only PLR, 0.001" in page
    words = "PLR 0.001, pre-trained: 53.00 % (n = 1: no error bar), done"
    assert _data(page)[0]["cells"] == [[[words, [[0, None, 3]]]]]


def test_only_fine_tuning_without_its_pretraining(tmp_path):
    stages = make_grid().stages
    grid = dataclasses.replace(make_grid(), stages=stages[stages["kind"] == "finetune"])
    (data,) = _data(_page(tmp_path, [grid]))
    assert data["cells"][0][0][1][0][1] is None
    assert data["cells"][2][0][0] == "PLR 0.001, pre-trained: no result, not finished"


def test_figures_are_written_again_only_when_table_code_or_a_file_changes(tmp_path, monkeypatch):
    from fasttrain.report.page import pictures

    written = []
    save = pictures.save
    monkeypatch.setattr(
        pictures, "save", lambda item, stem: written.append(stem.name) or save(item, stem)
    )
    grid = make_grid()
    first = _page(tmp_path, [grid])
    assert _page(tmp_path, [grid]) == first and written == ["s1-accuracy"]
    _page(tmp_path, [make_grid(seeds=(0,))])
    assert len(written) == 2
    picture = tmp_path / "figures" / "s1-accuracy.svg"
    for harm in (lambda: picture.write_text("mine"), picture.unlink):
        harm()
        before = len(written)
        _page(tmp_path, [make_grid(seeds=(0,))])
        assert len(written) == before + 1 and "<svg" in picture.read_text()
    monkeypatch.setattr(pictures, "_drawing_code", lambda: "another version")
    _page(tmp_path, [make_grid(seeds=(0,))])
    assert len(written) == 5


def test_a_figure_of_too_many_marks_is_shown_in_pixels(tmp_path, monkeypatch):
    from fasttrain.report.page import pictures

    save = pictures.save

    def save_large(item, stem):
        png, svg, csv = save(item, stem)
        Image.linear_gradient("L").convert("RGBA").save(png)
        svg.write_text(svg.read_text() + "<!--" + 150_000 * "-" + "-->")
        return png, svg, csv

    monkeypatch.setattr(pictures, "save", save_large)
    page = _page(tmp_path, [make_grid()])
    (data,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.mode == "P" and shown.size == (256, 256)
        assert shown.convert("L").getpixel((9, 200)) == pytest.approx(200, abs=2)
    assert "Shown here in pixels" in page and "pixels" not in _page(tmp_path, [])


def test_files_of_figures_that_are_shown_no_more_go_and_no_others(tmp_path):
    folder = tmp_path / "figures"
    both = [make_grid(), make_grid(setup="s-2")]
    first = _page(tmp_path, both)
    shown = {f"{setup}-accuracy.{end}" for setup in ("s1", "s-2") for end in ("png", "svg", "csv")}
    assert {path.name for path in folder.iterdir()} == shown | {".written.json"}
    others = {"s1-notes.png", "accuracy.png", "mine-accuracy.png", "s1-accuracy.pdf"}
    for name in others:
        (folder / name).touch()
    (folder / "s-2-accuracy.svg").write_text("mine by now")
    page = _page(tmp_path, both[:1])
    left = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert left == others | {name for name in shown if name[:2] == "s1"} | {"s-2-accuracy.svg"}
    # What comes back is written again.
    assert _page(tmp_path, both) == first != page
    assert (folder / "s-2-accuracy.png").exists()


def test_a_list_of_figures_that_names_files_elsewhere_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    sha256 = hashlib.sha256(b"").hexdigest()
    for name in ("../mine.txt", str(tmp_path / "mine.txt"), ".."):
        listing = tmp_path / "figures" / ".written.json"
        _page(tmp_path, [make_grid()])
        listing.write_text(json.dumps({"files": {name: sha256}}))
        with pytest.raises(EnvironmentProblem, match="written.json: is not what .*; delete"):
            _page(tmp_path, [make_grid()])
        listing.unlink()
    assert (tmp_path / "mine.txt").exists()


def test_figures_are_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentProblem, match="figures: is a symbolic link"):
        _page(tmp_path / "store", [make_grid()])
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "store" / "report.html").exists()
