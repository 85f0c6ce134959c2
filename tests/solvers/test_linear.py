"""Linear heads against scikit-learn and scipy, and the choice of lambda."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from hilbertnet.losses import LOSSES
from hilbertnet.solvers import fit_head, select_lambda
from hilbertnet.solvers.linear import LAMBDAS, validation_folds

SHAPES = [(120, 6), (30, 50)]  # more examples than features, and fewer
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=["tall", "wide"])
each_number_of_classes = pytest.mark.parametrize("classes", [2, 4])


def problem(shape, classes, seed=0):
    state = np.random.RandomState(seed)
    x = state.randn(*shape) * np.logspace(0, -1, shape[1]) + 0.3
    y = (x @ state.randn(shape[1], classes) + 0.5 * state.randn(shape[0], classes)).argmax(1)
    y[:classes] = np.arange(classes)
    return x, y


def centred(x):
    """As features are before a head is fitted: mean 0, mean squared norm 1."""
    x = x - x.mean(0)
    return x / np.sqrt((x**2).sum(1).mean())


def fit(x, y, loss, lam, dtype=torch.float64):
    return fit_head(torch.tensor(x, dtype=dtype), torch.tensor(y), int(y.max()) + 1, loss, lam)


def signs(y):
    """One column for two classes, one for each class otherwise."""
    classes = y.max() + 1
    return 2.0 * y[:, None] - 1 if classes == 2 else 2.0 * (y[:, None] == np.arange(classes)) - 1


# ------------------------------------------------------------------------------------------------------- other solvers


@each_shape
@each_number_of_classes
@pytest.mark.parametrize("lam", [1.0, 1e-3, 1e-6])
def test_ridge_is_scikit_learns(shape, classes, lam):
    x, y = problem(shape, classes)
    x = x if lam > 1e-4 else centred(x)
    head = fit(x, y, "ridge", lam)
    model = Ridge(alpha=len(x) * lam, solver="svd").fit(x, signs(y))
    np.testing.assert_allclose(head.weight, np.atleast_2d(model.coef_), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head.bias, np.ravel(model.intercept_), rtol=1e-3, atol=1e-4)


@each_shape
@each_number_of_classes
@pytest.mark.parametrize("lam", [1.0, 1e-2, 1e-4])
def test_logistic_is_scikit_learns(shape, classes, lam):
    x, y = problem(shape, classes)
    x = x if lam > 1e-3 else centred(x)
    head = fit(x, y, "logistic", lam)
    model = LogisticRegression(C=1 / (len(x) * lam), tol=1e-10, max_iter=20_000).fit(x, y)
    weight, bias = head.weight.numpy(), head.bias.numpy()
    scale = np.abs(model.coef_).max()
    np.testing.assert_allclose(weight, model.coef_, rtol=0, atol=2e-3 * scale)
    np.testing.assert_allclose(bias - bias.mean() * (classes > 2), model.intercept_, rtol=0, atol=2e-3 * scale)


@each_shape
@each_number_of_classes
def test_squared_hinge_is_scikit_learns(shape, classes):
    x, y = problem(shape, classes)
    lam = 1e-2
    # a large scale frees the intercept, which that program penalizes
    model = LinearSVC(C=1 / (2 * len(x) * lam), intercept_scaling=100, dual=False, tol=1e-10, max_iter=100_000)
    model.fit(x, y)
    head = fit(x, y, "squared_hinge", lam)
    np.testing.assert_allclose(head.weight, model.coef_, rtol=0, atol=1e-3 * np.abs(model.coef_).max())
    np.testing.assert_allclose(head.bias, model.intercept_, rtol=0, atol=2e-3)


def objective(weight, bias, x, y, loss, lam):
    scores, targets = x @ weight.T + bias, signs(y)
    if loss == "squared_hinge":
        losses = 0.5 * np.maximum(0, 1 - targets * scores) ** 2
    elif loss == "ridge":
        losses = 0.5 * (targets - scores) ** 2
    elif targets.shape[1] == 1:
        losses = np.logaddexp(0, -targets * scores)
    else:
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(y)), y]
    return losses.reshape(len(y), -1).sum(1).mean() + 0.5 * lam * (weight**2).sum()


@each_shape
@each_number_of_classes
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_objective_is_as_low_as_scipy_finds_it(shape, classes, loss, dtype, tolerance):
    x, y = problem((shape[0], min(shape[1], 20)) if classes == 2 else (shape[0] // 2, 8), classes)
    lam, outputs, size = 1e-3, signs(y).shape[1], x.shape[1]

    def flat(both):
        both = both.reshape(outputs, size + 1)
        return objective(both[:, :size], both[:, size], x, y, loss, lam)

    found = minimize(
        flat, np.zeros(outputs * (size + 1)), method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10**6}
    )
    head = fit(x, y, loss, lam, dtype)
    ours = objective(head.weight.double().numpy(), head.bias.double().numpy(), x, y, loss, lam)
    assert ours <= found.fun * (1 + tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-3), (torch.float32, 1e-2)])
@pytest.mark.parametrize("lam", [1e-4, 1e-6])
def test_objective_is_found_also_where_it_is_tiny(lam, dtype, tolerance):
    """More features than examples and a small lambda: the objective is of the order of lambda."""
    x, y = problem((30, 50), 2)
    x, targets = centred(x), signs(y)[:, 0]

    def scaled(both):
        slack = np.maximum(0, 1 - targets * (x @ both[:-1] + both[-1]))
        value = 0.5 * (slack**2).mean() + 0.5 * lam * (both[:-1] ** 2).sum()
        slope = -targets * slack / len(x)
        return value / lam, np.append(x.T @ slope + lam * both[:-1], slope.sum()) / lam

    options = {"maxiter": 10**5, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 50}
    found = minimize(scaled, np.zeros(51), jac=True, method="L-BFGS-B", options=options)
    head = fit(x, y, "squared_hinge", lam, dtype)
    ours = objective(head.weight.double().numpy(), head.bias.double().numpy(), x, y, "squared_hinge", lam)
    assert ours <= lam * found.fun * (1 + tolerance)


@each_shape
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_the_objective_vanishes(shape, loss):
    x, y = (torch.tensor(a) for a in problem(shape, 3))
    head = fit_head(x, y, 3, loss, 1e-3)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    scores, targets = x @ weight.T + bias, torch.tensor(signs(y.numpy()))
    if loss == "logistic":
        value = torch.nn.functional.cross_entropy(scores, y)
    elif loss == "ridge":
        value = 0.5 * (targets - scores).square().sum(1).mean()
    else:
        value = 0.5 * (1 - targets * scores).relu().square().sum(1).mean()
    (value + 0.5e-3 * weight.square().sum()).backward()
    assert float(torch.cat([weight.grad.flatten(), bias.grad]).norm()) < 1e-4


# --------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("loss", LOSSES)
def test_features_of_any_rotation_give_the_same_scores(loss):
    x, y = problem((60, 8), 3)
    rotation = np.linalg.qr(np.random.RandomState(1).randn(8, 8))[0]
    first, second = fit(x, y, loss, 1e-3), fit(x @ rotation, y, loss, 1e-3)
    np.testing.assert_allclose(
        first.scores(torch.tensor(x)), second.scores(torch.tensor(x @ rotation)), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_columns_of_zeros_and_equal_rows_are_no_trouble(loss):
    x, y = problem((40, 6), 2)
    x[:, 3] = 0
    x[1] = x[0]
    for features in (x, np.zeros_like(x), np.repeat(x, 10, axis=1)):
        head = fit(features, y, loss, 1e-6)
        assert torch.isfinite(head.weight).all()
        assert torch.isfinite(head.bias).all()


def test_features_are_left_as_they_were():
    x, y = problem((40, 6), 2)
    features = torch.tensor(x)
    fit_head(features, torch.tensor(y), 2, "ridge", 1e-3)
    np.testing.assert_array_equal(features.numpy(), x)


def test_separable_classes_are_separated():
    x = np.concatenate([np.random.RandomState(0).randn(30, 4) + shift for shift in (-6, 6)])
    y = np.repeat([0, 1], 30)
    for loss in LOSSES:
        assert (fit(x, y, loss, 1e-6).classes(torch.tensor(x)).numpy() == y).all()


# -------------------------------------------------------------------------------------------------------------- folds


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    folds=st.one_of(st.integers(2, 7), st.none()),
    seed=st.integers(0, 100),
)
def test_folds_are_disjoint_cover_everything_and_are_stratified(counts, folds, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    masks = validation_folds(labels, folds, torch.Generator().manual_seed(seed))
    count = folds or 5
    assert len(masks) == min(count, len(labels))
    assert (torch.stack(masks).sum(0) == 1).all()
    for mask in masks:
        held = torch.bincount(labels[mask], minlength=len(counts))
        assert all(n // count <= h <= -(-n // count) for h, n in zip(held.tolist(), counts, strict=True))


@settings(max_examples=30, deadline=None)
@given(share=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7]), count=st.integers(20, 200), seed=st.integers(0, 100))
def test_a_share_is_one_stratified_set_of_that_size(share, count, seed):
    labels = torch.arange(count) % 3
    (mask,) = validation_folds(labels, share, torch.Generator().manual_seed(seed))
    assert abs(int(mask.sum()) - share * count) <= 1
    for held, n in zip(torch.bincount(labels[mask], minlength=3), torch.bincount(labels), strict=True):
        assert abs(int(held) - share * int(n)) <= 1


def test_default_folds_by_the_number_of_examples():
    labels = torch.arange(6000) % 2
    assert len(validation_folds(labels[:4999], None, torch.Generator().manual_seed(0))) == 5
    (mask,) = validation_folds(labels, None, torch.Generator().manual_seed(0))
    assert int(mask.sum()) == 1200


def test_folds_are_reproducible_and_depend_on_the_seed():
    labels = torch.arange(40) % 2
    first, second, other = (validation_folds(labels, 3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("folds", [0, 1, -2, 2.5, True, 1.0, float("nan"), "5"])
def test_folds_of_another_form_are_refused(folds):
    with pytest.raises(ValueError, match="^validation: expected a number of folds"):
        validation_folds(torch.arange(10) % 2, folds, torch.Generator().manual_seed(0))


# -------------------------------------------------------------------------------------------------- choosing lambda


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(150, 10), (40, 80)])
def test_chosen_lambda_is_the_best_of_refitting(shape, loss):
    x, y = (torch.tensor(a) for a in problem(shape, 3, seed=3))
    lambdas = (1.0, 1e-1, 1e-2)
    folds = validation_folds(y, 4, torch.Generator().manual_seed(0))
    chosen, curve = select_lambda(x, y, 3, loss, lambdas, folds)
    assert [point.lam for point in curve] == list(lambdas)
    accuracy = {}
    for lam in lambdas:
        right = 0
        for fold in folds:
            head = fit_head(x[~fold], y[~fold], 3, loss, lam)
            right += int((head.classes(x[fold]) == y[fold]).sum())
        accuracy[lam] = right / len(x)
    for point in curve:
        assert point.accuracy == pytest.approx(accuracy[point.lam], abs=1.5 / len(x))  # fitted less exactly
    assert accuracy[chosen] >= max(accuracy.values()) - 1.5 / len(x)
    best = max(curve, key=lambda point: (point.accuracy, -point.loss))
    assert chosen == best.lam


def test_held_out_loss_is_that_of_refitting():
    x, y = (torch.tensor(a) for a in problem((100, 5), 2))
    folds = validation_folds(y, 5, torch.Generator().manual_seed(0))
    _, curve = select_lambda(x, y, 2, "ridge", (1e-1, 1e-2), folds)
    targets = torch.tensor(signs(y.numpy()))
    for point in curve:
        lost = 0.0
        for fold in folds:
            model = Ridge(alpha=int((~fold).sum()) * point.lam).fit(x[~fold].numpy(), targets[~fold].numpy())
            lost += 0.5 * float(((np.ravel(model.predict(x[fold].numpy())) - targets[fold, 0].numpy()) ** 2).sum())
        assert point.loss == pytest.approx(lost / len(x), rel=5e-3)  # fitted less exactly


def test_held_out_labels_have_no_say_in_the_fit():
    """Wrong labels on a held-out set change its accuracy and nothing else."""
    x, y = (torch.tensor(a) for a in problem((100, 5), 2))
    (fold,) = validation_folds(y, 0.3, torch.Generator().manual_seed(0))
    _, (right,) = select_lambda(x, y, 2, "ridge", (1e-2,), [fold])
    flipped = torch.where(fold, 1 - y, y)
    _, (wrong,) = select_lambda(x, flipped, 2, "ridge", (1e-2,), [fold])
    assert wrong.accuracy == pytest.approx(1 - right.accuracy)


def test_the_path_goes_from_the_largest_lambda_down_and_stops_without_improvement():
    state = np.random.RandomState(0)
    x, y = torch.tensor(state.randn(60, 40)), torch.tensor(state.randint(0, 2, 60))  # nothing to learn
    folds, steps = validation_folds(y, 3, torch.Generator().manual_seed(0)), []
    lambdas = tuple(10.0**-k for k in range(12))
    _, curve = select_lambda(x, y, 2, "ridge", lambdas[::-1], folds, progress=lambda *step: steps.append(step))
    tried = [point.lam for point in curve]
    assert tried == list(lambdas[: len(tried)])
    assert len(tried) < len(lambdas)
    assert len(steps) >= len(tried) - 1
    best = max(range(len(curve)), key=lambda k: (curve[k].accuracy, -curve[k].loss))
    assert len(curve) - 1 - best == 3


def test_default_values_of_lambda_are_powers_of_ten():
    np.testing.assert_allclose(np.diff(np.log10(LAMBDAS)), -1)


# -------------------------------------------------------------------------------------------------------------- memory

# ru_maxrss of a child starts at its parent's on Linux, where VmHWM is the process's own
MEASURE = """
import json, pathlib, resource, sys
import torch
from hilbertnet.solvers import fit_head, select_lambda
from hilbertnet.solvers.linear import validation_folds


def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
small, labels = torch.randn(50, 5, generator=rng), torch.arange(50) % 3
for loss in ("ridge", "squared_hinge"):
    fit_head(small, labels, 3, loss, 1e-2)
before = peak()
x, y = torch.empty(200_000, 500).normal_(generator=rng), torch.arange(200_000) % 3
if sys.argv[1] == "fit":
    fit_head(x, y, 3, sys.argv[2], 1e-2, max_iter=5)
else:
    select_lambda(x, y, 3, sys.argv[2], (1e-1, 1e-2), validation_folds(y, 2, rng), progress=False)
print(json.dumps({"bytes": peak() - before}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step", ["fit", "select"])
def test_features_are_never_copied_whole(step, loss):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", MEASURE, step, loss]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    whole = 4 * 200_000 * 500
    # a copy would make it 2; scores and slopes of 200,000 examples in float64 take their share
    assert whole < json.loads(done.stdout)["bytes"] < 1.6 * whole
