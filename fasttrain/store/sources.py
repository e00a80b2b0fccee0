"""The sources of parts that users bring, and what is said when one has changed.

Identity holds the digest of the module that defines a factory, so that results of one source are
never taken for those of another. What that module imports is not looked at.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..plan.tables import PARTS
from .store import Store


def sources(config: Any) -> dict[str, str]:
    """Digests of the sources of a configuration's own parts, as provenance tells them."""
    parts = {name: getattr(config, name) for name in PARTS}
    return {
        f"{name} source": f"{part.factory} {part.source}"
        for name, part in parts.items()
        if hasattr(part, "factory")
    }


def check_unchanged(config: Any, provenance: Mapping[str, str | None]) -> None:
    """Raise if a source is another than the one that a sweep was planned with.

    Raises:
        UsageError: it was written to since.
    """
    for name, now in sources(config).items():
        then = provenance.get(name)
        if then is not None and then != now:
            raise UsageError(
                f"{name.replace(' source', '.factory')} = {now.split()[0]!r}: its source was"
                " changed while the sweep ran; run it again"
            )


def change_lines(config: Any, store: Store) -> list[str]:
    """What to say of stages in the store that another source of the same factory made."""
    own = {name: part for name in PARTS if hasattr(part := getattr(config, name), "factory")}
    if not own:
        return []
    others: Counter[tuple[str, str]] = Counter()
    for stage in store.stages():
        setup = store.description(stage)["setup"]
        for name, part in own.items():
            then = setup[name]
            if then.get("factory") == part.factory and then.get("source") != part.source:
                others[name, then["source"]] += 1
    return [
        f"{name}: the source of {own[name].factory} has changed: {count} stages in {store.path}"
        f" were made by source {source}, and stay; with this one, {own[name].source}, all stages"
        " train anew"
        for (name, source), count in others.items()
    ]
