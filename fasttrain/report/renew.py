"""A store's report, made anew only if something of it has changed."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..machine.timings import phase
from ..store.reported import FOLDER, PAGE, being_made, is_current, made_of
from ..store.store import Store

if TYPE_CHECKING:
    import pandas as pd


class Report(NamedTuple):
    """The report of a store, which is of what the store holds."""

    page: Path
    is_new: bool
    """whether it has just been made"""

    def __str__(self) -> str:
        return str(self.page) + ("" if self.is_new else " (nothing new)")

    def stages(self) -> "pd.DataFrame":
        """The table of the finished stages (`fasttrain.load`), as the report has it."""
        import pandas as pd

        # By its bytes: pyarrow takes no path that is not UTF-8.
        return pd.read_parquet(BytesIO(self.page.with_name("results.parquet").read_bytes()))


@phase("report")
def renew(store: Store, processes: int = 1) -> Report:
    """Rebuild the report if the store, the program or a file of the report has changed.

    Args:
        processes: those that draw figures at once.
    """
    page = store.path / FOLDER / PAGE
    if is_current(store, made_of(store, refresh_s=None)):
        return Report(page, False)
    # What draws is imported only if there is something to draw.
    from .build import make

    with being_made(store):
        # Again: another process may have made it meanwhile, or the store may have grown.
        digest = made_of(store, refresh_s=None)
        is_new = not is_current(store, digest)
        if is_new:
            make(store, digest, processes=processes)
    return Report(page, is_new)
