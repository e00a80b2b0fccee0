"""The command that makes one cell of a grid, from the command that made the grid.

The recorded command names the preset, the data set and the store; the set-up's own configuration
says what the network and the training were. What differs from the preset becomes a flag, so that
`fasttrain train` with a cell's learning rates and seed makes the same stages again.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from fasttrain.errors import UsageError
from fasttrain.plan.config import load_config
from fasttrain.report.page.cell_snippet import PLACE, is_call, sweep_snippet
from fasttrain.settings.limits import shown
from fasttrain.settings.optimizers.kinds import options

# What no flag names.
_BY_FILE = ("kind", "path", "factory", "options", "image", "label")
# What the configuration of a set-up does not hold, or holds under another name.
_CARRIED = ("dataset", "image-size", "n-train", "n-test", "store", "data-root")


class NoCommand(Exception):
    """No command can be given; says why in one sentence."""


def train_command(configuration: Mapping[str, Any], recorded: Iterable[str]) -> str:
    """`fasttrain train PRESET --flag ...`, without a cell's --plr, --flr, --k and --seed.

    `recorded` are the commands that made stages of the set-up; the one whose preset needs the
    fewest flags is taken. Where all were calls from Python it is one (`sweep_snippet`).
    Raises NoCommand if none names a preset that can still be read.
    """
    found, calls, reasons = [], [], []
    for line in recorded:
        try:
            words = shlex.split(line)
        except ValueError as error:
            reasons.append(f"the recorded command cannot be read ({error})")
            continue
        if is_call(words):
            try:
                calls.append(sweep_snippet(words[2]))
            except UsageError as error:
                reasons.append(str(error))
            continue
        if words[1:2] not in (["sweep"], ["train"]) or not words[2:]:
            continue
        try:
            found.append(_train_words(configuration, words))
        except UsageError as error:
            reasons.append(str(error))
    if calls and not found:
        return min(calls, key=len)
    if not found:
        why = reasons[-1] if reasons else "no command of a sweep is recorded"
        raise NoCommand(f"No command can be given for this cell: {why}.")
    return shlex.join(min(found, key=len))


def words_on(command: str) -> str:
    """What stands above a cell's command."""
    if PLACE in command:
        return "The Python that makes this cell, with all its seeds:"
    return "The command that makes this cell, one line per seed:"


def _train_words(configuration: Mapping[str, Any], words: list[str]) -> list[str]:
    preset, *arguments = words[2:]
    config = load_config(preset)
    for name in ("network", "optimizer"):
        made = configuration.get(name, {})
        if "factory" in made and not _is_own(made, getattr(config, name)):
            raise UsageError(f"{preset}: has another {name} now than {shown(made['factory'])}")
    flags = _carried(arguments)
    flags += _optimizer_flags(configuration.get("optimizer", {}), config.optimizer)
    for name, section in asdict(config).items():
        there = configuration.get(name, {})
        for key in {**section, **(there if name == "network" else {})}:
            value = there.get(key, section.get(key))
            # A set-up without fine-tuning has no length of it.
            told = name in ("grid", "optimizer") or key in _BY_FILE or value is None
            if told or value == section.get(key):
                continue
            flags += _flag(key, value)
    return ["fasttrain", "train", preset, *flags]


def _is_own(made: Mapping[str, Any], network: Any) -> bool:
    """Whether a custom part is the one of a file, which no flag names."""
    return all(made.get(key) == getattr(network, key, None) for key in ("factory", "options"))


def _optimizer_flags(made: Mapping[str, Any], preset: Any) -> list[str]:
    """Flags that turn a preset's optimiser into the one that a set-up was made with."""
    kind = made.get("kind", preset.kind)
    before = asdict(preset) if kind == preset.kind else options(kind) | {"kind": preset.kind}
    flags = []
    for key, value in made.items():
        words = list(map(str, value)) if isinstance(value, list | tuple) else [str(value)]
        usual = before[key]
        # A tuple is a list in a store.
        if value is not None and value != (list(usual) if isinstance(usual, tuple) else usual):
            flags += ["--optimizer" if key == "kind" else f"--{key.replace('_', '-')}", *words]
    return flags


def _carried(arguments: list[str]) -> list[str]:
    flags = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if argument.startswith("--") and name in _CARRIED:
            flags += [f"--{name}", value] if equals else [f"--{name}", *arguments[place + 1 :][:1]]
    return flags


def _flag(key: str, value: Any) -> list[str]:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]
