"""The README's code from Python and for a model out runs as it stands, one block after another."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
SECTIONS = ("From Python", "A model out")


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, names = README.read_text(encoding="utf-8"), dict[str, object]()
    for heading in SECTIONS:
        [section] = re.findall(rf"^### {heading}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
        blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        assert blocks, heading
        for block in blocks:
            exec(compile(block, f"README, {heading}", "exec"), names)
    assert (tmp_path / "accuracy.png").stat().st_size
    assert capsys.readouterr().out == ""
