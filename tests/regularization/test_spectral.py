"""Penalties on the weights: against dense decompositions, torch's own spectral norm and hand-written iterations."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from hilbertnet.regularization.spectral import SpectralPenalty, WeightDecay
from hilbertnet.states import load_state, save_state

X, Y = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
TERMS = [SpectralPenalty(), SpectralPenalty(0), WeightDecay()]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Conv1d(4, 6, 3, dilation=2),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular"),
    lambda: nn.Conv2d(4, 6, (3, 2), groups=2),
    lambda: nn.Conv3d(2, 3, 2),
    lambda: nn.ConvTranspose1d(5, 4, 3),
    lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    lambda: nn.ConvTranspose3d(2, 3, 2, stride=2),
]


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network(seed=0, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(384, 3),
        ).to(dtype)


def matrix(layer):
    """The weight as a matrix, entry by entry."""
    weight = layer.weight.detach().double().numpy()
    if "Transpose" in type(layer).__name__:
        weight = np.stack([weight[:, i] for i in range(weight.shape[1])])
    return weight.reshape(len(weight), -1)


def weights(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def bound(term, seed=0):
    return term.bind(X, seed)


@pytest.mark.parametrize("make", LAYERS)
def test_one_layer_of_each_kind_against_numpy(make):
    layer = make()
    largest = np.linalg.svd(matrix(layer), compute_uv=False)[0]
    assert bound(SpectralPenalty(0))(layer, X, Y).item() == pytest.approx(largest**2, rel=1e-5)
    penalty = bound(SpectralPenalty(200))
    assert penalty(layer, X, Y).item() == pytest.approx(largest**2, rel=1e-5)
    squares = sum(w**2 for w in layer.weight.flatten().tolist())
    assert bound(WeightDecay())(layer, X, Y).item() == pytest.approx(squares / 2, rel=1e-5)


@pytest.mark.parametrize("make", LAYERS)
def test_the_matrix_is_that_of_torch_s_own_spectral_norm(make):
    layer = make().double()
    exact = bound(SpectralPenalty(0))(layer, X, Y).item()
    before = layer.weight.detach().clone()
    layer = parametrizations.spectral_norm(layer, n_power_iterations=300).eval()
    ratio = float(before.norm() / layer.weight.detach().norm())
    assert ratio**2 == pytest.approx(exact, rel=1e-6)


def test_layers_add_up_and_the_last_one_counts():
    model = network()
    exact = sum(np.linalg.svd(matrix(layer), compute_uv=False)[0] ** 2 for layer in weights(model))
    assert bound(SpectralPenalty(0))(model, X, Y).item() == pytest.approx(exact, rel=1e-5)
    squares = sum(float(layer.weight.detach().square().sum()) for layer in weights(model))
    assert bound(WeightDecay())(model, X, Y).item() == pytest.approx(squares / 2, rel=1e-5)


def test_iterations_are_those_of_a_hand_written_loop_and_go_on_where_they_ended():
    layer = nn.Linear(9, 7).double()
    penalty, w = bound(SpectralPenalty(2), 3), layer.weight.detach()
    u = torch.randn(7, dtype=torch.float64, generator=bound(SpectralPenalty(2), 3).rng)
    for _ in range(4):
        for _ in range(2):
            v = nn.functional.normalize(w.T @ u, dim=0)
            u = nn.functional.normalize(w @ v, dim=0)
        assert penalty(layer, X, Y).item() == pytest.approx(float(u @ w @ v) ** 2, rel=1e-12)


def test_the_estimate_rises_to_the_norm_from_below():
    model = network(dtype=torch.float64)
    exact = bound(SpectralPenalty(0))(model, X, Y).item()
    penalty = bound(SpectralPenalty())
    values = [penalty(model, X, Y).item() for _ in range(100)]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(values))
    assert values[0] < exact * (1 - 1e-3)
    assert values[-1] == pytest.approx(exact, rel=1e-4)


def test_the_gradient_is_twice_sigma_u_v():
    layer = nn.Linear(6, 5).double()
    for term in (SpectralPenalty(0), SpectralPenalty(500)):
        (found,) = torch.autograd.grad(bound(term)(layer, X, Y), layer.weight)
        u, s, vt = torch.linalg.svd(layer.weight.detach())
        torch.testing.assert_close(found, 2 * s[0] * torch.outer(u[:, 0], vt[0]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("term", [SpectralPenalty(0), SpectralPenalty(9), WeightDecay()])
def test_gradcheck(term):
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.ConvTranspose1d(2, 1, 2), nn.Linear(3, 2)).double()
    penalty = bound(term)
    for _ in range(30):
        penalty(model, X, Y)
    names = [name for name, _ in model.named_parameters()]

    def value(*parameters):
        return torch.func.functional_call(
            Around(penalty, model), {f"model.{n}": p for n, p in zip(names, parameters, strict=True)}, ()
        )

    assert torch.autograd.gradcheck(value, tuple(model.parameters()), rtol=1e-4, atol=1e-6)


class Around(nn.Module):
    """Makes a penalty the forward pass, for `functional_call`."""

    def __init__(self, penalty, model):
        super().__init__()
        self.penalty, self.model = penalty, model

    def forward(self):
        return self.penalty(self.model, X, Y)


@pytest.mark.parametrize("term", TERMS)
def test_the_model_is_left_as_it_was(term):
    model = network().train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    value = bound(term)(model, X, Y)
    value.backward()  # by the caller alone
    gradients = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    bound(term)(model, X, Y)
    assert all(p.grad is None for p in model.parameters())
    assert gradients == {"0.weight", "4.weight", "7.weight"}
    assert [m.training for m in model] == [True, False, True, True, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("term", TERMS)
def test_neither_the_batch_nor_autocast_plays_a_part(term):
    model = network()
    plain = bound(term)(model, X, Y)
    assert torch.equal(bound(term)(model, X.flip(0).double(), Y.flip(0)), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = bound(term)(model, X, Y, model(X))
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("term", TERMS)
def test_weights_in_half_precision_are_taken_to_float32(term):
    model = network().to(torch.bfloat16)
    wide = copy.deepcopy(model).float()
    value = bound(term)(model, X, Y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, bound(term)(wide, X, Y))


@pytest.mark.parametrize("term", TERMS)
def test_zero_weights_give_zero_and_no_nan(term):
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    penalty = bound(term)
    value = penalty(layer, X, Y)
    (gradient,) = torch.autograd.grad(value, layer.weight)
    assert value == 0
    assert torch.equal(gradient, torch.zeros(3, 4))
    nn.init.ones_(layer.weight)
    assert penalty(layer, X, Y).item() == pytest.approx(6 if isinstance(term, WeightDecay) else 12)


def test_a_vector_that_the_weight_does_not_see_is_replaced():
    layer, penalty = nn.Linear(2, 2).double(), bound(SpectralPenalty())
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    penalty(layer, X, Y)
    layer.weight.data = torch.tensor([[0.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    assert penalty(layer, X, Y).item() == pytest.approx(9)


def test_tiny_and_huge_weights():
    for scale in (1e-30, 1e18):
        layer = nn.Linear(5, 4).double()
        layer.weight.data *= scale
        exact = bound(SpectralPenalty(0))(layer, X, Y).item()
        assert bound(SpectralPenalty(200))(layer, X, Y).item() == pytest.approx(exact)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_give_no_error(term, bad):
    model, penalty = network(), bound(term)
    good = penalty(model, X, Y)
    kept = model[0].weight.data.clone()
    model[0].weight.data[0, 0, 0, 0] = bad
    assert not torch.isfinite(penalty(model, X, Y))
    model[0].weight.data = kept
    torch.testing.assert_close(penalty(model, X, Y), good, rtol=0.3, atol=0)


@pytest.mark.parametrize("term", TERMS)
def test_shared_weights_count_once(term):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    torch.testing.assert_close(bound(term)(model, X, Y), bound(term)(first, X, Y))


def test_parametrized_weights_count_as_the_layer_uses_them():
    layer = nn.Linear(4, 3).double()
    plain = layer.weight.detach().clone()
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data *= 2
    value = bound(SpectralPenalty(0))(layer, X, Y)
    assert value.item() == pytest.approx(4 * float(torch.linalg.matrix_norm(plain, 2)) ** 2)
    assert all(g is not None for g in torch.autograd.grad(value, list(layer.parametrizations.weight.parameters())))
    normed = parametrizations.spectral_norm(nn.Linear(4, 3)).train()
    before = copy.deepcopy(normed.state_dict())
    assert bound(SpectralPenalty(0))(normed, X, Y).item() == pytest.approx(1, rel=0.05)
    assert all(torch.equal(v, before[name]) for name, v in normed.state_dict().items())


def test_a_step_with_weight_decay_is_that_of_the_optimizer():
    ours, theirs = network(), network()
    (0.3 * bound(WeightDecay())(ours, X, Y)).backward()
    torch.optim.SGD(ours.parameters(), lr=0.1).step()
    for p in theirs.parameters():
        p.grad = torch.zeros_like(p)
    torch.optim.SGD([layer.weight for layer in weights(theirs)], lr=0.1, weight_decay=0.3).step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_state_goes_through_a_file(tmp_path):
    model, penalty = network(), bound(SpectralPenalty(), 5)
    for _ in range(3):
        penalty(model, X, Y)
    save_state(tmp_path / "state", penalty.state_dict(), "penalty")
    other = bound(SpectralPenalty(), 9)
    other.load_state_dict(load_state(tmp_path / "state", "penalty"))
    larger = nn.Sequential(model, nn.Linear(3, 2))  # its names are new: vectors are drawn
    for net in (model, larger):
        assert torch.equal(penalty(net, X, Y), other(net, X, Y))
    assert bound(WeightDecay()).state_dict() == {}


def test_the_callers_generator_is_not_drawn_from_later():
    shared = torch.Generator().manual_seed(0)
    penalty = SpectralPenalty().bind(X, shared)
    state = shared.get_state()
    penalty(network(), X, Y)
    assert torch.equal(shared.get_state(), state)


def test_the_seed_decides():
    model = network()
    assert torch.equal(bound(SpectralPenalty(), 1)(model, X, Y), bound(SpectralPenalty(), 1)(model, X, Y))
    assert not torch.equal(bound(SpectralPenalty(), 1)(model, X, Y), bound(SpectralPenalty(), 2)(model, X, Y))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on import of its compiler
@pytest.mark.parametrize("term", TERMS)
def test_compiled_models(term):
    model = network()
    compiled = torch.compile(model)
    value = bound(term)(compiled, X, Y, compiled(X))
    assert torch.equal(value, bound(term)(model, X, Y))


def test_bad_input():
    for bad in (-1, 1.5, True, "two"):
        with pytest.raises(ValueError, match=r"^iterations: expected a whole number"):
            SpectralPenalty(bad)
    for model in (nn.ReLU(), nn.BatchNorm1d(3), nn.Embedding(3, 4)):
        with pytest.raises(ValueError, match=r"^model: expected convolutions or linear layers of torch.nn, and "):
            bound(WeightDecay())(model, X, Y)
    with pytest.raises(ValueError, match=r"^model: weight is not there yet|^model: .*weight is not there yet"):
        bound(SpectralPenalty())(nn.Sequential(nn.LazyLinear(3)), X, Y)
    with pytest.warns(FutureWarning):
        hooked = nn.utils.weight_norm(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"^model: expected 0.weight to be a parameter"):
        bound(SpectralPenalty())(nn.Sequential(hooked), X, Y)
    with pytest.raises(ValueError, match=r"^state: expected"):
        bound(SpectralPenalty()).load_state_dict({"u": 1})
    penalty = bound(SpectralPenalty())
    for bad in ({"vectors": 3, "generator": penalty.rng.get_state()}, {"vectors": {}, "generator": 3}):
        with pytest.raises(ValueError, match=r"^state: expected"):
            penalty.load_state_dict(bad)
    with pytest.raises(ValueError, match=r"^state: expected none"):
        bound(WeightDecay()).load_state_dict({"u": 1})
