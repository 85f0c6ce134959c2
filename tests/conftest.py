"""One thread for each test worker: the tensors here are too small to share. Ctrl-C as on a terminal."""

import os
import signal

for library in ("OMP", "MKL", "OPENBLAS"):  # before torch and numpy load, and for the processes that tests start
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background, where the processes that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def data_folder():
    folder = os.environ.get("HILBERTNET_DATA")
    if not folder:
        pytest.skip("HILBERTNET_DATA names no folder of data sets")
    return folder
