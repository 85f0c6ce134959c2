"""Penalties by deformations: naive loops over all copies, closed forms of linear models, models left alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.deformations import FAMILIES, InfiniteMNIST, displacement_norm, jacobian, parse_family, warp
from hilbertnet.regularization.copies import DIGITS, DigitCopies, FamilyCopies, copies_of, is_letters
from hilbertnet.regularization.deformed import DTau, Tau
from hilbertnet.states import load_state, save_state

LABELS = torch.tensor([0, 1, 1, 0])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(features, outputs, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, outputs)).to(dtype)


def smooth_net(features, outputs, dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 6), nn.Softplus(), nn.Linear(6, outputs)).to(dtype)


def two_modes(channels=2, outputs=3):
    """A model whose two modes differ, with modules in different modes."""
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, outputs)
    )
    net[1].running_mean.normal_()
    net[3].eval()
    return net


class Recorder(nn.Module):
    """Keeps what a model is called on."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


class Quadratic(nn.Module):
    """f_k(x) = x' A_k x / 2."""

    def __init__(self, features, outputs):
        super().__init__()
        self.forms = nn.Parameter(draw(outputs, features, features, seed=5) - 0.5)

    def forward(self, x):
        flat = x.flatten(1)
        return torch.einsum("ni,kij,nj->nk", flat, (self.forms + self.forms.mT) / 2, flat) / 2


def bound(term, x, seed=0):
    return term.bind(x, seed)


# --- the values


@pytest.mark.parametrize(("shape", "outputs"), [((7, 2, 6, 6), 3), ((7, 3, 12), 1), ((7, 1, 28, 28), 2)])
def test_tau_is_the_largest_change_over_all_copies(shape, outputs):
    x = draw(*shape)
    model = smooth_net(math.prod(shape[1:]), outputs)
    term = Tau(images=5, variants=6)
    value = bound(term, x)(model, x[:4], LABELS)
    # the same stream, one copy after the other
    twin = bound(term, x)
    copies = copies_of(x)
    variants = copies.variants(copies.choose(5, twin.rng), 6, twin.rng, x)
    assert variants.shape == (5, 6, *shape[1:])
    naive = 0.0
    for k in range(outputs):
        naive += max(
            (model(copy[None])[0, k] - model(image[0][None])[0, k]).item() ** 2 for image in variants for copy in image
        )
    assert value.item() == pytest.approx(naive, rel=1e-12)
    assert naive > 0


def test_tau_of_a_linear_model_under_translations_is_a_product():
    """On a ramp, a translation by s moves pixels by s: f changes by s times the sum of the weights, inside."""
    ramp = torch.arange(12, dtype=torch.float64).expand(3, 1, 12).clone()
    model = linear(12, 2)
    with torch.no_grad():
        model[1].weight[:, 0] = model[1].weight[:, -1] = 0  # where there is no other pixel
    value = bound(Tau("translation", 0.5, variants=12), ramp)(model, ramp, LABELS[:3])
    expected = (0.5 * model[1].weight.sum(1)).square().sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize(("shape", "outputs"), [((7, 2, 5, 6), 3), ((7, 3, 12), 1), ((7, 1, 28, 28), 2)])
def test_dtau_is_the_largest_derivative_along_tangents(shape, outputs):
    x = draw(*shape)
    model = smooth_net(math.prod(shape[1:]), outputs)
    term = DTau(images=5, tangents=4)
    value = bound(term, x)(model, x[:4], LABELS)
    twin, copies = bound(term, x), copies_of(x)
    places = copies.choose(5, twin.rng)
    tangents = copies.tangents(places, 4, twin.rng, x)
    best = [0.0] * outputs
    for place, directions in zip(places, tangents, strict=True):

        def along(a, place=place, directions=directions):
            return model(x[place][None] + torch.tensordot(a, directions, 1)[None])[0]

        jacobian = torch.autograd.functional.jacobian(along, torch.zeros(4, dtype=x.dtype))
        best = [max(old, row.square().sum().item()) for old, row in zip(best, jacobian, strict=True)]
    assert value.item() == pytest.approx(sum(best), rel=1e-10)


def test_dtau_in_closed_form():
    """<w, t> for linear models; for quadratic ones the gradient at x is A x. The maximum is over squares, not sums."""
    x = draw(5, 1, 9)
    term = DTau(images=5, tangents=7)
    twin, copies = bound(term, x), copies_of(x)
    places = copies.choose(5, twin.rng)
    tangents = copies.tangents(places, 7, twin.rng, x).flatten(2)
    model = linear(9, 3)
    products = torch.einsum("kp,ijp->kij", model[1].weight, tangents)
    expected = products.square().sum(2).amax(1).sum()
    assert bound(term, x)(model, x, torch.zeros(5, dtype=torch.int64)).item() == pytest.approx(expected.item())
    assert not torch.equal(products.square().sum(2).argmax(1), products.sum(2).argmax(1))
    quadratic = Quadratic(9, 3)
    forms = (quadratic.forms + quadratic.forms.mT) / 2
    slopes = torch.einsum("kpq,iq->kip", forms, x[places].flatten(1))
    expected = torch.einsum("kip,ijp->kij", slopes, tangents).square().sum(2).amax(1).sum()
    assert bound(term, x)(quadratic, x, torch.zeros(5, dtype=torch.int64)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("shape", [(3, 2, 6, 7), (3, 2, 15)])
def test_tangents_are_differences_of_warped_signals(shape):
    x, rng = draw(*shape), torch.Generator()
    copies = FamilyCopies(x, parse_family("gaussian(2)"), 0.2)
    tangents = copies.tangents(torch.arange(3), 4, rng.manual_seed(3), x)
    h = 1e-6
    fields = copies.fields[torch.randint(len(copies.fields), (12,), generator=rng.manual_seed(3))]
    repeated = x.repeat_interleave(4, 0)
    naive = (warp(repeated, h * fields, boundary="edge") - warp(repeated, -h * fields, boundary="edge")) / (2 * h)
    torch.testing.assert_close(tangents.flatten(0, 1), naive, rtol=0, atol=1e-5)
    assert tangents.abs().max() > 0.01


def test_digits_are_deformed_by_infinite_mnist():
    x, rng = draw(4, 1, 28, 28, dtype=torch.float32), torch.Generator()
    copies = DigitCopies(x, 2.0)
    variants = copies.variants(torch.tensor([3, 1]), 5, rng.manual_seed(1), x)
    torch.testing.assert_close(variants[:, 0], x[[3, 1]], rtol=0, atol=0)
    digits = InfiniteMNIST(2.0, images=x, labels=np.zeros(4, int))
    drawn = torch.randint(1, 100_001, (8,), generator=rng.manual_seed(1))
    expected, _ = digits.batch(digits.index([3] * 4 + [1] * 4, drawn.numpy()))
    assert torch.equal(variants[:, 1:].flatten(0, 1), expected)
    tangents = copies.tangents(torch.tensor([3]), 4, rng.manual_seed(2), x)
    # to first order the deformed digit is the digit plus the tangent, but for the clipping
    inside = copies.variants(torch.tensor([3]), 5, rng.manual_seed(2), x)[0, 1:]
    unclipped = (inside > 0) & (inside < 1)
    torch.testing.assert_close((x[3] + tangents[0])[unclipped], inside[unclipped], rtol=0, atol=1e-5)


def test_which_deformations_fit():
    assert isinstance(copies_of(draw(3, 1, 28, 28)), DigitCopies)
    assert isinstance(copies_of(draw(3, 1, 28, 28) - 0.5), FamilyCopies)  # no pixels in [0, 1]
    assert isinstance(copies_of(draw(3, 1, 8, 8), DIGITS, 3.0), DigitCopies)
    for shape in [(3, 3, 28, 28), (3, 1, 8, 8), (3, 2, 56)]:
        copies = copies_of(draw(*shape))
        assert isinstance(copies, FamilyCopies)
        longest = displacement_norm(copies.fields)
        torch.testing.assert_close(longest, torch.full_like(longest, shape[-1] / 28))
    for name in FAMILIES:
        x = draw(4, 1, 9, 9)
        assert bound(Tau(name, 0.1, images=2, variants=4), x)(linear(81, 2), x, LABELS) > 0


def test_affine_deformations_have_many_sizes_and_all_directions():
    x = draw(3, 2, 9, 9)
    copies = copies_of(x, "rotation", 12.0)
    turned = jacobian(copies.fields)[:, 4, 4, 0, 1]  # the sine of the angle
    expected = [math.sin(math.radians(12 * (i + 1) / 32)) for i in range(32)]
    torch.testing.assert_close(turned.abs().unique(), torch.tensor(expected, dtype=x.dtype), rtol=1e-6, atol=1e-9)
    assert turned.min() < -0.2
    assert turned.max() > 0.2
    one_way = jacobian(copies_of(x, "rotation(clockwise)", 12.0).fields)[:, 4, 4, 0, 1]
    assert (one_way.sign() == one_way[0].sign()).all()
    assert len(copies.fields) == len(copies_of(x, "gaussian").fields) == 1024


def test_letters_are_known_from_signals():
    one_hot = nn.functional.one_hot(torch.randint(4, (3, 9), generator=torch.Generator().manual_seed(0)), 4).mT.double()
    padded = one_hot.clone()
    padded[:, :, 6:], padded[:, :, 2] = 0, 0.25  # the end, and an unknown letter
    assert is_letters(one_hot)
    assert is_letters(padded)
    assert not is_letters(draw(3, 4, 9))
    assert not is_letters((draw(3, 1, 9) > 0.5).double())
    assert not is_letters((draw(3, 4, 9) > 0.5).double())
    assert not is_letters(torch.zeros(3, 4, 9))


# --- what is asked of every penalty


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_gradients_in_the_parameters(term):
    x = draw(4, 1, 6)
    model = smooth_net(6, 2)
    parameters, wrapped = tuple(model.parameters()), _Wrapped(model, term, x)

    def penalty(*values):
        named = {f"model.{n}": v for (n, _), v in zip(model.named_parameters(), values, strict=True)}
        return torch.func.functional_call(wrapped, named, ())

    assert torch.autograd.gradcheck(penalty, parameters, rtol=1e-4, atol=1e-7)


class _Wrapped(nn.Module):
    """The penalty as a function of the model's parameters, each time from the start of its stream."""

    def __init__(self, model, term, x):
        super().__init__()
        self.model, self.penalty, self.x = model, bound(term, x), x
        self.start = self.penalty.state_dict()

    def forward(self):
        self.penalty.load_state_dict(self.start)
        return self.penalty(self.model, self.x, LABELS)


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_the_batch_plays_no_part(term):
    x, model = draw(6, 1, 10), smooth_net(10, 2)
    first = bound(term, x)(model, x[:4], LABELS)
    assert torch.equal(first, bound(term, x)(model, x[[5, 2]], LABELS[[2, 0]]))
    assert not torch.equal(first, bound(term, x, 1)(model, x[:4], LABELS))


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_the_model_is_left_as_it_was(term):
    x = draw(4, 2, 8, 8, dtype=torch.float32)
    model = two_modes()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    model.train()
    model[3].eval()
    penalty = bound(term, x)
    value = penalty(model, x, LABELS)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    # the function is that of eval mode
    twin = bound(term, x)
    torch.testing.assert_close(value, twin(model.eval(), x, LABELS), rtol=0, atol=0)
    value.backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_mixed_precision(term):
    x = draw(4, 2, 8, 8, dtype=torch.float32)
    model = two_modes()
    exact = bound(term, x)(model, x, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)  # fills autocast's cache of weights, as the training loss does
        value = bound(term, x)(model, x, LABELS)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.3)
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model[5].weight.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on import of its compiler
@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_a_compiled_model(term):
    x, model = draw(4, 1, 10), smooth_net(10, 2)
    value = bound(term, x)(torch.compile(model), x, LABELS)
    torch.testing.assert_close(value, bound(term, x)(model, x, LABELS))


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_a_stream_goes_on_from_its_state(term, tmp_path):
    x, model = draw(9, 1, 28, 28, dtype=torch.float32), smooth_net(784, 2, torch.float32)
    penalty = bound(term, x)
    penalty(model, x[:4], LABELS)
    save_state(tmp_path / "state", penalty.state_dict(), "stream")
    later = [penalty(model, x[:4], LABELS).item() for _ in range(2)]
    other = bound(term, x, 7)
    other.load_state_dict(load_state(tmp_path / "state", "stream"))
    assert [other(model, x[:4], LABELS).item() for _ in range(2)] == later
    with pytest.raises(ValueError, match="state: expected"):
        other.load_state_dict({"taken": 3})
    with pytest.raises(ValueError, match="state: expected"):
        other.load_state_dict({"generator": torch.zeros(3)})


def test_a_bound_penalty_draws_from_nobody_elses_generator():
    x, model, shared = draw(9, 1, 10), smooth_net(10, 2), torch.Generator().manual_seed(0)
    first, second = Tau().bind(x, shared), Tau().bind(x, shared)
    place = shared.get_state()
    values = [penalty(model, x[:4], LABELS).item() for penalty in (first, second)]
    assert torch.equal(shared.get_state(), place)
    assert values[0] != values[1]


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_extremes(term):
    x, model = draw(4, 1, 10), linear(10, 2)
    with torch.no_grad():
        assert bound(term, x)(model, x, LABELS).grad_fn is None
        model[1].weight.zero_()
    value = bound(term, x)(model, x, LABELS)
    value.backward()
    assert value.item() == 0
    assert model[1].weight.grad.abs().sum() == 0  # and no NaN
    with torch.no_grad():
        model[1].weight[0, 0] = math.nan
    assert math.isnan(bound(term, x)(model, x, LABELS).item())
    flat = bound(term, torch.full_like(x, 0.5))(smooth_net(10, 2), x, LABELS)
    assert flat.item() == pytest.approx(0, abs=1e-20)


def test_only_as_many_examples_as_promised_have_a_graph():
    x = draw(40, 1, 10)
    model = Recorder(smooth_net(10, 3))
    bound(Tau(), x)(model, x[:4], LABELS)
    assert [len(seen) for seen in model.seen] == [256] * 4 + [6]
    model.seen.clear()
    bound(DTau(), x)(model, x[:4], LABELS)
    assert [len(seen) for seen in model.seen] == [32, 3]


def test_the_text_form():
    assert str(Tau()) == "tau"
    assert str(Tau("rotation", 10, variants=8.0)) == "tau(deformation=rotation, size=10, variants=8)"
    assert str(DTau(tangents=4)) == "dtau(tangents=4)"
    assert str(DTau("zoom(in)", 0.1)) == "dtau(deformation='zoom(in)', size=0.1)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tau("gausian"), "deformation: expected the name of one, got 'gausian'; did you mean 'gaussian'"),
        (lambda: Tau("nonsense"), "known: infinite_mnist, translation"),
        (lambda: Tau(3), "deformation: expected the name of one, got 3"),
        (lambda: Tau("gaussian(3, 4)"), "deformation: expected gaussian"),
        (lambda: Tau(size=-1), "size: expected a finite number of at least 0, got -1"),
        (lambda: Tau(size=math.nan), "size: expected a finite number"),
        (lambda: Tau(images=0), "images: expected a whole number of at least 1, got 0"),
        (lambda: Tau(variants=1), "variants: expected at least 2"),
        (lambda: Tau(variants=2.5), "variants: expected a whole number"),
        (lambda: DTau(tangents=0), "tangents: expected a whole number"),
        (lambda: Tau().bind(draw(5, 7)), "tau: expected images .* rows without positions, shape .5, 7."),
        (lambda: DTau().bind(draw(5, 7, 1, 1)), "dtau: expected images .* rows without positions"),
        (lambda: Tau("rotation", 3.0).bind(torch.eye(4).expand(3, 4, 4)), "tau: .* got one-hot letters"),
        (lambda: Tau("rotation").bind(draw(3, 1, 8, 8)), "tau: size: expected a number, in degrees, with rotation"),
        (lambda: Tau("gaussian(3)").bind(draw(3, 1, 8, 8)), "tau: size: expected a number"),
        (lambda: Tau("rotation", 3.0).bind(draw(3, 1, 8)), "tau: rotation: expected images"),
        (lambda: Tau("infinite_mnist").bind(draw(3, 3, 8, 8)), "tau: images: expected grey images"),
        (lambda: Tau().bind(torch.ones(3, 1, 8, dtype=torch.int64)), "x_train: expected"),
        (lambda: Tau().bind([1.0]), "x_train: expected"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("term", [Tau(images=3, variants=4), DTau(images=3, tangents=3)])
def test_bad_batches(term):
    x = draw(4, 1, 10)
    penalty = bound(term, x)
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 1, 10\), as the training signals, got \(4, 1, 9\)"):
        penalty(linear(9, 2), x[..., :9], LABELS)
    with pytest.raises(ValueError, match="y: expected numbers of classes from 0 to 1, got 2"):
        penalty(linear(10, 2), x, LABELS + 1)
    with pytest.raises(ValueError, match="model: expected logits of shape"):
        penalty(nn.Identity(), x, LABELS)
    for bad in (x[:0], x.long(), x.numpy()):
        with pytest.raises(ValueError, match="x: expected a tensor of signals"):
            penalty(linear(10, 2), bad, LABELS)
