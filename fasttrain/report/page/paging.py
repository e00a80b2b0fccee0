"""Which set-ups stand on which page: a page has a bound, which hundreds of them would pass."""

from collections.abc import Callable, Sequence
from typing import Any

from fasttrain.machine.text import readable

MAX_BYTES = 2_000_000
"""of a page, unless one set-up alone takes more"""
NAMES = "report.html", "report-{}.html"


def paged(
    sections: Sequence[dict[str, Any]], render: Callable[[dict[str, Any]], str]
) -> dict[str, str]:
    """The pages, by their names: the first lists all set-ups, each shows what it has room for.

    Args:
        render: makes a page of `setups` (those it lists, each with its `page`, empty if that is
            this one), `sections` (those it shows), `number` and `num_pages`.
    """
    places = _places(sections, render)
    num_pages = max(places, default=1)
    pages = {}
    for number in range(1, num_pages + 1):
        listed = [
            section | {"page": "" if place == number else _name(place)}
            for section, place in zip(sections, places, strict=True)
            if number in (1, place)
        ]
        shown = [section for section in listed if not section["page"]]
        about = {"number": number, "num_pages": num_pages, "pages": _around(number, num_pages)}
        pages[_name(number)] = render({"setups": listed, "sections": shown, **about})
    return pages


def _places(
    sections: Sequence[dict[str, Any]], render: Callable[[dict[str, Any]], str]
) -> list[int]:
    """The page of every section, counted from 1, in their order."""
    if len(sections) < 2:
        return [1] * len(sections)

    def size(listed: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> int:
        about = {"number": 1, "num_pages": 2, "pages": _around(1, 2)}
        page = render({"setups": listed, "sections": shown, **about})
        return len(readable(page).encode())

    elsewhere = [section | {"page": _name(len(sections))} for section in sections]
    here = [section | {"page": ""} for section in sections]
    empty, full = size([], []), size(elsewhere, [])
    places, number, room = [], 1, MAX_BYTES - full
    for section in here:
        own = size([section], [section]) - empty
        if own > room and number in places:
            number, room = number + 1, MAX_BYTES - empty
        places.append(number)
        room -= own
    return places


def _name(number: int) -> str:
    first, others = NAMES
    return first if number == 1 else others.format(number)


def _around(number: int, num_pages: int) -> list[tuple[str, str]]:
    """Links from a page to others: words and names."""
    links = {"first": 1, "previous": number - 1, "next": number + 1, "last": num_pages}
    return [
        (words, _name(to)) for words, to in links.items() if 1 <= to <= num_pages and to != number
    ]
