"""Ridge regression from products alone, against the eigendecomposition of the whole matrix."""

import logging

import numpy as np
import pytest
import torch
from small_digits import one_hot, small_digits

from hilbertnet.kernels import large_ridge
from hilbertnet.kernels.gram_like import DenseGram
from hilbertnet.kernels.large_ridge import ridge_from_store
from hilbertnet.kernels.ridge import ridge_path, ridge_solve

N = 300
LAMBDAS = (1e-2, 1e-4, 1e-6)
RANK = 60


@pytest.fixture(scope="module")
def digits():
    gram, labels = small_digits(N)
    return gram, one_hot(labels)


def accuracy(predicted, truth):
    return float((predicted.argmax(1) == truth.argmax(1)).double().mean())


def fit(gram, targets, lambdas=LAMBDAS, **options):
    return ridge_from_store(gram, targets, lambdas, **{"rank": RANK, "progress": False} | options)


class ProductsOnly:
    """What a store offers, from columns in memory: never the matrix, and it counts what is asked."""

    def __init__(self, gram, fail_at=None):
        self._dense, self.products, self.columns_asked, self.fail_at = DenseGram(gram), 0, 0, fail_at

    @property
    def shape(self):
        return self._dense.shape

    @property
    def dtype(self):
        return self._dense.dtype

    def diagonal(self):
        return self._dense.diagonal()

    def matmul(self, V):
        self.products += 1
        if self.products == self.fail_at:
            raise KeyboardInterrupt
        return self._dense.matmul(V)

    def columns(self, index):
        self.columns_asked += len(index)
        return self._dense.columns(index)


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_one_lambda_is_the_direct_solution(digits, lam, intercept):
    gram, targets = digits
    targets = targets + 3.0 * intercept
    found = fit(gram, targets, (lam,), intercept=intercept, tolerance=1e-9)
    unit = float(gram.diagonal().mean())
    expected = ridge_solve(gram, targets, lam * unit, intercept=intercept)
    assert (found.alpha, found.curve, found.converged) == (lam, (), True)
    assert found.lam == pytest.approx(lam * unit)
    torch.testing.assert_close(gram @ found.coefficients, gram @ expected.coefficients, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.intercept, expected.intercept, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.squared_norm, expected.squared_norm, rtol=1e-6, atol=0)
    residual = targets - found.intercept - gram @ found.coefficients - N * found.lam * found.coefficients
    size = (targets - found.intercept).norm(dim=0)
    torch.testing.assert_close(found.residuals, residual.norm(dim=0) / size, rtol=1e-2, atol=1e-11)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_held_out_curve_is_that_of_fits_without_the_held_out_part(digits, intercept):
    gram, targets = digits
    mask = torch.zeros(N, dtype=torch.bool)
    mask[::4] = True
    found = fit(gram, targets, held_out=mask, score=accuracy, tolerance=1e-9, intercept=intercept)
    rest = gram[~mask][:, ~mask]
    path = ridge_path(rest, targets[~mask], intercept=intercept)
    assert [point.alpha for point in found.curve] == sorted(LAMBDAS, reverse=True)
    for point in found.curve:
        lam = point.alpha * float(gram.diagonal().mean())
        predicted = gram[mask][:, ~mask] @ path.coefficients(lam) + path.intercept(lam)
        assert point.score == accuracy(predicted, targets[mask])
        assert point.error == pytest.approx(float((predicted - targets[mask]).square().mean()), rel=1e-6)
        assert point.converged
    best = max(found.curve, key=lambda point: (point.score, -point.error))
    assert found.alpha == best.alpha
    whole = ridge_path(gram, targets, intercept=intercept).solution(found.lam)
    torch.testing.assert_close(gram @ found.coefficients, gram @ whole.coefficients, rtol=0, atol=1e-6)


def test_the_path_stops_when_nothing_improves(digits):
    gram, targets = digits
    scores = iter([0.5, 0.6, 0.6, 0.5, 0.4, 1.0])
    found = fit(gram, targets, tuple(10.0**-p for p in range(1, 7)), score=lambda *_: next(scores))
    # the third ties with the second and has the smaller error
    assert [point.score for point in found.curve] == [0.5, 0.6, 0.6, 0.5, 0.4, 1.0]
    scores = iter([0.5, 0.6, 0.4, 0.5, 0.4, 1.0])
    found = fit(gram, targets, tuple(10.0**-p for p in range(1, 7)), score=lambda *_: next(scores))
    assert [point.score for point in found.curve] == [0.5, 0.6, 0.4, 0.5, 0.4]
    assert found.alpha == 1e-2


def test_the_matrix_is_seen_through_products_and_landmarks_only(digits):
    gram, targets = digits
    store = ProductsOnly(gram)
    found = fit(store, targets)
    expected = fit(gram, targets)
    assert torch.equal(found.coefficients, expected.coefficients)
    assert store.columns_asked <= 2 * RANK
    iterations = sum(point.iterations for point in found.curve) + found.iterations
    # beside one for each iteration: a start, predictions and a verified end for each system
    assert store.products <= iterations + 3 * (len(found.curve) + 1)


def test_a_matrix_on_disk_is_solved_from_its_tiles(tmp_path):
    pytest.importorskip("zarr")
    from hilbertnet.kernels import ConvKernel
    from hilbertnet.kernels.runners import compute_gram
    from hilbertnet.kernels.stored import open_gram

    x = np.random.RandomState(0).rand(50, 1, 4, 4)
    kernel = ConvKernel("2 exp(0.6) gauss2")
    targets = torch.tensor(np.stack([x.mean((1, 2, 3)) ** 2, x[:, 0, 1, 1]], axis=1))
    path = compute_gram(tmp_path / "K.zarr", kernel, x, tile=16, progress=False).path
    found = fit(open_gram(path), targets, (1e-3, 1e-5), rank=20, intercept=True, tolerance=1e-9)
    expected = ridge_path(torch.tensor(kernel.gram(x)), targets, intercept=True).solution(found.lam)
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.intercept, expected.intercept, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.squared_norm, expected.squared_norm, rtol=1e-6, atol=0)


def test_a_float32_matrix(digits):
    gram, targets = digits
    found = fit(gram.float(), targets, (1e-4,))
    expected = fit(gram, targets, (1e-4,))
    torch.testing.assert_close(gram @ found.coefficients, gram @ expected.coefficients, rtol=0, atol=1e-3)


def test_seeds_choose_the_held_out_part(digits):
    gram, targets = digits
    first, again, other = (fit(gram, targets, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.coefficients, again.coefficients)
    assert first.curve == again.curve
    assert first.curve[0].error != other.curve[0].error


def test_a_system_that_does_not_converge_is_warned_of(digits):
    gram, targets = digits
    with pytest.warns(RuntimeWarning, match=r"stopped after 3 iterations at a relative residual of .* lambda 1.0e-08"):
        found = fit(gram, targets, (1e-8,), iterations=3)
    assert not found.converged
    assert float(found.residuals.max()) > 1e-6
    scores = iter([1.0, 0.0])
    with pytest.warns(RuntimeWarning, match=r"not held out, for lambda 1e-08 of the mean"):
        found = fit(gram, targets, (1e-2, 1e-8), iterations=8, score=lambda *_: next(scores))
    assert found.converged
    assert [point.converged for point in found.curve] == [True, False]


def test_a_long_computation_says_so_once(digits, monkeypatch, caplog):
    gram, targets = digits
    monkeypatch.setattr(large_ridge, "LONG", 0.0)
    with caplog.at_level(logging.WARNING, "hilbertnet"):
        fit(gram, targets)
    (message,) = [record.message for record in caplog.records]
    assert "4 systems" in message
    assert "an iteration" in message


# ------------------------------------------------------------------------------------------------- interrupted, resumed


@pytest.mark.parametrize("intercept", [False, True])
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(digits, tmp_path, intercept):
    gram, targets = digits
    whole = fit(gram, targets, score=accuracy, intercept=intercept)
    products = ProductsOnly(gram)
    fit(products, targets, score=accuracy, intercept=intercept)
    options = {"score": accuracy, "intercept": intercept, "checkpoint_seconds": 0.0}
    for fail_at in range(2, products.products + 1, 5):
        file = tmp_path / f"{fail_at}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fit(ProductsOnly(gram, fail_at), targets, checkpoint=file, **options)
        rest = ProductsOnly(gram)
        found = fit(rest, targets, checkpoint=file, **options)
        assert torch.equal(found.coefficients, whole.coefficients)
        assert torch.equal(found.squared_norm, whole.squared_norm)
        assert torch.equal(found.residuals, whole.residuals)
        assert found.curve == whole.curve
        assert rest.products <= products.products - fail_at + 4  # at most the one in flight, and the ends checked anew
        assert not file.exists()


def test_an_interrupted_single_system(digits, tmp_path):
    gram, targets = digits
    whole, file = fit(gram, targets, (1e-6,)), tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(ProductsOnly(gram, 9), targets, (1e-6,), checkpoint=file, checkpoint_seconds=0)
    assert file.exists()
    found = fit(gram, targets, (1e-6,), checkpoint=file)
    assert torch.equal(found.coefficients, whole.coefficients)


@pytest.fixture
def unfinished(digits, tmp_path):
    gram, targets = digits
    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        fit(ProductsOnly(gram, 12), targets, checkpoint=file, checkpoint_seconds=0)
    return file


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lambdas": (1e-2, 1e-4)}, "lambdas"),
        ({"tolerance": 1e-7}, "tolerance"),
        ({"seed": 1}, "held_out, seed"),
        ({"rank": 50}, "rank"),
        ({"intercept": True}, "intercept"),
        ({"landmarks": "random"}, "landmarks"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left(digits, unfinished, change, named):
    gram, targets = digits
    kept = unfinished.read_bytes()
    with pytest.raises(ValueError, match=f"holds an unfinished ridge regression of other {named};"):
        fit(gram, targets, checkpoint=unfinished, **change)
    assert unfinished.read_bytes() == kept


def test_a_checkpoint_of_other_data_is_refused(digits, unfinished):
    gram, targets = digits
    with pytest.raises(ValueError, match="of other targets;"):
        fit(gram, targets + 1, checkpoint=unfinished)
    with pytest.raises(ValueError, match="of other gram;"):
        fit(gram + 1e-9 * torch.eye(N), targets, checkpoint=unfinished)


def test_damaged_checkpoints_are_refused(digits, unfinished, tmp_path):
    from hilbertnet.states import load_state, save_state

    gram, targets = digits
    broken = tmp_path / "broken"
    broken.write_bytes(unfinished.read_bytes()[:100])
    with pytest.raises(ValueError, match="expected a safetensors file written by hilbertnet"):
        fit(gram, targets, checkpoint=broken)
    state = load_state(unfinished, "unfinished ridge regression")
    for name in ("curve", "system", "identity"):
        save_state(broken, {key: value for key, value in state.items() if key != name}, "unfinished ridge regression")
        with pytest.raises(ValueError, match=r"^checkpoint: .* is damaged .*; remove it"):
            fit(gram, targets, checkpoint=broken)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambdas": ()}, r"^lambdas: expected a sequence of positive finite numbers, got \(\)"),
        ({"lambdas": 1e-3}, "^lambdas: expected a sequence"),
        ({"lambdas": (1e-3, 0.0)}, "^lambdas: expected a positive finite number, got 0.0"),
        ({"lambdas": (1e-3, float("nan"))}, "^lambdas: expected a positive finite number, got nan"),
        ({"held_out": 0.0}, r"^held_out: expected a share in \(0, 1\)"),
        ({"held_out": 1.5}, r"^held_out: expected a share in \(0, 1\)"),
        ({"held_out": 1e-9}, "^held_out: expected some of the 300 examples and not all, got 0"),
        ({"held_out": torch.ones(N, dtype=torch.bool)}, "^held_out: expected some of the 300 examples and not all"),
        ({"held_out": torch.ones(N)}, r"^held_out: expected a share or a mask of shape \(300,\), got torch.float32"),
        ({"held_out": torch.ones(3, dtype=torch.bool)}, r"^held_out: expected a share or a mask of shape \(300,\)"),
        ({"rank": 301}, "^rank: expected a whole number from 1 to 300, got 301"),
        ({"landmarks": "best"}, "^landmarks: expected one of"),
        ({"tolerance": -1.0}, "^tolerance: "),
        ({"iterations": 0}, "^iterations: "),
        ({"checkpoint_seconds": -1.0}, "^checkpoint_seconds: "),
        ({"score": lambda *_: float("nan")}, "^score: expected a number, got NaN for lambda 1.0e-02"),
        ({"targets": torch.zeros(3, 10)}, "^targets: expected a tensor of shape"),
        ({"gram": torch.zeros(3, 4)}, "^gram: expected shape"),
        ({"gram": np.eye(N)}, "^gram: expected a tensor, or something with shape"),
    ],
)
def test_bad_input(digits, options, message):
    gram, targets = digits
    with pytest.raises(ValueError, match=message):
        fit(**{"gram": gram, "targets": targets} | options)
