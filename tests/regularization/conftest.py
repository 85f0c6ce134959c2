"""What tests of penalties share."""

import pytest


@pytest.fixture
def passes(monkeypatch):
    """``passes(module)``: the sizes of batches that a module sees from now on; it has no hook for that."""

    def watch(module):
        kind, seen = type(module), []
        forward = kind.forward

        def watched(self, x):
            if self is module:
                seen.append(len(x))
            return forward(self, x)

        monkeypatch.setattr(kind, "forward", watched)
        return seen

    return watch
