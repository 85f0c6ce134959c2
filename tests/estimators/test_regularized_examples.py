"""The scripts of ``examples/``: each trains with the same regularizer, to the same network."""

import importlib
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
    monkeypatch.setattr(module, "REGULARIZER", "0.1*delta(0.2, probe=2) + sn(2.0, kappa=0.1)")
    images, labels, *test = module.load()
    monkeypatch.setattr(module, "load", lambda: (images[:120], labels[:120], *(part[:300] for part in test)))
    assert module.main(epochs=8) > 0.25
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
def test_a_library_that_is_absent_is_named(name, example, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)  # as if it were
    with pytest.raises(SystemExit, match=f"pip install {LIBRARIES[name]}"):
        example(name)


def test_the_examples_have_the_three_lines():
    for name in ("handwritten_loop", *LIBRARIES):
        lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
        for mark, word in (("(1)", ".bind("), ("(2)", "loss, _ = "), ("(3)", ".project_(")):
            marked = [line for line in lines if f"# {mark}" in line]
            assert len(marked) == 1
            assert word in marked[0]
