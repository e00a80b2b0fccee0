"""`.ci/release` refuses a tree whose files do not say what its tag says."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "release"
KERNELS = "kernels/fasttrain_kernels/__init__.py"
SOUND = {
    "fasttrain/version.py": 'RELEASE = "0.2.0"\n',
    "docs/CITATION.cff": "cff-version: 1.2.0\nversion: 0.2.0\n",
    "docs/CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 0.2.0\n- New.\n\n## 0.1.0\n- Old.\n",
    KERNELS: '__version__ = "0.1.1"\n',
    "kernels/step.py": "step = 2\n",
}
WRONG = {
    "version": ("fasttrain/version.py", 'RELEASE = "0.1.0"\n', "has version 0.1.0, and the tag"),
    "no version": ("fasttrain/version.py", "\n", "has version none, and the tag"),
    "citation": (
        "docs/CITATION.cff",
        "cff-version: 0.2.0\n",
        "docs/CITATION.cff: has version none",
    ),
    "no section": (
        "docs/CHANGELOG.md",
        "## Unreleased\n\n## 0.2.01\n- New.\n",
        "no section ## 0.2.0",
    ),
    "unreleased": (
        "docs/CHANGELOG.md",
        "## Unreleased\n- Newer.\n\n## 0.2.0\n- New.\n",
        "changes under Unreleased: move them to 0.2.0",
    ),
    "kernels": (KERNELS, '__version__ = "0.1.0"\n', "is that of v0.1.0, and kernels/ changed"),
}


@pytest.fixture(autouse=True)
def own_git(monkeypatch):
    """Git without what a user, a machine or a hook that runs these tests has told it."""
    for name in filter(lambda name: name.startswith("GIT_"), [*os.environ]):
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def module():
    loader = SourceFileLoader("release", str(SCRIPT))
    spec = importlib.util.spec_from_loader("release", loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    # Nothing is left beside the script.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(made)
    finally:
        sys.dont_write_bytecode = before
    return made


def commit(root: Path, files: dict[str, str], tag: str) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", tag), ("tag", tag)):
        subprocess.run(["git", "-C", str(root), *words], check=True)


def first_release(root: Path) -> None:
    old = {**SOUND, "fasttrain/version.py": 'RELEASE = "0.1.0"\n', "kernels/step.py": "step = 1\n"}
    commit(root, {**old, KERNELS: '__version__ = "0.1.0"\n'}, "v0.1.0")


def test_a_tree_that_says_what_its_tag_says_has_no_problem(tmp_path):
    first_release(tmp_path)
    commit(tmp_path, SOUND, "v0.2.0")
    assert module().problems(tmp_path, "v0.2.0") == []
    assert module().of_same_kernels(tmp_path, "v0.2.0") == ""


def test_kernels_that_have_not_changed_keep_their_version(tmp_path):
    first_release(tmp_path)
    same = {KERNELS: '__version__ = "0.1.0"\n', "kernels/step.py": "step = 1\n"}
    commit(tmp_path, {**SOUND, **same}, "v0.2.0")
    assert module().problems(tmp_path, "v0.2.0") == []
    # They are on the index, and are not uploaded again.
    assert module().of_same_kernels(tmp_path, "v0.2.0") == "v0.1.0"


@pytest.mark.parametrize("name", WRONG)
def test_what_differs_from_the_tag_is_one_line(name, tmp_path):
    path, text, words = WRONG[name]
    first_release(tmp_path)
    commit(tmp_path, {**SOUND, path: text}, "v0.2.0")
    (line,) = module().problems(tmp_path, "v0.2.0")
    assert line.startswith(path) and words in line


def test_neither_a_change_nor_a_commit_without_a_tag_is_released(tmp_path):
    commit(tmp_path, SOUND, "v0.2.0")
    (tmp_path / "new").write_text("")
    (line,) = module().problems(tmp_path, "v0.2.0")
    assert "not committed" in line
    (line,) = module().problems(tmp_path, "")
    assert "no tag" in line and "v0.2.0" in line


@pytest.mark.parametrize("token", [None, ""])
def test_an_upload_needs_a_token(monkeypatch, token):
    monkeypatch.delenv("TWINE_PASSWORD", raising=False)
    if token is not None:
        monkeypatch.setenv("TWINE_PASSWORD", token)
    command = [sys.executable, str(SCRIPT), "--upload"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "TWINE_PASSWORD" in done.stderr


def wheel_of(folder: Path, *needed: str) -> Path:
    path = folder / "a-1.0-py3-none-any.whl"
    lines = ["Metadata-Version: 2.4", *(f"Requires-Dist: {line}" for line in needed)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


def test_the_lowest_versions_are_those_that_a_wheel_requires(tmp_path):
    wheel = wheel_of(tmp_path, "numpy>=2.0", "ray>=2.60; extra == 'ray'", "rich>=13.7")
    assert module().lowest(wheel) == "numpy==2.0\nrich==13.7\n"


@pytest.mark.parametrize(
    "needed", ["numpy<3,>=2.0", "numpy>=2.0; python_version < '3.12'", "numpy"]
)
def test_a_requirement_without_a_lowest_version_alone_is_refused_by_name(tmp_path, needed):
    with pytest.raises(SystemExit, match="release: a-1.0-.*numpy"):
        module().lowest(wheel_of(tmp_path, "rich>=13.7", needed))
