"""State dictionaries there and back, and what is refused."""

import collections

import pytest
import torch

from hilbertnet.states import load_state, save_state

NESTS = {
    "empty": {},
    "numbers": {"a": 1, "b": -2.5, "c": True, "d": None, "e": "text", "inf": float("inf")},
    "number keys": {0: {"step": torch.tensor(3.0)}, 1: {}},
    "tuples": {"betas": (0.9, 0.999), "list": [1, (2, [3])]},
    "words that the format uses": {"tensor": "0", "tuple": [1], "items": {"float": "nan"}},
    "tensors": {"t": torch.arange(6).reshape(2, 3), "scalar": torch.tensor(1.5, dtype=torch.float64)},
}


def equal(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(equal, one, two))
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("name", NESTS)
def test_there_and_back(name, tmp_path):
    save_state(tmp_path / "s", NESTS[name], "kind")
    assert equal(load_state(tmp_path / "s", "kind"), NESTS[name])


def test_counters_and_shared_tensors(tmp_path):
    shared = torch.ones(3)
    save_state(tmp_path / "s", {"c": collections.Counter([1, 1, 4]), "x": shared, "y": shared.view(3)}, "kind")
    found = load_state(tmp_path / "s", "kind")
    assert found["c"] == {1: 2, 4: 1}
    assert torch.equal(found["x"], found["y"])


def test_what_is_no_data_is_refused_by_its_place(tmp_path):
    with pytest.raises(ValueError, match=r"kind\.a\[1\]\.f: expected tensors, numbers and texts, got function"):
        save_state(tmp_path / "s", {"a": [0, {"f": lambda: 0}]}, "kind")
    assert not list(tmp_path.iterdir())


def test_another_kind_is_refused(tmp_path):
    save_state(tmp_path / "s", {}, "one")
    with pytest.raises(ValueError, match="expected a two"):
        load_state(tmp_path / "s", "two")
