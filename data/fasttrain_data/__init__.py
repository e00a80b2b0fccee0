"""Data sets as uint8 arrays, and loaders that keep them where the compute is."""

from fasttrain_data.errors import DataError, DataUnavailable
from fasttrain_data.images import ImageData
from fasttrain_data.randomness import epoch_order
from fasttrain_data.resident import Augment, ResidentLoader, open_loader
from fasttrain_data.sources import DATASETS, cache_dir, load

__all__ = [
    "DATASETS",
    "Augment",
    "DataError",
    "DataUnavailable",
    "ImageData",
    "ResidentLoader",
    "cache_dir",
    "epoch_order",
    "load",
    "open_loader",
]
