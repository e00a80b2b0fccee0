"""Completion in a real shell."""

import re
import subprocess

import pytest

from fasttrain.cli.main import OVERVIEW

COMPLETE = """
source "$1"; shift
function="$(complete -p fasttrain | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(fasttrain, tmp_path):
    """What bash offers for the last of some words."""
    script = tmp_path / "completion.sh"
    outcome = fasttrain("--print-completion", "bash")
    assert outcome.code == 0
    script.write_text(outcome.out)

    def call(*words: str) -> set[str]:
        command = ["bash", "-c", COMPLETE, "bash", str(script), "fasttrain", *words]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        return set(run.stdout.split())

    return call


def test_commands_flags_and_choices_are_completed(complete):
    assert complete("s") == {"serve", "status", "sweep"}
    # Every command that the overview lists.
    assert complete("") >= set(re.findall(r"^  ([a-z]+) ", OVERVIEW, re.MULTILINE))
    assert complete("report", "--w") == {"--watch"}
    assert complete("sweep", "digits", "--se") == {"--seeds"}
    assert complete("export", "x", "--to", "ten") == {"tensorboard"}
    assert complete("data", "w") == {"write"}
    assert complete("bench", "k") == {"kernels"}


def test_zsh_has_a_script(fasttrain):
    outcome = fasttrain("--print-completion", "zsh")
    assert outcome.code == 0 and "fasttrain" in outcome.out and "sweep" in outcome.out


@pytest.mark.parametrize("words", [("fish",), ()])
def test_another_shell_is_refused(fasttrain, words):
    outcome = fasttrain("--print-completion", *words)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "allowed are bash, zsh" in outcome.err
