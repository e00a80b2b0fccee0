"""Data that a function of the user's makes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..custom import Factory, FromFactory, Options, call, not_one, source_digest
from .part import Data

if TYPE_CHECKING:
    from fasttrain_data import ImageData


@dataclass(frozen=True, kw_only=True)
class CustomData(FromFactory, Data):
    """`factory(**options)`: an `ImageData`, or a mapping of the arrays that an .npz may hold."""

    kind: Literal["custom"] = "custom"
    factory: Factory
    """package.module:function"""
    options: Options = field(default_factory=dict)
    """keyword arguments of the function"""

    @property
    def dataset(self) -> str:
        return self.factory

    @property
    def source(self) -> str:
        """Digest of the factory's source."""
        return source_digest(self.factory, "data.factory")

    def check(self, root: Path | None) -> None:
        """Nothing: a factory may need torch, and is called when images are."""

    def load(self, root: Path | None) -> "ImageData":
        from fasttrain_data import ImageData
        from fasttrain_data.sources.arrays import images_of

        made = call(self.factory, "data.factory", options=self.options)
        if isinstance(made, ImageData):
            return made
        if not isinstance(made, dict):
            needed = (
                "an ImageData, or a dict of train_images, train_labels, test_images, test_labels"
            )
            raise not_one(made, self.factory, "data.factory", needed)
        name = self.factory.partition(":")[2]
        return images_of(made, name, f"data.factory = {self.factory!r}")
