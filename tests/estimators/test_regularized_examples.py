"""The scripts of ``examples/``: each trains with the same regularizer, to the same network."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
LIBRARIES = {"lightning_module": "lightning", "accelerate_loop": "accelerate"}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name):
        for module in (name, "digits"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        with torch.random.fork_rng():
            return importlib.import_module(name)

    with torch.random.fork_rng():
        yield load
    for module in ("handwritten_loop", *LIBRARIES, "digits"):
        sys.modules.pop(module, None)


def test_a_loop_of_ones_own_learns_and_stays_in_the_set(example, monkeypatch):
    module = example("handwritten_loop")
    kept = []
    network = module.network
    monkeypatch.setattr(module, "network", lambda: kept.append(network()) or kept[-1])
    monkeypatch.setattr(module, "REGULARIZER", "0.1*delta(0.2, screen=8) + sn(2.0, kappa=0.1)")
    assert module.main(epochs=6) > 0.4
    weights = [layer.weight.detach().flatten(1) for layer in kept[0] if hasattr(layer, "weight")]
    assert len(weights) == 3
    assert max(torch.linalg.matrix_norm(weight, 2) for weight in weights) > 1.99, "a test of nothing"
    assert all(torch.linalg.matrix_norm(weight, 2) <= 2.0 * (1 + 1e-5) for weight in weights)


@pytest.mark.filterwarnings("default")  # those of the library are not ours
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_train_the_same_network(name, example):
    pytest.importorskip(LIBRARIES[name])
    expected = example("handwritten_loop").main(epochs=2)
    how = {"accelerator": "cpu"} if name == "lightning_module" else {"cpu": True}
    assert example(name).main(epochs=2, **how) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_absent_is_named(name):
    if importlib.util.find_spec(LIBRARIES[name]) is not None:
        pytest.skip("it is here")
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pip install {LIBRARIES[name]}" in done.stderr
    assert "Traceback" not in done.stderr
