"""From a command line to its arguments; a mistake in them is one line."""

import contextlib
import io
import itertools
import re
from typing import Any, TypeVar

import tyro

from .config import Config, load_config, presets
from .errors import UsageError

T = TypeVar("T")

RULE = re.compile("[\u2570\u256f\u2500-]{4,}$")
"""A line across the box that tyro puts its errors in, or the box's lower edge."""


def preset_config(name: str, arguments: list[str]) -> Config:
    """The configuration that the first argument names: its values are the defaults of the flags."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0])
    if any(argument in ("-h", "--help") for argument in arguments):
        return Config()
    raise UsageError(
        f"{name} needs a preset or a .toml file first: fasttrain {name} PRESET ...; "
        f"presets are {', '.join(presets())}"
    )


def parse(command: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """The command's arguments; a mistake in them is one line."""
    errors = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, prog=f"fasttrain {name}", args=arguments, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(f"{name}: {_one_line(errors.getvalue())}")


def _one_line(box: str) -> str:
    """What tyro says in its box, as one line: the message and the nearest option.

    Below a title, rules part the box into blocks: the message first, then suggestions and hints.
    """
    lines = [line.strip(" \u2502") for line in box.splitlines()[1:]]
    blocks = [
        [line for line in block if line]
        for is_rule, block in itertools.groupby(lines, key=lambda line: bool(RULE.match(line)))
        if not is_rule
    ]
    blocks = [block for block in blocks if block] or [["cannot be read"]]
    message = " ".join(blocks[0])
    for heading, *options in blocks[1:]:
        if heading.startswith("Perhaps you meant") and options:
            message += f" (did you mean {options[0].split()[0]}?)"
    return message
