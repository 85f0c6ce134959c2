"""Norms kept at 1 by torch's own parametrizations: against dense decompositions; what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from hilbertnet.regularization.parametrized import parametrize_

X = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3),
            nn.BatchNorm2d(6),
            nn.ConvTranspose2d(6, 2, 3, stride=2, output_padding=1),
            nn.Flatten(),
            nn.Linear(200, 4),
        )


def singular_values(layer):
    weight = layer.weight.detach().double()
    return torch.linalg.svdvals(
        (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)
    )


def test_torch_s_spectral_norm_on_all_layers():
    model = network()
    state = torch.random.get_rng_state()
    assert parametrize_(model, "spectral_norm", generator=0) is model
    assert torch.equal(torch.random.get_rng_state(), state)
    for _ in range(50):
        model(X)
    for layer in (model.eval()[0], model[2], model[4]):
        assert parametrize.is_parametrized(layer, "weight")
        assert singular_values(layer)[0].item() == pytest.approx(1, rel=1e-3)
    layer = nn.Linear(50, 50)
    twins = [parametrize_(copy.deepcopy(layer), "spectral_norm", generator=seed) for seed in (1, 1, 2)]
    first, same, other = (twin.parametrizations.weight[0]._u for twin in twins)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_torch_s_orthogonal_on_linear_layers():
    model = parametrize_(network(), "orthogonal")
    torch.testing.assert_close(singular_values(model[-1]), torch.ones(4).double(), rtol=1e-5, atol=0)
    assert not parametrize.is_parametrized(model[0])


def test_parametrizations_that_are_refused():
    with pytest.raises(
        ValueError, match=r"^kind: expected one of spectral_norm, orthogonal, got 'orthogonall'; did you"
    ):
        parametrize_(network(), "orthogonall")
    with pytest.raises(ValueError, match=r"^iterations: expected a whole number of at least 1, got 0"):
        parametrize_(network(), "spectral_norm", iterations=0)
    with pytest.raises(ValueError, match=r"^model: expected linear layers"):
        parametrize_(nn.Conv2d(2, 2, 2), "orthogonal")
    with pytest.raises(ValueError, match=r"^model: 0.weight is parametrized already"):
        parametrize_(parametrize_(nn.Sequential(nn.Linear(2, 2)), "orthogonal"), "spectral_norm")
    layer = nn.Linear(2, 2)
    twin = nn.Linear(2, 2)
    twin.weight = layer.weight
    with pytest.raises(ValueError, match=r"^model: 0 and 1 share a weight"):
        parametrize_(nn.Sequential(layer, twin), "spectral_norm")
