"""The data of a setting, by kind.

    digits, cifar10, cifar100, fashion-mnist   by name
    npz, folder, hugging-face                  from a path
    tick, ps10, pattern-pairs                  drawn from seeds
    noisy-labels, patched                      any of the above by `base`, changed
    custom                                     from a function of the user's (`custom`)

`dataset = NAME or PATH` is short for the first two lines.
"""

from typing import Annotated, Any

from pydantic import Field

from .changed import NoisyLabels, Patched
from .named import Folder, HuggingFace, Named, Npz
from .own import CustomData
from .synthetic import PS10, PatternPairs, Tick

AnyData = Annotated[
    Named
    | Npz
    | Folder
    | HuggingFace
    | Tick
    | PS10
    | PatternPairs
    | NoisyLabels
    | Patched
    | CustomData,
    Field(discriminator="kind"),
]
DATA: dict[str, type[Any]] = {
    "digits": Named,
    "cifar10": Named,
    "cifar100": Named,
    "fashion-mnist": Named,
    "npz": Npz,
    "folder": Folder,
    "hugging-face": HuggingFace,
    "tick": Tick,
    "ps10": PS10,
    "pattern-pairs": PatternPairs,
    "noisy-labels": NoisyLabels,
    "patched": Patched,
    "custom": CustomData,
}
