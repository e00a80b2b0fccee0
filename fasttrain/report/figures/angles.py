"""Angles between all end points of a seed, as an image."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasttrain.analysis.tables import SetupResults
from fasttrain.report.figures.drawing import Drawing, Picture, Shades
from fasttrain.report.figures.rows import analysed, described, ends_and_averages
from fasttrain.report.seed_means import number

MAX_LABELS = 24


def _table(results: SetupResults, regimes: pd.DataFrame) -> pd.DataFrame:
    """Every two of the stages shown: seed, their plr and series, place_a <= place_b, and angle.

    Shown are pre-training, fine-tuning at the lowest and highest FLR, and one average, of the
    first seed; places count them by PLR, then in this order.
    """
    angles = analysed(results.angles, "angles between stages", "geometry")
    about = ends_and_averages(results.stages[results.stages["plr"] > 0])
    # Of millions of pairs thousands; from here on their ids are words.
    known = angles[angles["stage_a"].isin(about["stage"]) & angles["stage_b"].isin(about["stage"])]
    known = known.astype({"stage_a": "str", "stage_b": "str"})
    known = described(results, known.assign(stage=known["stage_a"]), ["seed"])
    known = analysed(known, "angles between stages", "geometry")
    seed = known["seed"].min()
    known = known[known["seed"] == seed]
    present = about[about["stage"].isin([*known["stage_a"], *known["stage_b"]])]
    present = present.sort_values(["plr", "place"]).assign(at=np.arange(len(present)))
    names = present.set_index("stage")[["plr", "series", "at"]]
    ends = [names.loc[known[f"stage_{end}"]].reset_index(drop=True) for end in "ab"]
    ordered = (ends[0]["at"] <= ends[1]["at"]).to_numpy()
    columns: dict[str, object] = {"seed": seed}
    for end, (first, second) in {"a": ends, "b": ends[::-1]}.items():
        chosen = first.where(pd.Series(ordered), second)
        columns |= {f"plr_{end}": chosen["plr"], f"series_{end}": chosen["series"]}
        columns[f"place_{end}"] = chosen["at"].astype(int)
    columns["angle"] = known["angle"].to_numpy()
    return pd.DataFrame(columns).sort_values(["place_a", "place_b"], ignore_index=True)


def _draw(table: pd.DataFrame, shades: Shades) -> Figure:
    size = int(table["place_b"].max()) + 1
    matrix = np.full((size, size), np.nan)
    a, b = table["place_a"].to_numpy(), table["place_b"].to_numpy()
    matrix[a, b] = matrix[b, a] = table["angle"]
    np.fill_diagonal(matrix, 0.0)
    figure = Picture(figsize=(6.6, 5.4), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(matrix, cmap="viridis", vmin=0, vmax=np.pi / 2, interpolation="nearest")
    figure.colorbar(image, ax=ax, label="angle (rad)", pad=0.02)
    ends = [table[[f"place_{end}", f"plr_{end}"]].set_axis(["at", "plr"], axis=1) for end in "ab"]
    places = pd.concat(ends).drop_duplicates().groupby("plr")["at"].agg(["min", "max"])
    for edge in places["min"].iloc[1:]:
        ax.axhline(edge - 0.5, color="white", lw=0.6)
        ax.axvline(edge - 0.5, color="white", lw=0.6)
    labelled = places.iloc[:: -(-len(places) // MAX_LABELS)]
    middles, names = labelled.mean(axis=1), [number(float(str(plr))) for plr in labelled.index]
    ax.set_xticks(middles, names, rotation=90, fontsize=8)
    ax.set_yticks(middles, names, fontsize=8)
    ax.set(xlabel="pre-training learning rate (PLR)", ylabel="pre-training learning rate (PLR)")
    ax.tick_params(length=2)
    ax.spines[:].set_visible(False)
    return figure


def _note(table: pd.DataFrame) -> str:
    names = list(dict.fromkeys([*table["series_a"], *table["series_b"]]))
    order = sorted(names, key=lambda name: (name != "pre-trained", name.startswith("k")))
    return f"Seed {table['seed'].iloc[0]}; in each square, in this order: {', '.join(order)}."


MATRIX = Drawing(
    name="angles",
    title="Angles between end points",
    caption=(
        "The angle between the weights of every two end points of one seed, by PLR (white lines). "
        "π/2, yellow, is what independent points have."
    ),
    published="no counterpart; the angles of WDL are those beside the diagonal",
    expected="end points of one PLR of regime 2A are near each other",
    table=_table,
    draw=_draw,
    note=_note,
)
