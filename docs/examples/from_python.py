"""A grid from Python: train it, look at it, take the best network out, and see what it confuses.

    python docs/examples/from_python.py                         # digits; a few minutes on two cores
    python docs/examples/from_python.py --epochs 3 --plr 1e-2 1e-1

Run it again to resume it, or with other rates to add to it: what is finished stays. There is no
`if __name__ == "__main__"`: workers do not run this file again.
"""

import argparse
from collections import Counter

import fasttrain as ft
from fasttrain_data import load

parser = argparse.ArgumentParser(description="a grid from Python")
parser.add_argument("--plr", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2, 1e-1])
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--store", default="runs/from-python")
parser.add_argument("--quiet", action="store_true", help="no live table")
options = parser.parse_args()

study = ft.study(
    "digits",
    plr=options.plr,
    flr=[1e-3],
    k=[5],
    epochs=options.epochs,
    finetune_epochs=max(1, options.epochs // 2),
)
results = ft.sweep(study, store=options.store, quiet=options.quiet)

table = results.stages.pivot_table("test_accuracy", "plr", "kind")
print(table.to_string(float_format=lambda accuracy: f"{accuracy:.1%}"))
results.figure("accuracy").savefig("accuracy.png")

best = results.stages.sort_values("test_accuracy").iloc[-1]
model = ft.load_model(options.store, best["stage"])
digits = load("digits")
guesses = model.predict(digits.test_images).tolist()
pairs = zip(digits.test_labels.tolist(), guesses, strict=True)
confused = Counter((label, guess) for label, guess in pairs if label != guess)
print(f"best: {best['kind']} from PLR {best['plr']:g}, {best['test_accuracy']:.1%}")
print("confused:", ", ".join(f"{a} for {b}: {n}" for (b, a), n in confused.most_common(3)))
