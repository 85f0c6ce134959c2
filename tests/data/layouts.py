"""Small files in the official layouts, sound until a test breaks them."""

import gzip
import struct

import numpy as np

from hilbertnet.data import cifar10


def idx_bytes(records):
    """An idx file of unsigned bytes."""
    records = np.asarray(records, np.uint8)
    return struct.pack(f">{1 + records.ndim}I", 0x800 + records.ndim, *records.shape) + records.tobytes()


class Small:
    """MNIST and CIFAR-10 of a few examples, with what was written kept beside."""

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.RandomState(0)
        self.mnist = {}
        for stem, n in (("train", 20), ("t10k", 10)):
            self.mnist[f"{stem}-images-idx3-ubyte"] = rng.randint(0, 256, (n, 28, 28)).astype(np.uint8)
            self.mnist[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
        self.cifar = {f"data_batch_{i}.bin": rng.randint(0, 256, (10, 3073)).astype(np.uint8) for i in range(1, 6)}
        self.cifar["test_batch.bin"] = rng.randint(0, 256, (10, 3073)).astype(np.uint8)
        for records in self.cifar.values():
            records[:, 0] = np.arange(10)

    def write_mnist(self, folder=None, zipped=True):
        """The four files, and the folder they are in."""
        folder = folder or self.folder / "mnist"
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in self.mnist.items():
            content = idx_bytes(records)
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
        return folder

    def write_cifar(self, folder=None):
        """The seven files, and the folder they are in."""
        folder = folder or self.folder / "cifar-10-batches-bin"
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in self.cifar.items():
            (folder / name).write_bytes(records.tobytes())
        (folder / "batches.meta.txt").write_text("\n".join(cifar10._NAMES) + "\n\n")
        return folder
