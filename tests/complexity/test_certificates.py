"""Certified radii against closed forms and exhaustive search, and against each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.complexity.certificates import Certificates, LipschitzConstants, certified_radii, logit_rounding
from hilbertnet.complexity.functions import KernelMachine
from hilbertnet.complexity.margins import margin_distribution, margins
from hilbertnet.complexity.moved import embedding_lipschitz
from hilbertnet.complexity.norms_above import norm_bounds
from hilbertnet.data import load
from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.ridge import ridge_solve
from hilbertnet.losses import decide

FORMS = ("per logit", "logit vector", "differences of logits")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# --- linear classifiers: the distance to the boundary is known


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), factor=st.floats(0.1, 10))
def test_linear_classifiers(seed, classes, factor):
    weight, bias, x, y = draw(classes, 5, seed=seed), draw(classes, seed=seed + 1), draw(20, 5, seed=seed + 2), None
    scores = x @ weight.T + bias
    y = torch.where(torch.arange(20) % 2 == 0, scores.argmax(1), labels(20, classes, seed))
    constants = LipschitzConstants.from_products(weight @ weight.T / factor**2, factor)
    found = certified_radii(scores, y, constants)
    # naive: the distance to the nearest hyperplane between the label and another class
    for i in range(20):
        right = scores[i, y[i]] > torch.cat([scores[i, : y[i]], scores[i, y[i] + 1 :]]).max()
        distances = [
            (scores[i, y[i]] - scores[i, j]) / (weight[y[i]] - weight[j]).norm() for j in range(classes) if j != y[i]
        ]
        expected = float(min(distances)) if right else 0.0
        assert float(found.radii["differences of logits"][i]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # the three forms are in their order; that by differences is the best
    best = found.radii["differences of logits"]
    assert (found.radii["per logit"] <= best * (1 + 1e-9)).all()
    assert (found.radii["logit vector"] <= best * (1 + 1e-9)).all()
    torch.testing.assert_close(found.best, best)
    wrong = decide(scores) != y
    assert (found.best[wrong] == 0).all()


def test_one_logit():
    weight, x = torch.tensor([3.0, 4.0]).double(), torch.tensor([[1.0, 0.0], [-1.0, -1.0], [2.0, 2.0]]).double()
    scores, y = (x @ weight)[:, None], torch.tensor([1, 0, 0])
    found = certified_radii(scores, y, LipschitzConstants.from_products(torch.tensor([[25.0]])))
    torch.testing.assert_close(found.radii["one logit"], torch.tensor([0.6, 1.4, 0.0]).double())
    assert found.accuracy(0.0).value == pytest.approx(2 / 3)
    assert found.accuracy(0.6).value == pytest.approx(1 / 3)  # at the radius itself nothing is certified
    assert found.accuracy(0.59).value == pytest.approx(2 / 3)
    assert set(found.radii) == {"one logit"}


def test_one_constant_for_all_logits_is_the_margin_over_twice_it():
    scores, y = draw(30, 4), labels(30, 4)
    margin = margins(scores, y).clamp(min=0)
    found = certified_radii(scores, y, LipschitzConstants(logit=1.5, vector=2.0))
    torch.testing.assert_close(found.radii["per logit"], margin / 3.0)
    torch.testing.assert_close(found.radii["logit vector"], margin / (2 * math.sqrt(2)))
    torch.testing.assert_close(found.best, torch.maximum(margin / 3, margin / (2 * math.sqrt(2))))
    each = certified_radii(scores, y, LipschitzConstants(logit=torch.full((4,), 1.5)))
    torch.testing.assert_close(each.best, found.radii["per logit"])


def test_constants_from_products_against_directions():
    """Largest over unit directions in H of what logits, their vector and their differences change by."""
    functions = draw(3, 4)
    found = LipschitzConstants.from_products(functions @ functions.T, 2.0)
    directions = draw(20_000, 4, seed=1)
    directions = 2.0 * directions / directions.norm(dim=1, keepdim=True)
    change = directions @ functions.T
    assert (change.abs().amax(0) <= found.logit).all()
    torch.testing.assert_close(change.abs().amax(0), found.logit, rtol=2e-2, atol=0)
    assert 0.98 * found.vector < float(change.norm(dim=1).max()) <= found.vector
    gaps = (change[:, :, None] - change[:, None, :]).abs().amax(0)
    assert (gaps <= found.difference + 1e-12).all()
    torch.testing.assert_close(gaps, found.difference, rtol=2e-2, atol=0)


def test_a_function_that_cannot_change_is_certified_everywhere():
    scores, y = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
    found = certified_radii(scores, y, LipschitzConstants(vector=0.0))
    assert found.best.tolist() == [math.inf, 0.0]
    assert "inf" in str(found)
    endless = certified_radii(scores, y, LipschitzConstants(vector=math.inf))
    assert endless.best.tolist() == [0.0, 0.0]
    same = LipschitzConstants.from_products(torch.zeros(2, 2), math.inf)  # f_1 and f_2 are constant
    assert same.difference.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert certified_radii(scores, y, same).radii["differences of logits"].tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [0.1, 1e-3, 1e-5, 1e-7])
def test_outputs_that_nearly_agree_keep_their_difference(dtype, apart):
    """In ``W W'`` rounding loses what tells the rows apart, and a constant of 0 would certify everything."""
    rng = torch.Generator().manual_seed(0)
    row, step = (torch.randn(50, generator=rng, dtype=dtype) for _ in range(2))
    weight = torch.stack([1e3 * row, 1e3 * row + apart * step])
    found = LipschitzConstants.from_products(weight @ weight.T)
    assert float(found.difference[0, 1]) >= float((weight[0].double() - weight[1].double()).norm())
    assert float(found.difference[0, 1]) <= float((weight[0].double() - weight[1].double()).norm()) + 1e-2 * 1e3 * 20


@pytest.mark.parametrize("outputs", [1, 3])
def test_rounding_is_certified_too(outputs):
    """A decision in single precision changes within the exact radius where large numbers cancel."""
    weight, x = draw(outputs, 6).float(), draw(500, 6, seed=1).float()
    shift = 1e4 * torch.ones(outputs)

    class Net(torch.nn.Module):
        def forward(self, z):
            large = z @ weight.to(z).T + shift.to(z)
            return large - shift.to(z) if outputs == 1 else large

    net = Net()
    scores = net(x)
    y, exact = decide(scores), x.double() @ weight.double().T
    products = LipschitzConstants.from_products(weight.double() @ weight.double().T)
    right = certified_radii(exact, y, products).best  # 0 where rounding has changed the decision already
    bare = certified_radii(scores, y, products, rounding=0.0).best
    assert (bare > right).any()
    rounding = logit_rounding(net, x, scores)
    assert 1e-4 < rounding < 1e-1
    found = certified_radii(scores, y, products, rounding=rounding)
    assert (found.best <= right).all()
    assert found.best.median() > 0.9 * right.median()
    if outputs > 1:  # logits are large themselves, which tells of their rounding
        assert (certified_radii(scores, y, products).best <= right).all()
    assert logit_rounding(net, x.double(), exact) is None
    assert logit_rounding(lambda z: z, x, x) is None


def test_constants_of_layers_in_both_norms():
    """A linear map: in l_inf the sums of absolute weights, which are less than sqrt(d) norms."""
    net = torch.nn.Linear(5, 3).double().eval()
    with torch.no_grad():
        net.weight.copy_(draw(3, 5))
    bounds = norm_bounds(net, (5,))
    l2, sup = LipschitzConstants.from_layers(bounds), LipschitzConstants.from_layers(bounds, pixels=5)
    torch.testing.assert_close(l2.logit, draw(3, 5).norm(dim=1), rtol=1e-4, atol=0)
    assert (sup.logit >= draw(3, 5).abs().sum(1) * (1 - 1e-9)).all()
    assert (sup.logit <= math.sqrt(5) * l2.logit + 1e-12).all()
    assert sup.logit.max() < math.sqrt(5) * l2.logit.max()
    torch.testing.assert_close(sup.difference, math.sqrt(5) * l2.difference)
    assert sup.vector == pytest.approx(math.sqrt(5) * l2.vector)
    one = LipschitzConstants.from_layers(norm_bounds(torch.nn.Linear(5, 1).eval(), (5,)))
    assert one.difference is None


# --- kernel machines


def test_no_perturbation_of_a_certified_digit_changes_its_class():
    """Random perturbations and other digits, all as long as the certified radius."""
    data, kernel = load("digits"), ConvKernel("3 exp(0.6) gauss2")
    rows = torch.arange(60)[torch.from_numpy(data.y[:60]) < 4][:24]
    x, y = torch.from_numpy(data.x).double()[rows], torch.from_numpy(data.y)[rows]
    targets = torch.nn.functional.one_hot(y, 4).double() - 0.25
    gram = kernel.gram(x)
    solved = ridge_solve(gram, targets, 1e-3 * float(gram.diagonal().mean()))
    machine = KernelMachine(kernel, x, solved.coefficients)
    constants = LipschitzConstants.from_products(machine.products(), embedding_lipschitz(kernel.arch, (8, 8)))
    found = certified_radii(machine(x), y, constants)
    assert found.accuracy(0.0).value == 1.0
    assert float(found.best.median()) > 0.05
    rng = torch.Generator().manual_seed(0)
    for towards in [None, None, None, *range(5)]:
        move = torch.randn(x.shape, generator=rng, dtype=torch.float64) if towards is None else x[towards] - x
        length = move.flatten(1).norm(dim=1).clamp(min=1e-12)
        near = x + move * (found.best * (1 - 1e-9) / length)[:, None, None, None]
        assert (decide(machine(near)) == y).all()


# --- results and bad input


def test_tables():
    scores, y = draw(200, 3), labels(200, 3)
    found = certified_radii(scores, y, LipschitzConstants.from_products(torch.eye(3)), unit="pixels")
    lines = str(found).splitlines()
    assert lines[0].startswith("200 examples, ")
    assert lines[1].startswith("certified radius (pixels)")
    assert [line.split("  ")[0] for line in lines[3:]] == [*FORMS, "best"]
    table = found.table([0.5, 0.0]).splitlines()
    assert [line.split()[0] for line in table[2:]] == ["0", "0.5"]
    right = float((decide(scores) == y).double().mean())
    assert table[2].split()[-1] == f"{100 * right:.2f}"
    accuracies = [found.accuracy(radius).value for radius in (0.0, 0.1, 0.5, 2.0)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found.certified(0.1, "per logit").sum() <= found.certified(0.1).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(3)}, r"scores: expected a real tensor \(n, outputs\), got shape \(3,\)"),
        ({"scores": torch.tensor([[1.0, math.nan]] * 3)}, "scores: expected finite numbers, got nan"),
        ({"scores": [[1.0, 2.0]]}, "scores: expected a real tensor .* got list"),
        ({"y": torch.tensor([0, 1])}, "y: expected 3 whole numbers of classes"),
        ({"y": torch.tensor([0, 1, 2])}, "y: expected numbers of classes from 0 to 1, got 2"),
        ({"y": torch.tensor([0.0, 1.0, 1.0])}, "y: expected 3 whole numbers"),
        ({"constants": LipschitzConstants(logit=torch.ones(3))}, "constants: expected 2 numbers in logit"),
        ({"constants": LipschitzConstants(difference=torch.ones(3, 3))}, "constants: expected difference of shape"),
        (
            {"scores": torch.ones(3, 1), "constants": LipschitzConstants(difference=torch.ones(1, 1))},
            "constants: expected logit or vector for one output",
        ),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "scores": torch.ones(3, 2),
        "y": torch.tensor([0, 1, 0]),
        "constants": LipschitzConstants(vector=1.0),
    } | change
    with pytest.raises(ValueError, match=message):
        certified_radii(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LipschitzConstants, "constants: expected at least one of logit, vector, difference"),
        (lambda: LipschitzConstants(logit=-1.0), "logit: expected one number, or one for each output, of at least 0"),
        (lambda: LipschitzConstants(vector=math.nan), "vector: expected one number, of at least 0, got nan"),
        (lambda: LipschitzConstants(difference=torch.ones(2, 3)), "difference: expected a square matrix"),
        (lambda: LipschitzConstants.from_products(torch.ones(2)), "products: expected a finite square matrix"),
        (lambda: LipschitzConstants.from_products(-torch.eye(2)), "products: .* smallest eigenvalue is -1"),
        (lambda: LipschitzConstants.from_products(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "whose asymmetry is 0.5"),
        (lambda: LipschitzConstants.from_products(torch.eye(2), 0.0), "lipschitz: expected a positive number, got 0.0"),
        (lambda: LipschitzConstants(vector=1.0).times(0.0), "factor: expected a finite number above 0, got 0.0"),
        (
            lambda: certified_radii(torch.ones(1, 2), [0], LipschitzConstants(vector=1.0), rounding=-1.0),
            "rounding: exp",
        ),
        (lambda: some().certified(-1.0), "radii: expected finite numbers of at least 0"),
        (lambda: some().certified(1.0, "per logits"), "form: .* did you mean 'per logit'"),
        (lambda: some().table([]), "radii: expected real numbers"),
        (lambda: margin_distribution(torch.ones(2, 2), [0, 1], {"norm": 0.0}), "norms: expected positive numbers"),
    ],
)
def test_bad_constants_and_radii(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def some() -> Certificates:
    return certified_radii(torch.ones(3, 2), torch.tensor([0, 1, 0]), LipschitzConstants(logit=1.0, vector=1.0))
