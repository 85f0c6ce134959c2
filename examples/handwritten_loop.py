"""A regularizer in a training loop of one's own: three lines, marked (1), (2), (3).

python examples/handwritten_loop.py
"""

import torch
from digits import REGULARIZER, accuracy, load, network
from torch.utils.data import DataLoader, TensorDataset

from hilbertnet.regularization import Regularizer


def main(epochs: int = 15) -> float:
    """Train, and return the accuracy on the test images."""
    x, y, test_x, test_y = load()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    batches = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    regularizer = Regularizer.parse(REGULARIZER).bind(x, generator=0)  # (1)
    for epoch in range(epochs):
        model.train()
        for images, labels in batches:
            loss, _ = regularizer(model, images, labels)  # (2) in the place of cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            regularizer.project_(model, epoch)  # (3)
    return accuracy(model, test_x, test_y)


if __name__ == "__main__":
    print(f"accuracy with {REGULARIZER}: {100 * main():.1f}%")
