"""The version: that of git's tag, or the one in the file."""

import subprocess

import pytest

import fasttrain
from fasttrain.version import RELEASE, of_tree


@pytest.fixture
def tree(tmp_path):
    """A repository with one commit, and a function that runs git in it."""

    def git(*words: str) -> None:
        given = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *given, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path, git


def test_at_a_tag_and_after_it(tree):
    root, git = tree
    assert of_tree(root) == RELEASE
    git("tag", "v2.3.0rc1")
    assert of_tree(root) == "2.3.0rc1"
    git("commit", "-q", "--allow-empty", "-m", "second")
    assert of_tree(root).startswith("2.3.0rc1.post1+g")


def test_another_tag_is_no_version(tree):
    root, git = tree
    git("tag", "very-old")
    assert of_tree(root) == RELEASE


def test_a_tree_without_git_has_the_release_of_the_file(tmp_path):
    assert of_tree(tmp_path) == RELEASE


def test_the_package_says_it():
    assert fasttrain.__version__[0].isdigit()
