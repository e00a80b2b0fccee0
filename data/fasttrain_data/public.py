"""Everything that `fasttrain_data` offers under its own name."""

from fasttrain_data.batches import Augment, Loader
from fasttrain_data.catalogue import DATASETS, cache_dir
from fasttrain_data.errors import DataError, DataUnavailable
from fasttrain_data.ffcv.file import Beton
from fasttrain_data.ffcv.manifest import Manifest
from fasttrain_data.ffcv.writer import write_beton
from fasttrain_data.images import ImageData
from fasttrain_data.labels import MappedLabels, RandomLabels, relabelled
from fasttrain_data.loader import open_loader
from fasttrain_data.patches import Patches, patched
from fasttrain_data.rand_augment import RandAugment
from fasttrain_data.randomness import epoch_order
from fasttrain_data.sources.named import load

__all__ = [
    "DATASETS",
    "Augment",
    "Beton",
    "DataError",
    "DataUnavailable",
    "ImageData",
    "Loader",
    "Manifest",
    "MappedLabels",
    "Patches",
    "RandAugment",
    "RandomLabels",
    "cache_dir",
    "epoch_order",
    "load",
    "open_loader",
    "patched",
    "relabelled",
    "write_beton",
]
