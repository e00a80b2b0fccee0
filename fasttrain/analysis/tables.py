from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Grid:
    setup: str
    configuration: dict[str, Any]
    stages: pd.DataFrame
    epochs: pd.DataFrame
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    paths: pd.DataFrame = field(default_factory=pd.DataFrame)
    angles: pd.DataFrame = field(default_factory=pd.DataFrame)
    norms: pd.DataFrame = field(default_factory=pd.DataFrame)
    histograms: pd.DataFrame = field(default_factory=pd.DataFrame)
    sharpness: pd.DataFrame = field(default_factory=pd.DataFrame)
    bands: pd.DataFrame = field(default_factory=pd.DataFrame)
