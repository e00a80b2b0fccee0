"""The results of a store, or of one study in it: tables and figures."""

import functools
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..analysis.records import load_analyses
from ..analysis.regimes import classify
from ..analysis.setups import all_setups
from ..analysis.tables import IDS, SetupResults
from ..errors import UsageError, nearest
from ..store.sets import load_sets
from ..store.store import Store
from ..store.tables import epoch_table, finished, stage_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results:
    """The results that a store holds at this moment; make another object to see later ones.

    Args:
        store: its directory.
        only: ids of the stages to look at; all if not given.

    Raises:
        EnvironmentProblem: not a store, or a damaged file in it.
    """

    def __init__(
        self, store: str | os.PathLike[str], *, only: Collection[str] | None = None
    ) -> None:
        self.store = Path(store).expanduser()
        """directory of the store"""
        found = finished(self.store)
        self._found = [f for f in found if only is None or f.stage in only]

    def __repr__(self) -> str:
        return f"<{len(self._found)} finished stages in {self.store}>"

    @functools.cached_property
    def stages(self) -> pd.DataFrame:
        """One row per finished stage; the columns are those of `fasttrain.load`."""
        return stage_table(self._found)

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch of every finished stage, as `fasttrain.load_epochs`."""
        return epoch_table(self.store, self._found)

    @functools.cached_property
    def sets(self) -> pd.DataFrame:
        """One row per stage, tested epoch and evaluation set, as `fasttrain.load_sets`."""
        return load_sets(self.store, self._found)

    @functools.cached_property
    def measurements(self) -> dict[str, pd.DataFrame]:
        """Tables of what `fasttrain.analyse` measured of these stages, as `load_analyses`."""
        stages = {f.stage for f in self._found}
        tables = load_analyses(self.store)
        return {
            name: table[table[[c for c in IDS if c in table]].isin(stages).all(axis=1)]
            for name, table in tables.items()
        }

    @functools.cached_property
    def _grids(self) -> dict[str, SetupResults]:
        return {results.setup: results for results in all_setups(self.store, self._found)}

    def figure(self, name: str, setup: str | None = None) -> "Figure":
        """The matplotlib figure of this name in docs/figures.md.

        Args:
            setup: id of a set-up; needed if the store has several.

        Raises:
            UsageError: no such figure or set-up, or the results lack what the figure shows.
        """
        # matplotlib is for those who draw.
        from ..report import drawings_of, drawn
        from ..report.figures.sets import SETS
        from ..report.figures.transfer import TRANSFER

        results = self._grid(setup)
        drawings = {drawing.name: drawing for drawing in (*drawings_of(results), SETS, TRANSFER)}
        if name not in drawings:
            raise UsageError(
                f"no figure {name!r}{nearest(name, drawings)}; allowed are {', '.join(drawings)}"
            )
        [found] = drawn(results, classify(results), [drawings[name]])
        if found.table is None:
            raise UsageError(f"figure {name}: {found.missing}")
        return found.figure

    def _grid(self, setup: str | None) -> SetupResults:
        if not self._grids:
            raise UsageError(f"{self.store}: no stage is finished: there is nothing to draw")
        names = ", ".join(self._grids)
        if setup is None and len(self._grids) > 1:
            raise UsageError(f"{self.store} has several set-ups: give setup=..., one of {names}")
        chosen = next(iter(self._grids)) if setup is None else setup
        if chosen not in self._grids:
            raise UsageError(
                f"no set-up {chosen!r}{nearest(chosen, self._grids)}; allowed are {names}"
            )
        return self._grids[chosen]

    def report(self) -> Path:
        """Rebuild tables, figures and page of the whole store if something is new.

        Returns the path of report.html.
        """
        from ..report.renew import renew

        return renew(Store.open(self.store, create=False)).page
