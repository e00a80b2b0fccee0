"""What the parts of a setting have in common: what of them identity rests on.

A section holds a part's tag, its `numerics` number and the values that differ from their defaults.
So a new field keeps every id, and a change of what one part computes leaves the stores of others
valid. A default is part of the meaning of old sections: whoever changes one raises `numerics`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

TAGS = ("kind", "model")
"""fields that name which of several parts it is: always in a section"""
BESIDE = ("numerics", "digest")
"""what a section holds besides values of its part"""


def section(part: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The section of a part: a frozen dataclass with defaults and a number `numerics`."""
    values = {
        field.name: getattr(part, field.name)
        for field in dataclasses.fields(part)
        if field.name not in leave_out
        and (field.name in TAGS or getattr(part, field.name) != field.default)
    }
    return {"numerics": part.numerics, **values}


def given(section: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a part that a section holds: what makes it again, with its defaults."""
    return {name: value for name, value in section.items() if name not in BESIDE}
