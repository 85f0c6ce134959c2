"""Linear heads on features, and which library solves what.

The objective is ``mean_i loss(y_i, W x_i + b) + (lambda / 2) ||W||^2`` with the bias free and the losses of
`hilbertnet.losses`.

scipy's L-BFGS minimizes it in the eigenbasis of the features' covariance (torch's symmetric solver), where the Hessian
is close to the identity whatever lambda is: some tens of passes over the data. Features stay in float32 where they are
and are never copied whole: a validation fold is a vector of weights, not a copy. lambda is chosen on held-out folds of
the training data only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbertnet.losses import Loss, decide, losses, signs
from hilbertnet.progress import LONG, Progress, announce, format_seconds, track

__all__ = [
    "LAMBDAS",
    "Eigenbasis",
    "LambdaPath",
    "LinearHead",
    "ValidationPoint",
    "fit_head",
    "select_lambda",
    "standardize_",
    "validation_folds",
]

LAMBDAS: tuple[float, ...] = tuple(float(f"1e-{p}") for p in range(1, 9))
_PATIENCE = 3  # stop the path after so many values of lambda without improvement
_ITERATIONS = 150  # at most, for each value of lambda and fold
_CHUNK = 4096  # rows converted to float64 at a time


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear function of features.

    Parameters
    ----------
    weight
        Shape (outputs, features); one output for two classes.
    bias
        Shape (outputs,).
    lam
        The lambda it was fitted with.
    loss
        Its loss.
    """

    weight: Float[Tensor, "outputs features"]
    bias: Float[Tensor, " outputs"]
    lam: float
    loss: Loss

    def scores(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n outputs"]:
        """Decision values."""
        return torch.addmm(self.bias, features, self.weight.T)

    def classes(self, features: Tensor) -> Int[Tensor, " n"]:
        """Numbers of the predicted classes."""
        return decide(self.scores(features))


@dataclass(frozen=True)
class ValidationPoint:
    """What validation data say of one lambda: accuracy and mean loss on the held-out folds."""

    lam: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class LambdaPath:
    """How far `select_lambda` went: the validation curve, and the heads of the folds at its last lambda.

    The heads are in the coordinates of the eigenbasis; the next lambda starts from them.
    """

    curve: tuple[ValidationPoint, ...] = ()
    heads: tuple[LinearHead, ...] = ()

    @property
    def best(self) -> ValidationPoint:
        """The point of highest accuracy; ties by loss, then by the larger lambda."""
        return max(self.curve, key=lambda point: (point.accuracy, -point.loss))

    @property
    def ended(self) -> bool:
        """Whether the last values in a row improved nothing."""
        return bool(self.curve) and len(self.curve) - 1 - self.curve.index(self.best) >= _PATIENCE


class Eigenbasis:
    """Features in coordinates that are no more than min(n, features), with the eigenvalues of their covariance.

    With more features than examples, coordinates are those of the span of the centred examples, where a fitted weight
    lies. Features are used less `shift`, which leaves the bias uncorrelated with the weights, but never copied.
    """

    def __init__(self, features: Tensor) -> None:
        n, size = features.shape
        self.mean = _mean(features)
        gram = torch.zeros(min(n, size), min(n, size), dtype=torch.float64)
        for part in _centred_blocks(features, self.mean):  # X'X or XX'
            gram += part.T @ part
        values, vectors = torch.linalg.eigh(gram)
        self.values = (values.clamp(min=0.0) / n).to(features)
        self.vectors: Tensor | None = None
        self._back: Tensor | None = None
        if size <= n:
            self.features, self.vectors, self.shift = features, vectors.to(features), self.mean.to(features)
        else:
            roots = values.clamp(min=0.0).sqrt()
            kept = roots > roots[-1] * n * torch.finfo(torch.float64).eps ** 0.5
            left = vectors[:, kept]
            self.values = self.values[kept.to(features.device)]
            self.features = (left * roots[kept]).to(features)
            self.shift = torch.zeros_like(self.values)
            # orthonormal rows; the mean drops out, as its coordinates in `left` are 0
            self._back = (left / roots[kept]).to(features).T @ features

    def rotate(self, weight: Tensor) -> Tensor:
        """Coordinates to the eigenbasis."""
        return weight if self.vectors is None else weight @ self.vectors

    def unrotate(self, weight: Tensor) -> Tensor:
        """Eigenbasis to coordinates."""
        return weight if self.vectors is None else weight @ self.vectors.T

    def raw(self, head: LinearHead) -> LinearHead:
        """A head in coordinates as one on features."""
        if self._back is None:
            return head
        weight = head.weight @ self._back
        return replace(head, weight=weight, bias=head.bias - weight @ self.mean.to(weight))


def _mean(features: Tensor) -> Tensor:
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for block in features.split(_CHUNK):
        total += block.sum(0, dtype=torch.float64)
    return total / len(features)


def _centred_blocks(features: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """Centred features in float64 on the CPU, by rows, or by columns (transposed) where there are more of these."""
    if features.shape[1] <= len(features):
        for block in features.split(_CHUNK):
            yield (block.double() - mean).cpu()
    else:
        for block, part in zip(features.T.split(_CHUNK), mean.split(_CHUNK), strict=True):
            yield (block.double() - part[:, None]).cpu()


def fit_head(
    features: Float[Tensor, "n features"],
    labels: Int[Tensor, " n"],
    classes: int,
    loss: Loss,
    lam: float,
    *,
    basis: Eigenbasis | None = None,
    max_iter: int = 1000,
) -> LinearHead:
    """Fit a linear head.

    Parameters
    ----------
    features
        Shape (n, features), centred for good conditioning.
    labels
        Numbers of classes, 0 ... classes - 1, shape (n,).
    classes
        How many classes, at least 2.
    loss
        ``"squared_hinge"``, ``"logistic"`` or ``"ridge"``.
    lam
        lambda, positive.
    basis
        ``Eigenbasis(features)``, if it is at hand.
    max_iter
        Iterations of L-BFGS.
    """
    basis, targets = basis or Eigenbasis(features), signs(labels, 1 if classes == 2 else classes, features.dtype)
    weights = torch.ones(len(features), dtype=torch.float64, device=features.device)
    tolerance = 1e-13 if features.dtype == torch.float64 else 1e-9
    return basis.raw(_lbfgs(basis, targets, loss, lam, weights, None, max_iter, tolerance, restarts=3))


def _lbfgs(
    basis: Eigenbasis,
    targets: Tensor,
    loss: Loss,
    lam: float,
    weights: Tensor,
    start: LinearHead | None,
    max_iter: int,
    tolerance: float,
    restarts: int = 1,
) -> LinearHead:
    """The head in the coordinates of `basis`; examples of weight 0 are left out."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    features = basis.features
    outputs, size = targets.shape[1], features.shape[1]
    share, targets = weights.double() / weights.sum(), targets.double()
    scale = (basis.values * (0.25 if loss == "logistic" else 1.0) + lam).rsqrt()

    def unpack(flat: np.ndarray) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(flat).to(features).reshape(outputs, size + 1)
        weight = basis.unrotate(both[:, :size] * scale)
        return weight, both[:, size] - weight @ basis.shift

    def objective(flat: np.ndarray, unit: float) -> tuple[float, np.ndarray]:
        weight, bias = unpack(flat)
        scores = torch.addmm(bias, features, weight.T).double().requires_grad_()
        value = (share * losses(loss, scores, targets)).sum()
        (slope,) = torch.autograd.grad(value, scores)
        total = slope.sum(0)
        moved = slope.to(features).T @ features - torch.outer(total.to(features), basis.shift)
        both = torch.cat([(basis.rotate(moved + lam * weight) * scale).double(), total[:, None]], dim=1)
        penalized = value.item() + 0.5 * lam * weight.double().square().sum().item()
        return penalized / unit, both.cpu().numpy().ravel() / unit

    first = torch.zeros(outputs, size + 1, dtype=torch.float64)
    if start is not None:
        first[:, :size] = basis.rotate(start.weight) / scale
        first[:, size] = start.bias + start.weight @ basis.shift
    options: dict[str, float] = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 10 if restarts == 1 else 30}
    options |= {"ftol": tolerance, "gtol": tolerance**0.5 / 10}
    point, unit = first.numpy().ravel(), 1.0
    # OpenBLAS's threads have nothing to share in vectors this short, and block each other where other programs run
    with torch.enable_grad(), threadpool_limits(limits=1, user_api="blas"):
        for _ in range(restarts):
            found = minimize(objective, point, args=(unit,), jac=True, method="L-BFGS-B", options=options)
            point, value = found.x, found.fun * unit
            if value > 0.1 * unit or value <= 0:
                break
            unit = value  # its tolerances are absolute below 1: start again in the objective's own scale
    weight, bias = unpack(point)
    return LinearHead(weight.clone(), bias.clone(), float(lam), loss)


def validation_folds(labels: Int[Tensor, " n"], folds: int | float | None, generator: torch.Generator) -> list[Tensor]:
    """Held-out examples, as boolean masks, stratified by class.

    Parameters
    ----------
    labels
        Numbers of classes, shape (n,).
    folds
        A whole number of at least 2: cross-validation. A share in (0, 1): one held-out set. ``None``: 5 folds below
        5,000 examples, one fifth held out above.
    generator
        Of the split, on the CPU.
    """
    if folds is None:
        folds = 5 if len(labels) < 5000 else 0.2
    number = isinstance(folds, int | float) and not isinstance(folds, bool)
    if not number or not (0 < folds < 1 or (folds >= 2 and float(folds).is_integer())):
        raise ValueError(f"validation: expected a number of folds, 2 or more, or a share in (0, 1), got {folds!r}")
    count = round(1 / folds) if folds < 1 else int(folds)
    share = folds if folds < 1 else 1 / count
    # examples in random order, sorted by class: dealing them out in turn stratifies
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels.cpu()[order].argsort(stable=True)]
    masks = []
    if folds < 1:
        places = torch.arange(len(labels))
        held = ((places + 1) * share).floor() > (places * share).floor()
        masks.append(order[held])
    else:
        masks += [order[fold::count] for fold in range(count)]
    result = []
    for held_out in masks:
        mask = torch.zeros(len(labels), dtype=torch.bool)
        mask[held_out] = True
        if mask.any() and not mask.all():
            result.append(mask.to(labels.device))
    return result


def select_lambda(
    features: Float[Tensor, "n features"],
    labels: Int[Tensor, " n"],
    classes: int,
    loss: Loss,
    lambdas: Sequence[float],
    folds: Sequence[Tensor],
    *,
    basis: Eigenbasis | None = None,
    done: LambdaPath | None = None,
    keep: Callable[[LambdaPath], object] | None = None,
    progress: Progress = None,
) -> tuple[float, list[ValidationPoint]]:
    """Choose lambda by accuracy on held-out folds, ties by their loss, from the largest value down.

    The path stops after three values in a row that improve nothing.

    Parameters
    ----------
    features, labels, classes, loss
        As in `fit_head`.
    lambdas
        Values to try.
    folds
        Masks of held-out examples.
    basis
        ``Eigenbasis(features)``, if it is at hand.
    done
        How far an interrupted search with the same arguments went.
    keep
        Called with the path after every lambda.
    progress
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

    Returns
    -------
    tuple
        The chosen lambda and the validation curve.
    """
    ordered = sorted(map(float, lambdas), reverse=True)
    basis, targets = basis or Eigenbasis(features), signs(labels, 1 if classes == 2 else classes, features.dtype)
    path = done or LambdaPath()
    _say_if_long(basis.features, targets, len(folds) * (len(ordered) - len(path.curve)))
    for position, lam in enumerate(track(ordered, progress, label="lambda")):
        if position < len(path.curve):
            continue
        if path.ended:
            break
        starts = path.heads or (None,) * len(folds)
        heads = tuple(
            _lbfgs(basis, targets, loss, lam, (~fold).double(), start, _ITERATIONS, 1e-8)
            for fold, start in zip(folds, starts, strict=True)
        )
        path = LambdaPath((*path.curve, _judge(basis, labels, targets, folds, heads)), heads)
        if keep is not None:
            keep(path)
    return path.best.lam, list(path.curve)


def _say_if_long(features: Tensor, targets: Tensor, heads: int) -> None:
    """Announce how long `heads` heads take at most, from the time of the products that an iteration consists of."""
    began = time.perf_counter()
    for _ in range(2):
        product = targets.to(features).T @ features
        features @ product.T
    seconds = (time.perf_counter() - began) / 2 * _ITERATIONS * heads
    if seconds > LONG:
        n, size = features.shape
        announce(f"choosing lambda on {n:,} x {size:,} features: {heads} heads, at most {format_seconds(seconds)}")


def _judge(
    basis: Eigenbasis, labels: Tensor, targets: Tensor, folds: Sequence[Tensor], heads: Sequence[LinearHead]
) -> ValidationPoint:
    """What held-out folds say of the heads fitted without them."""
    right, lost, count = 0, 0.0, 0
    for fold, head in zip(folds, heads, strict=True):
        scores = head.scores(basis.features)[fold]
        right += int((decide(scores) == labels[fold]).sum())
        lost += float(losses(head.loss, scores, targets[fold]).double().sum())
        count += len(scores)
    return ValidationPoint(heads[0].lam, right / count, lost / count)


def standardize_(features: Float[Tensor, "n features"]) -> tuple[Tensor, float]:
    """Centre features and scale them to a mean squared norm of one, in place: the mean and the scale they had."""
    mean = features.mean(0)
    features -= mean
    # a mean of squared norms; 0 where all examples are equal
    scale = 1.0 / max(float(features.norm(dim=1).square().mean()) ** 0.5, 1e-12)
    features *= scale
    return mean, scale


def with_features_scaled(head: LinearHead, mean: Tensor, scale: float) -> LinearHead:
    """The head on raw features x that equals `head` on ``(x - mean) * scale``."""
    weight = head.weight * scale
    return replace(head, weight=weight, bias=head.bias - weight @ mean)
