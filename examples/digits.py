"""What the three examples share: scikit-learn's digits and a small network."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

REGULARIZER = "0.1*delta(0.2, probe=2) + sn(4.0)"


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """300 training images with labels, and the others: images (n, 1, 8, 8) in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(x / 16).float().reshape(-1, 1, 8, 8), torch.from_numpy(y)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:300], order[300:]
    return images[train], labels[train], images[test], labels[test]


def network() -> nn.Module:
    """From images to logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the images that are classified well."""
    return float((model.eval()(x).argmax(1) == y).float().mean())
