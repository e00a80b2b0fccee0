"""How far features carry: a linear classifier of another data set on what a network has learned.

A reconstruction of the transfer study of arXiv 1908.01878. The features are what the head sees, of
a network in eval mode that is given the target's images as it was given its own: normalised by the
mean and standard deviation of the images that it was trained on. They are standardised over the
target's training images, and classified by multinomial logistic regression with a penalty of half
the squared norm of the weights on the sum of the losses (C = 1): a convex problem with one solution
(the bias but for a constant), which L-BFGS is run towards until no component of the gradient of the
mean loss is above `TOLERANCE`. A fit that does not get there is a failure.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from fasttrain_data import ImageData, open_loader

from ..errors import UsageError
from ..machine.precision import autocast
from ..settings.networks.head import ImageClassifier
from ..settings.networks.modules import fold
from ..settings.networks.own_module import OwnNetwork
from ..training.pack import State
from ..training.workbench import Workbench

TOLERANCE = 1e-6
MOST_ITERATIONS = 20_000
CONSTANT = 1e-6
"""of the root mean square of all features: one that varies less is rounding, and is left out"""


def check_features(workbench: Workbench) -> None:
    """Raise for a network without features that are told apart from its outputs."""
    model = workbench.network(0)
    if isinstance(model, OwnNetwork):
        if not callable(getattr(model.net, "features", None)):
            raise UsageError(
                "transfer: a custom network needs a method features(images), the input of its"
                f" last layer; {type(model.net).__name__} has none"
            )
    elif type(model).features is ImageClassifier.features:
        kind = workbench.config.network.model
        raise UsageError(f"transfer: network {kind!r} has no layer of features before its outputs")


def transferred(workbench: Workbench, states: Sequence[State], target: ImageData) -> pd.DataFrame:
    """Linear classification of the target by the features of models, read out as one pack.

    One row per model: model (its place in `states`), num_features, train_accuracy and accuracy, on
    the target's test set.
    """
    model = workbench.new_model(0, len(states))
    model.load_state_dict(fold(states))
    model.eval()
    train, test = (_features(workbench, model, target, split) for split in ("train", "test"))
    rows = []
    for place in range(len(states)):
        right = classify(train[place], target.train_labels, test[place], target.test_labels)
        size = {"model": place, "num_features": train.shape[-1]}
        rows.append(size | dict(zip(("train_accuracy", "accuracy"), right, strict=True)))
    return pd.DataFrame(rows)


@torch.no_grad()
def _features(
    workbench: Workbench, model: ImageClassifier, target: ImageData, split: str
) -> np.ndarray:
    """Of every model, in the order of the images: (num_models, N, features) fp64."""
    images, labels = target.split(split)
    # Training images in their own order, and as the network was given its own.
    shown = dataclasses.replace(
        target,
        test_images=images,
        test_labels=labels,
        mean=workbench.data.mean,
        std=workbench.data.std,
        probes={},
        patches={},
    )
    batch_size = workbench.test_loader.settings.batch_size
    parts = []
    for batch, _ in open_loader(
        shown, "test", batch_size=batch_size, device=workbench.device
    ).epoch(0):
        with autocast(workbench.precision, workbench.device):
            found = model.features(batch)
        parts.append(found.unflatten(1, (model.num_models, -1)).double().cpu())
    return torch.cat(parts).transpose(0, 1).contiguous().numpy()


def classify(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[float, float]:
    """Accuracy of the linear classifier on its training set (N, features) and on a test set.

    Raises:
        RuntimeError: it has not converged.
    """
    # scikit-learn takes a second to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = train.mean(axis=0), train.std(axis=0)
    varying = std > CONSTANT * np.sqrt((train**2).mean())
    if not varying.any():
        # Nothing is known of an image: the commonest class.
        guess = np.bincount(labels).argmax()
        return float((labels == guess).mean()), float((test_labels == guess).mean())
    train, test = (((x - mean) / np.where(varying, std, 1))[:, varying] for x in (train, test))
    classifier = LogisticRegression(C=1.0, tol=TOLERANCE, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            classifier.fit(train, labels)
        except ConvergenceWarning:
            raise RuntimeError(
                f"the linear classifier has not converged in {MOST_ITERATIONS} iterations"
            ) from None
    return float(classifier.score(train, labels)), float(classifier.score(test, test_labels))
