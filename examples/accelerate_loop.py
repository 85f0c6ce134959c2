"""A regularizer with Hugging Face Accelerate: three lines, marked (1), (2), (3).

    pip install accelerate
    python examples/accelerate_loop.py

Penalties take second derivatives, and look at the network itself: they are given the module that `prepare` has wrapped.
On several processes every one regularizes its own part of the batch, and gradients are averaged as always.
"""

import sys

import torch
from digits import REGULARIZER, accuracy, load, network
from torch.utils.data import DataLoader, TensorDataset

from hilbertnet.regularization import Regularizer

try:
    from accelerate import Accelerator
except ImportError:
    sys.exit("this example needs Accelerate: pip install accelerate")


def main(epochs: int = 15, cpu: bool = False) -> float:
    """Train, and return the accuracy on the test images."""
    accelerator = Accelerator(cpu=cpu)
    x, y, test_x, test_y = load()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    batches = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    regularizer = Regularizer.parse(REGULARIZER).bind(x, generator=0)  # (1)
    accelerator.register_for_checkpointing(regularizer)  # what save_state keeps
    for epoch in range(epochs):
        model.train()
        for images, labels in batches:
            loss, _ = regularizer(model, images, labels)  # (2)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            regularizer.project_(accelerator.unwrap_model(model), epoch)  # (3)
    return accuracy(accelerator.unwrap_model(model).cpu(), test_x, test_y)


if __name__ == "__main__":
    print(f"accuracy with {REGULARIZER}: {100 * main():.1f}%")
