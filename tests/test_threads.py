"""The number of threads, for a while."""

import pytest
import torch

from hilbertnet.threads import threads


def test_as_many_as_before_afterwards():
    before, inside = torch.get_num_threads(), []
    with pytest.raises(AttributeError), threads(before + 1):
        inside.append(torch.get_num_threads()).wrong()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_none_leaves_torch_alone(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", None)  # setting as many as there are would change what numpy does
    with threads(None):
        pass


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_bad_counts(count):
    with pytest.raises(ValueError, match="threads: expected a whole number of at least 1 or None, got"), threads(count):
        pass
