"""Studies of chains, as files."""

from pathlib import Path

SETTING = """
[data]
dataset = "digits"
n_train = 150
n_test = 50
[network]
width = 2
[training]
batch_size = 50
"""
SGD = '[optimizer]\nkind = "sgd"\nmomentum = 0.9\nnesterov = true\nweight_decay = 1e-3\n'
THREE = """
[experiment]
kind = "chain"
legs = [
    { lr = [1e-2, 2e-2], epochs = 2 },
    { lr = 1e-3, epochs = 1, inherit = "optimizer" },
    { lr = [1e-3, 2e-3], epochs = 2, weight_decay = [0, 1e-2], k = 2 },
]
"""


def study(folder: Path, text: str, optimizer: str = SGD) -> Path:
    path = folder / "study.toml"
    path.write_text(SETTING + optimizer + text)
    return path
