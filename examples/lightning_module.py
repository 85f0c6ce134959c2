"""A regularizer in a Lightning module: three lines, marked (1), (2), (3).

pip install lightning
python examples/lightning_module.py
"""

import sys
from typing import Any

import torch
from digits import REGULARIZER, accuracy, load, network
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from hilbertnet.regularization import Regularizer

try:
    import lightning
except ImportError:
    sys.exit("this example needs Lightning: pip install lightning")


class RegularizedModule(lightning.LightningModule):
    """A network whose training loss is regularized; what the regularizer has reached is kept in checkpoints."""

    def __init__(self, x_train: Tensor) -> None:
        super().__init__()
        self.network = network()
        self.regularizer = Regularizer.parse(REGULARIZER).bind(x_train, generator=0)  # (1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss with its penalties."""
        loss, _ = self.regularizer(self.network, *batch)  # (2)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """After the optimizer's step."""
        self.regularizer.project_(self.network, self.current_epoch)  # (3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Stochastic gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random numbers and warm-started vectors go on where they were."""
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.regularizer.load_state_dict(checkpoint["regularizer"])


def main(epochs: int = 15, **trainer: Any) -> float:
    """Train, and return the accuracy on the test images."""
    x, y, test_x, test_y = load()
    module = RegularizedModule(x)
    batches = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"accelerator": "auto", "devices": 1, **quiet, **trainer}
    lightning.Trainer(max_epochs=epochs, **settings).fit(module, batches)
    return accuracy(module.network.cpu(), test_x, test_y)


if __name__ == "__main__":
    print(f"accuracy with {REGULARIZER}: {100 * main():.1f}%")
