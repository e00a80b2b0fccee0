"""P and Q patterns over the dimension d: what large and small initial rates learn (1907.04595).

    python docs/examples/pattern_pairs_over_d.py              # a few minutes on two cores
    python docs/examples/pattern_pairs_over_d.py --d 50 100 --seeds 3

Preset pattern-pairs at every d with N = d / kappa^2 samples: errors on inputs that have P or Q
alone, when a run first fits its whole training set and at its end; mean and sample standard
deviation over seeds. A reconstruction: no simulation was published. Run again, it resumes.
"""

import argparse
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd

import fasttrain as ft

parser = argparse.ArgumentParser(description="pattern pairs over d")
parser.add_argument("--d", type=int, nargs="+", default=[25, 50, 100, 200])
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--store", default="runs/pattern-pairs-over-d")
parser.add_argument("--figure", default="pattern-pairs-over-d.png")
options = parser.parse_args()


def rows_of(d: int) -> Iterator[dict[str, object]]:
    """Error on P and Q alone, by schedule, seed and moment."""
    store = f"{options.store}/{d}"
    data = {"kind": "pattern-pairs", "d": d, "kappa": 1.0, "radius": 1.0}
    study = ft.study("pattern-pairs", data=data, batch_size=d, seeds=options.seeds)
    results = ft.sweep(study, store=store)
    stages = results.stages
    legs = stages.set_index("stage")
    scores = ft.load_sets(store).merge(results.epochs[["stage", "epoch", "train_accuracy"]])
    for leaf in stages.loc[~stages["stage"].isin(stages["parent"]), "stage"]:
        way = [leaf, legs.at[leaf, "parent"]]
        line = scores[scores["stage"].isin(way)].sort_values("epoch")
        fitted = line.loc[line["train_accuracy"] == 1, "epoch"]
        moments = {"at the end": line["epoch"].max()}
        if len(fitted):
            moments["when the training set is first fitted"] = fitted.min()
        schedule = "large, then small" if ">" in legs.at[leaf, "path"] else "small"
        for moment, epoch in moments.items():
            at = line[line["epoch"] == epoch].set_index("set")["accuracy"]
            for name in ("p-only", "q-only"):
                about = {"d": d, "schedule": schedule, "moment": moment, "pattern": name}
                yield {**about, "error": 100 * (1 - at[name])}


errors = pd.DataFrame([row for d in options.d for row in rows_of(d)])
keys = ["moment", "pattern", "schedule", "d"]
means = errors.groupby(keys)["error"].agg(["mean", "std", "count"])
print(means.round(2).to_string())
moments = sorted(errors["moment"].unique(), reverse=True)
figure, axes = plt.subplots(1, len(moments), sharey=True, figsize=(4.5 * len(moments), 3.5))
colours = {"large, then small": "C3", "small": "C0"}
for ax, moment in zip(axes, moments, strict=True):
    for (name, schedule), line in means.loc[moment].groupby(level=["pattern", "schedule"]):
        line = line.droplevel(["pattern", "schedule"])
        dashes = "-" if name == "p-only" else ":"
        style = {"color": colours[schedule], "ls": dashes, "marker": "o", "capsize": 3}
        ax.errorbar(line.index, line["mean"], line["std"], label=f"{name}, {schedule}", **style)
    ax.set(title=moment, xlabel="d (N = d)", xscale="log")
axes[0].set_ylabel("test error (%)")
axes[0].legend()
figure.tight_layout()
figure.savefig(options.figure, dpi=150)
