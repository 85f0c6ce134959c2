"""What CKNs and random-feature networks share: batches, and a cost that is said once."""

import numpy as np
import pytest
import torch

from hilbertnet.networks import CKN, RandomFeatureNet, features
from hilbertnet.networks.features import FeatureNet

TEXT = "3 exp(0.6) gauss2 | 3 arccos1 gauss2"
KINDS = [CKN, RandomFeatureNet]


def images(n, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def three_at_once(monkeypatch):
    monkeypatch.setattr(features, "_BATCH_BYTES", 4 * 6 * 64 * 3)


@pytest.fixture
def slow_clock(monkeypatch):
    """Every look at the clock is a minute later."""
    ticks = iter(range(0, 10**6, 60))
    monkeypatch.setattr(features.time, "perf_counter", lambda: float(next(ticks)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_of_features_is_said_once_for_each_network(kind, three_at_once, slow_clock, caplog):
    first, second = (kind(TEXT, 1, (6, 8), generator=seed) for seed in (0, 1))
    for _ in range(3):
        first.encode(images(11), progress=False)
    assert [record.message for record in caplog.records] == [
        "features of 11 signals: 11 x 32 numbers, 1.41 kB, in about 2 minutes"
    ]
    second.encode(images(11), progress=False)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_computation_says_nothing(kind, three_at_once, caplog):
    kind(TEXT, 1, (6, 8), generator=0).encode(images(11), progress=False)
    assert not caplog.records


@pytest.mark.parametrize("kind", KINDS)
def test_batches_do_not_change_the_features(kind, three_at_once):
    net, x, steps = kind(TEXT, 1, (6, 8), generator=0).double(), images(10).double(), []
    found = net.encode(x.numpy(), progress=lambda done, total: steps.append((done, total)))
    assert len(steps) > 4
    np.testing.assert_allclose(found.numpy(), net(x).flatten(1).numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_the_same_kind_of_network(kind):
    net = kind(TEXT, 1, (6, 8), generator=0)
    assert isinstance(net, FeatureNet)
    assert net.widths == (6, 8)
    assert net.output_shape((9, 8)) == tuple(net(torch.rand(1, 1, 9, 8))[0].shape)
    assert net.double().dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("3 exp(0.6) - | 3 exp(0.6) -", 0, 2), "^in_channels: expected a whole number of at least 1, got 0"),
        (("3 exp(0.6) - | 3 exp(0.6) -", True, 2), "^in_channels: expected a whole number of at least 1, got True"),
        (("3 exp(0.6) - | 3 exp(0.6) -", 1, 3), "^axes: expected 1 .signals. or 2 .images., got 3"),
        ((7, 1, 2), "^arch: expected an Architecture or its text form, got 7"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, message):
    arch, channels, axes = arguments
    with pytest.raises(ValueError, match=message):
        kind(arch, channels, (6, 8), axes=axes)


def test_the_base_has_no_layers_of_its_own():
    with pytest.raises(NotImplementedError):
        FeatureNet(TEXT, 1, 2).widths  # noqa: B018
