"""Types of fields that several parts of a setting have: what pydantic lets through."""

import functools
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, Strict

from .limits import LARGEST_RADIUS, MOST, within

CLOSED = ConfigDict(extra="forbid")


def limited(name: str) -> AfterValidator:
    """At most the limit of that name."""
    return AfterValidator(functools.partial(within, name))


Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(gt=0, le=MOST)]
Pixels = Annotated[int, Strict(), Field(ge=0, le=MOST)]
Width = Annotated[Count, limited("WIDTH")]
Radius = Annotated[float, Strict(), Field(ge=1 / LARGEST_RADIUS, le=LARGEST_RADIUS)]
