"""What the parts of a setting have in common: what of them identity rests on.

A section holds a part's tag, its `numerics` number and the values that differ from their defaults.
So a new field keeps every id, and a change of what one part computes leaves the stores of others
valid. A default is part of the meaning of old sections: whoever changes one raises `numerics`.
Of a part that a user brings it holds the digest of its source, too.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

TAGS = ("kind", "model")
"""fields that name which of several parts it is: always in a section"""
BESIDE = ("numerics", "digest", "source")
"""what a section holds besides values of its part"""


def section(part: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The section of a part: a frozen dataclass with defaults and a number `numerics`."""
    values = {
        field.name: getattr(part, field.name)
        for field in dataclasses.fields(part)
        if field.name not in leave_out
        and (field.name in TAGS or getattr(part, field.name) != _default(field))
    }
    source = getattr(part, "source", None)
    return {"numerics": part.numerics, **values, **({} if source is None else {"source": source})}


def given(section: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a part that a section holds: what makes it again, with its defaults."""
    return {name: value for name, value in section.items() if name not in BESIDE}


def defaults(kind: type[Any]) -> dict[str, Any]:
    """The defaults of a kind of part, by field; fields that have to be given are left out."""
    found = {field.name: _default(field) for field in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def keys(kind: type[Any]) -> list[str]:
    """The keys of a kind of part in TOML, in their order."""
    return [field.name for field in dataclasses.fields(kind)]


def _default(field: "dataclasses.Field[Any]") -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default  # type: ignore[misc]
