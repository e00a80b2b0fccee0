"""From a command line to its arguments; a mistake in them is one line."""

import contextlib
import dataclasses
import io
import itertools
import re
from typing import Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

from fasttrain_data.catalogue import DATASETS

from ..errors import UsageError, nearest
from ..plan.config import Config, load_config, presets
from .arguments import REGISTRY

T = TypeVar("T")

RULE = re.compile("[\u2570\u256f\u2500-]{4,}$")
"""A line across the box that tyro puts its errors in, or the box's lower edge."""
CHOICE = re.compile(r"invalid choice '([^']*)'.* one of \((.*)\)")
STRAYS = "Unrecognized options: "
"""how tyro says that a word is no choice, and that words belong to no argument"""


def preset_config(name: str, arguments: list[str]) -> Config:
    """The configuration that the first argument names: its values are the defaults of the flags."""
    if arguments and arguments[0].endswith(".npz"):
        raise UsageError(
            f"{arguments[0]!r} holds images, and {name} needs a preset or a .toml file first, as"
            f" in: fasttrain {name} digits --dataset {arguments[0]}"
        )
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
    given |= {"config": (OmitArgPrefixes,), "registry": REGISTRY}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(command, prog=f"fasttrain {name}", args=arguments, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
    message = _one_line(errors.getvalue())
    raise UsageError(f"{name}: {message}{_hint(message, arguments, command, default)}")


def _hint(message: str, arguments: list[str], command: type, default: Any) -> str:
    """The nearest choice; for a word too many the list or the flag that it was meant for."""
    if choice := CHOICE.search(message):
        return nearest(choice[1], re.findall(r"'([^']+)'", choice[2]))
    strays = message.removeprefix(STRAYS).split(", ")
    if not message.startswith(STRAYS) or strays[0] not in arguments or strays[0].startswith("-"):
        return ""
    place = arguments.index(strays[0])
    starts = [at for at, word in enumerate(arguments) if word.startswith("-")]
    first = max((at for at in starts if at < place), default=None)
    end = min((at for at in starts if at > place), default=len(arguments))
    if first is not None and arguments[first] in _lists(default):
        words = ",".join(arguments[first + 1 : end])
        return f" (a list is one word, with commas: {arguments[first]} {words})"
    flags = {field.name for part in _parts(default) for field in dataclasses.fields(part)}
    is_dataset = strays[0].endswith(".npz") or strays[0] in DATASETS
    if is_dataset and "dataset" in flags | {field.name for field in dataclasses.fields(command)}:
        return f" (did you mean --dataset {strays[0]}?)"
    return ""


def _parts(default: Any) -> list[Any]:
    """A command's defaults and the sections in them."""
    if default is None:
        return []
    return [default, *filter(dataclasses.is_dataclass, vars(default).values())]


def _lists(default: Any) -> set[str]:
    """The flags that take a list in one word: those whose default is a tuple."""
    return {
        f"--{name}"
        for part in _parts(default)
        for name, value in vars(part).items()
        if isinstance(value, tuple)
    }


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


def start_server(processes: int | None) -> None:
    """Import what commands work with, once for this process and for its workers."""
    from ..machine import processes as machine

    if (processes or machine.usable_cpus()) > 1:
        machine.fork_server()
