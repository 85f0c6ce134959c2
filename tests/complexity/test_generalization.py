"""Rademacher complexities against exact expectations, margin bounds against their formula and against true errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.complexity.generalization import best_margin_bound, margin_bound
from hilbertnet.complexity.margins import margin_distribution, margins
from hilbertnet.complexity.rademacher import rademacher_bounds
from hilbertnet.kernels import ConvKernel


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Rademacher


@pytest.mark.parametrize("seed", range(4))
def test_rademacher_complexity_of_a_ball_over_all_signs(seed):
    """The largest value over the ball of sum sigma_i f(x_i) is B sqrt(sigma' K sigma)."""
    gram, norm = ConvKernel("3 exp(0.6) gauss2").gram(draw(9, 1, 5, 5, seed=seed)), 1.7
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=9)), dtype=torch.float64)
    exact = norm / 9 * float(torch.einsum("si,ij,sj->s", signs, gram, signs).clamp(min=0).sqrt().mean())
    found = rademacher_bounds(norm, gram.diagonal())
    assert found.below <= exact <= found.from_trace <= found.from_radius
    assert found.from_radius == pytest.approx(norm * float(gram.diagonal().max().sqrt()) / 3)
    assert "B sqrt(tr K) / N" in str(found)


def test_both_ends_are_reached():
    orthogonal = rademacher_bounds(2.0, np.ones(16))  # K = 1: |sum| = sqrt(N) for all signs
    assert orthogonal.from_trace == pytest.approx(2.0 * math.sqrt(16) / 16)
    two = rademacher_bounds(1.0, [1.0, 1.0])  # K = ones: E|s_1 + s_2| = 1
    assert two.below == pytest.approx(1.0 / 2)


def test_contraction_for_several_outputs():
    """E sup of the ramp loss over sampled functions of the ball, against c T sqrt(tr K) / N with c = 2 sqrt(K)."""
    x, classes, radius, n = draw(8, 3), 3, 2.0, 8
    y = torch.arange(8) % classes
    functions = draw(4000, classes, 3, seed=1)
    functions = functions * (radius / functions.flatten(1).norm(dim=1))[:, None, None]
    scores = torch.einsum("fkd,nd->fnk", functions, x)
    ramps = torch.stack([(1 - margins(row, y)).clamp(0, 1) for row in scores])
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)
    complexity = float((signs @ ramps.T).amax(1).mean()) / n
    bound = margin_bound(torch.zeros(n), radius, x.square().sum(1), gamma=1.0, outputs=classes)
    assert bound.ball == radius
    assert complexity <= bound.complexity / 2


# --- the margin bound, term by term


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    norm=st.floats(0, 1e4),
    gamma=st.floats(1e-3, 1e3),
    delta=st.floats(1e-6, 0.5),
    outputs=st.integers(1, 10),
    epsilon=st.sampled_from([0.0, 0.1, 2.0]),
    start=st.sampled_from([1.0, 0.3]),
    known=st.booleans(),
)
def test_every_term_as_it_is_written(seed, norm, gamma, delta, outputs, epsilon, start, known):
    found, diagonal, n, lipschitz, radius = draw(50, seed=seed), draw(50, seed=seed + 1).square(), 50, 1.5, 3.0
    bound = margin_bound(
        found, norm, diagonal, gamma=gamma, radius=radius if known else None, outputs=outputs, delta=delta,
        epsilon=epsilon, lipschitz=lipschitz, start=start,
    )  # fmt: skip
    k = 0
    while start * 2**k < norm / gamma:
        k += 1
    ball, share = start * 2**k, delta / ((k + 1) * (k + 2))
    s, c = (1, 1) if outputs == 1 else (math.sqrt(2), 2 * math.sqrt(outputs))
    limit = gamma + s * epsilon * lipschitz * ball * gamma
    fraction = sum(1 for m in found.tolist() if m <= limit) / n
    if known:
        complexity = 2 * c * ball * radius / math.sqrt(n)
        confidence = math.sqrt(math.log(1 / share) / (2 * n))
    else:
        complexity = 2 * c * ball / n * math.sqrt(sum(diagonal.tolist()))
        confidence = 3 * math.sqrt(math.log(2 / share) / (2 * n))
    assert (bound.step, bound.ball) == (k, ball)
    assert bound.fraction == pytest.approx(fraction)
    assert bound.complexity == pytest.approx(complexity, rel=1e-12)
    assert bound.confidence == pytest.approx(confidence, rel=1e-12)
    assert bound.value == pytest.approx(fraction + complexity + confidence)
    assert list(bound.terms.values()) == [bound.fraction, bound.complexity, bound.confidence, bound.value]
    if norm / gamma >= start:  # the 2 of the robust version comes from doubling the radius
        assert bound.threshold <= gamma + 2 * s * epsilon * lipschitz * norm * (1 + 1e-12)
    assert "which says nothing" in str(bound) or bound.value < 1


def test_parts_of_delta_sum_to_it():
    bounds = [margin_bound([1.0], 2.0**k, [1.0], gamma=1.0, delta=0.1) for k in range(1, 200)]
    assert [bound.step for bound in bounds] == list(range(1, 200))
    first = margin_bound([1.0], 0.5, [1.0], gamma=1.0, delta=0.1)
    total = first.share + sum(bound.share for bound in bounds)
    assert total == pytest.approx(0.1 * (1 - 1 / 201))


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_the_best_margin_is_the_best(epsilon):
    found, diagonal = draw(3000).abs() + 0.3, torch.ones(3000)
    options = {"epsilon": epsilon, "start": 0.7}
    best = best_margin_bound(found, 0.9, diagonal, **options)
    tried = [margin_bound(found, 0.9, diagonal, gamma=g, **options).value for g in np.geomspace(1e-3, 1e3, 3000)]
    assert best.value <= min(tried) + 1e-12
    assert best.value < 1
    some = best_margin_bound(found, 0.9, diagonal, gammas=[0.1, 10.0], **options)
    assert some.value == min(margin_bound(found, 0.9, diagonal, gamma=g, **options).value for g in (0.1, 10.0))
    assert best_margin_bound([0.0], 0.0, [1.0]).fraction == 1.0


@pytest.mark.parametrize("outputs", [1, 3])
def test_bounds_hold_for_fitted_linear_functions_and_under_perturbations(outputs):
    """Functions of the linear kernel, least squares on blurred clusters; true errors from other examples."""
    n, epsilon = 20_000, 0.1
    centres = torch.eye(4).double()[: max(outputs, 2)] * 2.0
    for seed in range(5):
        y = torch.arange(2 * n) % len(centres)
        x = centres[y] + 0.35 * draw(2 * n, 4, seed=seed)
        targets = (2.0 * y - 1)[:, None] if outputs == 1 else torch.nn.functional.one_hot(y).double() - 1 / 3
        train, test = slice(0, n), slice(n, None)
        weight = torch.linalg.lstsq(x[train], targets[train].double()).solution
        norm, diagonal = float(weight.norm()), x[train].square().sum(1)
        scores = x @ weight
        found = margins(scores, y)
        for eps in (0.0, epsilon):
            bound = best_margin_bound(found[train], norm, diagonal, outputs=outputs, epsilon=eps)
            if outputs == 1:
                worst = found - eps * norm
            else:  # the nearest boundary of each example
                gaps = scores.gather(1, y[:, None]) - scores
                length = (weight[:, y].T[:, :, None] - weight[None]).norm(dim=1)
                worst = (gaps - eps * length).scatter(1, y[:, None], math.inf).amin(1)
            error = float((worst[test] <= 0).double().mean())
            assert error <= bound.value < (0.9 if outputs == 1 else 2.0), str(bound)
            assert bound.fraction >= float((worst[train] <= 0).double().mean())


def test_larger_perturbations_and_norms_never_lower_it():
    found, diagonal = draw(500) + 1, torch.ones(500)
    values = [margin_bound(found, 2.0, diagonal, gamma=0.5, epsilon=e).value for e in (0.0, 0.01, 0.1, 1.0)]
    assert values == sorted(values)
    values = [margin_bound(found, norm, diagonal, gamma=0.5).value for norm in (0.1, 1.0, 10.0)]
    assert values == sorted(values)
    assert margin_bound(found, 2.0, gamma=0.5, radius=1.0).value < margin_bound(found, 2.0, diagonal, gamma=0.5).value


# --- margins


def test_margins_against_loops_and_their_gradients():
    scores, y = draw(20, 4).requires_grad_(), torch.arange(20) % 4
    found = margins(scores, y)
    for i in range(20):
        others = [float(scores[i, j].detach()) for j in range(4) if j != y[i]]
        assert float(found[i].detach()) == pytest.approx(float(scores[i, y[i]].detach()) - max(others))
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.sum(1).abs().max() == 0
    assert (gradient.abs().sum(1) == 2).all()
    one = margins(torch.tensor([[3.0], [3.0]]), torch.tensor([0, 1]))
    assert one.tolist() == [-3.0, 3.0]


def test_distributions_are_in_units_of_each_norm():
    scores, y = draw(101, 3), torch.arange(101) % 3
    found = margin_distribution(scores, y, {"RKHS norm": 4.0, "spectral product": 10})
    torch.testing.assert_close(found.normalized("RKHS norm"), margins(scores, y) / 4)
    values, share = found.curve("spectral product")
    assert (values.diff() >= 0).all()
    for t in (-0.1, 0.0, 0.1):
        expected = float((margins(scores, y) / 10 <= t).double().mean())
        assert float(share[values <= t].max()) == pytest.approx(expected)
    lines = str(found).splitlines()
    middle = float(np.median(margins(scores, y).numpy()))
    assert [line.split("  ")[0] for line in lines[3:]] == ["1 (as they are)", "RKHS norm", "spectral product"]
    assert lines[4].split()[5] == f"{middle / 4:.3g}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margins": []}, r"margins: expected real numbers, shape \(n,\), n >= 1, got shape \(0,\)"),
        ({"margins": [1.0, math.nan]}, "margins: expected finite numbers, got nan"),
        ({"margins": ["1", "2"]}, "margins: expected real numbers"),
        ({"norm": -1.0}, "norm: expected a finite number of at least 0, got -1.0"),
        ({"norm": math.inf}, "norm: expected a finite number of at least 0, got inf"),
        ({"gamma": 0.0}, "gamma: expected a finite number above 0, got 0.0"),
        ({"gamma": 1e-320}, "gamma: expected a margin that is not negligible beside the norm 1"),
        ({"diagonal": None}, r"diagonal: expected K\(x_i, x_i\) of the examples, or a radius"),
        ({"diagonal": [1.0]}, "diagonal: expected 2 numbers, as many as margins, got 1"),
        ({"diagonal": [1.0, -1.0]}, "diagonal: expected finite numbers of at least 0, got -1.0"),
        ({"radius": math.nan}, "radius: expected a finite number"),
        ({"delta": 1.0}, "delta: expected a probability between 0 and 1, got 1.0"),
        ({"delta": 0.0}, "delta: expected a finite number above 0"),
        ({"outputs": 0}, "outputs: expected a whole number of at least 1, got 0"),
        ({"epsilon": -0.1}, "epsilon: expected a finite number of at least 0"),
        ({"lipschitz": math.inf}, "lipschitz: expected a finite number"),
        ({"start": 0}, "start: expected a finite number above 0, got 0"),
    ],
)
def test_bad_input(change, message):
    arguments = {"margins": [1.0, 2.0], "norm": 1.0, "diagonal": [1.0, 1.0], "gamma": 1.0} | change
    with pytest.raises(ValueError, match=message):
        margin_bound(arguments.pop("margins"), arguments.pop("norm"), arguments.pop("diagonal"), **arguments)


def test_bad_input_elsewhere():
    with pytest.raises(ValueError, match="gammas: expected finite numbers above 0, got 0.0"):
        best_margin_bound([1.0], 1.0, [1.0], gammas=[1.0, 0.0])
    with pytest.raises(ValueError, match="diagonal: expected real numbers"):
        rademacher_bounds(1.0, [[1.0]])
