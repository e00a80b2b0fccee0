"""`SphereSGD` and `NormReLUPool` in a LightningModule: the digits of scikit-learn, 8x8 pixels.

pip install lightning scikit-learn
python docs/examples/with_lightning.py --epochs 5
"""

import argparse

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fasttrain_kernels import NormReLUPool, SphereSGD


class Classifier(lightning.LightningModule):
    def __init__(self, width: int = 16, elr: float = 1e-3) -> None:
        super().__init__()
        self.elr = elr
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = NormReLUPool(width), NormReLUPool(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.conv1(images), 2)
        return self.head(self.norm2(self.conv2(x), 4).flatten(1))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        convs = [p for p in self.parameters() if p.ndim == 4]
        groups = [
            {"params": convs},
            {"params": list(self.head.parameters()), "sphere": False, "lr": 0.1},
        ]
        optimizer = SphereSGD(groups, elr=self.elr, momentum=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1797)
    options = parser.parse_args()
    lightning.seed_everything(0)
    digits = load_digits()
    images = torch.tensor(digits.images[: options.images, None], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target[: options.images])
    loader = DataLoader(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    model.eval()
    hits = (model(images).argmax(1) == labels).float().mean()
    print(
        f"loss {trainer.callback_metrics['loss']:.3f}, accuracy {hits:.1%} of the training images"
    )


if __name__ == "__main__":
    main()
