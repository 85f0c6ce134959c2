"""Lazy training: the linearized model, and the output scale that makes a model train like it.

The linearization of a model at its parameters theta_0 is ``f_0(x) + <delta, grad_theta f_0(x)>``, a linear model whose
kernel is the empirical tangent kernel. A model whose outputs are multiplied by a large alpha, trained on
``loss(alpha (f - f_0)) / alpha^2``, needs parameters that move by the order of 1 / alpha only, and stays near its
linearization: this is called lazy training.

Reference: L. Chizat, E. Oyallon and F. Bach, "On lazy training in differentiable programming", NeurIPS 2019, section 2.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp

from hilbertnet.kernels.empirical import as_examples, empirical_ntk
from hilbertnet.kernels.jacobian import Jacobian
from hilbertnet.kernels.parameters import Layers, choose_parameters
from hilbertnet.kernels.ridge import RidgePath, ridge_path
from hilbertnet.progress import Progress, announce
from hilbertnet.training import Objective, classification_loss

__all__ = ["LazyModel", "LinearizedModel", "lazy_objective", "tangent_regression"]

_BATCH = 64  # examples in one pass over those that a regression is fitted to


class LinearizedModel(nn.Module):
    """A model's first-order Taylor expansion in its parameters: ``f_0(x) + <delta, grad_theta f_0(x)>``.

    The displacement delta is what an optimizer moves: it starts at 0. The model itself is copied and stays frozen, in
    eval mode whatever the mode of this module (dropout off, running statistics of batch norm).

    Parameters
    ----------
    model
        The model to linearize, at its present parameters; it is not touched.
    layers
        In the parameters of which layers, as for `hilbertnet.kernels.empirical.empirical_ntk`.

    Attributes
    ----------
    names
        Names of the parameters in `model`.
    displacement
        delta, one parameter for each name.

    Raises
    ------
    ValueError
        If a layer is unknown or has no parameters.

    Notes
    -----
    The product with the gradient is computed in forward mode (``torch.func.jvp``), or, for modules that have none, by
    differentiating the backward pass; this is said once.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 3))
    >>> linear, x = LinearizedModel(model), torch.randn(4, 5)
    >>> bool((linear(x) == model(x)).all()), len(list(linear.displacement))
    (True, 4)
    """

    def __init__(self, model: nn.Module, *, layers: Layers = None) -> None:
        super().__init__()
        self.groups = choose_parameters(model, layers)
        self.names = tuple(name for names in self.groups.values() for name in names)
        self.base = copy.deepcopy(model).requires_grad_(False).eval()
        anchors = self.anchors()
        self.displacement = nn.ParameterList([torch.zeros_like(anchors[name]) for name in self.names])
        self._forward_mode = True

    def train(self, mode: bool = True) -> LinearizedModel:
        """Set the mode; the frozen model stays in eval mode."""
        super().train(mode)
        self.base.eval()
        return self

    def anchors(self) -> dict[str, Tensor]:
        """theta_0, by name."""
        own = dict(self.base.named_parameters())
        return {name: own[name] for name in self.names}

    def deltas(self) -> dict[str, Tensor]:
        """The displacement, by name."""
        return dict(zip(self.names, self.displacement, strict=True))

    def forward(self, x: Tensor) -> Float[Tensor, "n outputs"]:
        """Outputs of the shape that the model's have."""
        if self._forward_mode:
            _load_forward_mode()
            try:
                value, change = jvp(lambda theta: self._at(theta, x), (self.anchors(),), (self.deltas(),))[:2]
                return value + change
            except (RuntimeError, NotImplementedError) as error:
                value = self._at(self.anchors(), x)  # an error of the model itself comes from here
                self._forward_mode = False
                reason = str(error).strip().partition("\n")[0][:120]
                announce(f"linearized model: no forward mode, by differentiating the backward pass ({reason})")
        return self._by_two_backward_passes(x)

    def _at(self, theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.base, dict(theta), (x,))

    def _by_two_backward_passes(self, x: Tensor) -> Tensor:
        """``u -> J' u`` is linear, and its derivative in u in the direction delta is J delta."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            theta = {name: tensor.detach().requires_grad_() for name, tensor in self.anchors().items()}
            value = self._at(theta, x)
            dual = torch.zeros_like(value, requires_grad=True)
            pulled = torch.autograd.grad(value, list(theta.values()), dual, create_graph=True, allow_unused=True)
            used = [(pull, delta) for pull, delta in zip(pulled, self.displacement, strict=True) if pull is not None]
            if used:
                pulls, deltas = zip(*used, strict=True)
                (change,) = torch.autograd.grad(pulls, dual, deltas, create_graph=graph, materialize_grads=True)
                value = value + change
        return value if graph else value.detach()


@lru_cache(maxsize=1)
def _load_forward_mode() -> None:
    """What torch loads for its first product in forward mode warns of a deprecation inside torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))


class LazyModel(nn.Module):
    """A model with its outputs scaled, ``alpha (f_theta(x) - f_0(x))``: lazy as alpha grows.

    Train it on `lazy_objective` with the same `alpha`.

    Parameters
    ----------
    model
        The model to train, in place.
    alpha
        The scale, positive.
    centred
        Whether the outputs at the present parameters, of a frozen copy in eval mode, are subtracted.

    Raises
    ------
    ValueError
        If `alpha` is no positive number.

    Notes
    -----
    With dropout or batch norm the outputs start at 0 in eval mode only.
    """

    def __init__(self, model: nn.Module, alpha: float, centred: bool = True) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.alpha, self.model = _check_alpha(alpha), model
        self.start = copy.deepcopy(model).requires_grad_(False).eval() if centred else None

    def train(self, mode: bool = True) -> LazyModel:
        """Set the mode; the frozen copy stays in eval mode."""
        super().train(mode)
        if self.start is not None:
            self.start.eval()
        return self

    def forward(self, x: Tensor) -> Float[Tensor, "n outputs"]:
        """Scaled outputs, of the shape that the model's have."""
        value = self.model(x)
        return self.alpha * (value if self.start is None else value - self.start(x))


def lazy_objective(alpha: float, objective: Objective | None = None) -> Objective:
    """The loss of a `LazyModel`, divided by ``alpha^2``, so that learning rates mean the same for every alpha.

    The speed at which outputs change then tends, as alpha grows, to that of gradient descent on the linearization.

    Parameters
    ----------
    alpha
        The model's scale.
    objective
        As for `hilbertnet.training.train`; default its classification loss.
    """
    inner, scale = objective or classification_loss(), 1.0 / _check_alpha(alpha) ** 2

    def scaled(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, scores = inner(model, x, y)
        return loss * scale, scores

    return scaled


def _check_alpha(alpha: float) -> float:
    real = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not (real and 0 < alpha < math.inf):
        raise ValueError(f"alpha: expected a positive number, got {alpha!r}")
    return float(alpha)


def tangent_regression(
    model: nn.Module,
    X: Any,
    targets: Any,
    *,
    lam: float = 0.0,
    time: float | None = None,
    layers: Layers = None,
    memory: int | float | str | None = None,
    progress: Progress = None,
) -> LinearizedModel:
    """Kernel regression with a model's empirical tangent kernel, in closed form.

    With Theta the class-by-class kernel of the n examples and r the targets minus the model's outputs, the function is
    ``f_0(x) + Theta(x, X) c`` with ``c = (Theta + n lam I)^(-1) r``, or, at a `time` of the gradient flow on half the
    mean squared error, ``c = Theta^(-1) (I - exp(-time Theta / n)) r``. Both are what training the linearized model
    ends with: on ``classification_loss("ridge")`` with weight decay `lam`, or for as long (steps times learning
    rate).

    Parameters
    ----------
    model
        The model at its initial parameters; it is not touched.
    X
        Examples, n of them, as for `hilbertnet.kernels.empirical.empirical_ntk`.
    targets
        Real numbers, shape (n, outputs); for labels, see `hilbertnet.losses.signs`.
    lam
        0 for the interpolating function of smallest norm (eigenvalues that are rounding errors count as 0), or more.
    time
        When to stop, 0 or more; then `lam` is 0.
    layers
        The kernel of which layers.
    memory, progress
        As for `hilbertnet.kernels.empirical.empirical_ntk`; the eigendecomposition of a matrix of n times outputs rows
        is not part of the budget.

    Returns
    -------
    LinearizedModel
        The function, as the displacement ``sum_i c_i grad f(x_i)`` of the model's linearization: its squared norm is
        that of the function minus f_0 in the RKHS of the kernel.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """
    _check_rule(lam, time)
    linear = LinearizedModel(model, layers=layers)
    x, names = as_examples(X, "X", torch.float64), list(linear.names)
    jacobian = Jacobian(linear.base, {"": names}, torch.float64)
    x = x.to(jacobian.device)
    outputs = jacobian.sizes(x).outputs
    wanted = _as_targets(targets, len(x), outputs).to(x)
    with torch.no_grad():
        start = torch.cat([jacobian.forward(jacobian.chosen, part) for part in x.split(_BATCH)])
    gram = empirical_ntk(linear.base, x, layers=names, trace="class-by-class", memory=memory, progress=progress)
    flat = gram.transpose(1, 2).reshape(len(x) * outputs, -1)
    path = ridge_path(flat, (wanted - start).reshape(-1, 1))
    coefficients = (path.vectors @ (_shrinkage(path, len(x), lam, time)[:, None] * path.rotated)).to(x)
    moved = _pull_back(jacobian, x, coefficients.view(len(x), outputs))
    for name, delta in linear.deltas().items():
        delta.data.copy_(moved[name])
    return linear


def _shrinkage(path: RidgePath, n: int, lam: float, time: float | None) -> Tensor:
    """What the residual is multiplied by, eigenvalue by eigenvalue."""
    values = path.values
    if lam > 0:
        return 1.0 / (values + n * lam)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    grown = torch.ones_like(values) if time is None else -torch.expm1(-values * (time / n))
    return torch.where(kept, grown / values.masked_fill(~kept, 1.0), 0.0)


def _pull_back(jacobian: Jacobian, x: Tensor, coefficients: Tensor) -> dict[str, Tensor]:
    """``sum_ic coefficients_ic grad f_c(x_i)``, by name."""
    total = {name: torch.zeros_like(tensor) for name, tensor in jacobian.chosen.items()}
    for part, weights in zip(x.split(_BATCH), coefficients.split(_BATCH), strict=True):
        leaves = jacobian.leaves()
        with torch.enable_grad():
            value = jacobian.forward(leaves, part)
        found = torch.autograd.grad(value, list(leaves.values()), weights, materialize_grads=True)
        for name, gradient in zip(leaves, found, strict=True):
            total[name] += gradient
    return total


def _check_rule(lam: float, time: float | None) -> None:
    for name, value in (("lam", lam), ("time", 0.0 if time is None else time)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number, 0 or more, got {value!r}")
    if time is not None and lam > 0:
        raise ValueError(f"time: expected lam = 0 with a time at which to stop, got lam = {lam!r}")


def _as_targets(targets: Any, n: int, outputs: int) -> Tensor:
    found = torch.as_tensor(targets).detach()
    if found.shape != (n, outputs) or found.is_complex():
        raise ValueError(f"targets: expected real numbers ({n}, {outputs}), got shape {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise ValueError("targets: expected finite numbers, got NaN or infinity")
    return found
