"""A study: a preset, a TOML file or a setting, changed by keywords. Imports nothing heavy."""

import dataclasses
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, nearest
from ..plan.config import Config, checked_table, load_table
from ..plan.tables import PARTS, section_keys

Table = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Study:
    """A study: a setting, an experiment (a grid or chains), seeds. `study` makes it."""

    name: str
    """names the default store, runs/NAME"""
    config: Config
    call: str
    """what makes it again"""

    def __repr__(self) -> str:
        return self.call


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Data, network, optimiser and training of a study: for `study`, instead of a file.

    Each part is a kind's name, a dict of its keys or the part's dataclass; a function stands for a
    custom part. What is not given has its default. `study` checks it.
    """

    data: Any = "digits"
    network: Any = "convnet"
    optimizer: Any = "sphere"
    loss: str = "cross-entropy"
    batch_size: int = 64
    precision: str = "fp32"
    name: str = "setting"
    """names the default store, runs/NAME"""

    def tables(self) -> Table:
        """As a file has it."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {
            **{
                name: {"kind": part} if isinstance(part, str) else part
                for name, part in parts.items()
            },
            "training": {
                "loss": self.loss,
                "batch_size": self.batch_size,
                "precision": self.precision,
            },
        }


def study(source: Setting | str | os.PathLike[str], **keys: Any) -> Study:
    """A study from a setting, a preset or a TOML file.

    Args:
        source: a `Setting`, a preset's name, or the path of a .toml file.
        **keys: changes, as they would stand in the file: a key of any table by its name, or a table
            as a dict. A table that names another `kind` begins at the defaults of that kind.

    Raises:
        UsageError: no such preset or file; a key or value that is not allowed.
    """
    if isinstance(source, Setting):
        name, before = source.name, plain(source.tables())
        given = written("Setting", **vars(source))
    else:
        name = os.fspath(source)
        before, given = load_table(name), repr(name)
    changed = dict(before)
    origin = f"study {name}"
    tables = {key: plain(value) for key, value in keys.items() if key in _tables()}
    for key, value in tables.items():
        changed[key] = _merged(before.get(key, {}), value, getattr(Config(), key))
    for key, value in keys.items():
        if key not in tables:
            table = _table_of(key, changed, origin)
            changed[table] = {**changed.get(table, {}), key: plain(value)}
    network = tables.get("network")
    if "radius" not in keys and not (isinstance(network, dict) and "radius" in network):
        _drop_radius(changed)
    config = checked_table(changed, origin)
    return Study(Path(name).stem, config, written("study", given, **keys))


def as_study(given: "Study | Setting | str | os.PathLike[str]") -> Study:
    """A study as it is, or that of a setting, preset or file."""
    return given if isinstance(given, Study) else study(given)


def written(function: str, *given: str, **options: Any) -> str:
    """A call of the interface, as it is written; functions stand by their names."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(item) for key, item in value.items()}
        return f"{value.__module__}:{value.__qualname__}" if callable(value) else value

    words = (f"{key}={named(plain(value))!r}" for key, value in options.items())
    return f"ft.{function}({', '.join([*given, *words])})"


def command(call: str) -> str:
    """The command that repeats a call of the interface, for the record."""
    return shlex.join(["python", "-c", f"import fasttrain as ft; {call}"])


def plain(value: Any) -> Any:
    """Arrays, ranges and paths as TOML has them: lists, numbers and text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, range | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Of numpy, pandas and torch.
    as_list = getattr(value, "tolist", None)
    return value if as_list is None or isinstance(value, type) else as_list()


def _drop_radius(tables: Table) -> None:
    """Leave out the radius of a file whose sphere another optimiser has taken the place of."""
    optimizer, network = tables.get("optimizer"), tables.get("network")
    if isinstance(network, dict) and isinstance(optimizer, dict):
        if optimizer.get("kind", "sphere") != "sphere":
            tables["network"] = {name: network[name] for name in network if name != "radius"}


def _merged(before: Any, value: Any, default: Any) -> Any:
    """A table of a file with another one's keys, or that alone if it is of another kind."""
    if not isinstance(value, dict) or not isinstance(before, dict):
        return value
    kind = before.get("kind", getattr(default, "kind", None))
    return {**before, **value} if value.get("kind", kind) == kind else value


def _table_of(key: str, tables: Table, origin: str) -> str:
    """The name of the table that has a key.

    Raises:
        UsageError: none has, or several.
    """
    allowed = _tables()
    holders = [name for name, keys in allowed.items() if key in keys]
    if len(holders) > 1 and key != "kind":
        # The one that the file has it in.
        holders = [name for name in holders if key in tables.get(name, {})] or holders
    if len(holders) == 1:
        return holders[0]
    if holders:
        ways = " or ".join(f"{name}={{{key!r}: ...}}" for name in holders)
        raise UsageError(f"{origin}: {key} is a key of several tables: give {ways}")
    names = sorted({*allowed, *(name for keys in allowed.values() for name in keys)})
    raise UsageError(
        f"{origin}: {key}: no such key{nearest(key, names)}; allowed here: {', '.join(names)}"
    )


def _tables() -> dict[str, set[str]]:
    """The tables of a file, with all keys that they may have, of whatever kind they are."""
    return {field.name: section_keys(field.name, Config()) for field in dataclasses.fields(Config)}
