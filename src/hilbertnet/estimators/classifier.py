"""A classifier on convolutional kernel networks, unsupervised or trained end to end, as a scikit-learn estimator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from hilbertnet.architecture import Architecture
from hilbertnet.data import Augmentation, Preprocessing
from hilbertnet.estimators.base import CKNEstimator
from hilbertnet.estimators.checkpoint import Checkpoint
from hilbertnet.estimators.decisions import DecisionModule
from hilbertnet.estimators.inputs import (
    check_checkpoint_seed,
    check_lambdas,
    labels_like_input,
    like_input,
    read_labels,
    read_regularizer,
)
from hilbertnet.losses import LOSSES, Loss
from hilbertnet.networks import CKN
from hilbertnet.networks.inverse_root import Regularization
from hilbertnet.networks.supervised import CKNNet, train_supervised
from hilbertnet.progress import Progress, Stopwatch
from hilbertnet.records import digest, load_tensors, save_tensors
from hilbertnet.regularization.regularizer import Regularizer
from hilbertnet.solvers.linear import (
    LAMBDAS,
    Eigenbasis,
    LinearHead,
    ValidationPoint,
    fit_head,
    select_lambda,
    standardize_,
    validation_folds,
    with_features_scaled,
)
from hilbertnet.training import Epoch, Recipe, classification_loss

__all__ = ["CKNClassifier"]

Training = Literal["unsupervised", "supervised"]
TRAINING: tuple[Training, ...] = ("unsupervised", "supervised")
_CLIP = 1.0  # of supervised training: heads of small lambda have large weights, and so have gradients of filters
_START = 1e-3  # least lambda of the head that penalties start from: the weights of a smaller one are too large
_NOT_KEPT = ("checkpoint", "progress")  # parameters that change nothing of what is learned


def _has_probabilities(estimator: CKNClassifier) -> bool:
    if estimator.loss != "logistic":
        raise AttributeError(f"predict_proba needs loss='logistic', got {estimator.loss!r}")
    return True


class CKNClassifier(ClassifierMixin, CKNEstimator):
    """A linear classifier on the features of an unsupervised convolutional kernel network.

    Features are centred and scaled to a mean squared norm of one; lambda, the weight of ``||W||^2 / 2`` beside the mean
    loss, is chosen on held-out folds of the training data, then the head is fitted on all of them.

    Parameters
    ----------
    architecture, filters, input_shape, preprocessing, patches, iterations, regularization, epsilon, random_state, \
device, progress
        See `CKNFeatures`.
    loss : str
        ``"squared_hinge"`` (one against all), ``"logistic"`` or ``"ridge"``.
    alpha : float or None
        lambda; ``None`` chooses it among `alphas`.
    alphas : sequence of float or None
        Values to try; default 1e-1 ... 1e-8.
    validation : int, float or None
        Folds that choose lambda, or the share of one held-out set; default 5 below 5,000 examples, one fifth above.
    checkpoint : path or None
        A file where `fit` keeps what it has learned while it lasts. Interrupted and called again with the same data,
        parameters and threads, `fit` goes on from there to the same model. It needs a whole number as `random_state`.
    training : str
        ``"unsupervised"``: filters are learned without labels. ``"supervised"``: they are then trained by
        back-propagation, on what `validation` does not hold out (one fifth unless given); the epoch is selected there,
        and lambda chosen anew.
    epochs, learning_rate, batch_size : int, float, int
        Of supervised training, see `hilbertnet.networks.train_supervised`; gradients are clipped to norm 1.
    augmentation : Augmentation, str or None
        Random changes of images in supervised training, such as ``"crop(4) | flip"``.
    regularizer : Regularizer, str or None
        Of supervised training, such as ``"delta(0.5)"``; it sees preprocessed images. An exact head knows no penalties,
        so with one the head is fitted exactly at the start only, then trained with the filters, on all training data,
        and the last epoch is kept: an early one, before penalties and constraints have acted, may well validate best.

    Attributes
    ----------
    network_ : CKN
        The fitted network.
    preprocessing_ : Preprocessing or None
        The fitted preprocessing.
    head_ : LinearHead
        The fitted head, on raw features.
    alpha_ : float
        The lambda used.
    validation_curve_ : list of ValidationPoint
        Accuracy and loss on held-out folds for every lambda tried; empty if `alpha` was given.
    classes_ : array
        Labels.
    history_ : list of Epoch
        What supervised training recorded; empty without.
    seconds_ : dict
        Seconds of each stage of the fit.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = CKNClassifier(filters=(16, 32), input_shape=(1, 8, 8), random_state=0).fit(X[:900] / 16, y[:900])
    >>> bool(model.score(X[900:] / 16, y[900:]) > 0.95)
    True
    """

    def __init__(
        self,
        architecture: Architecture | str | None = None,
        filters: Sequence[int] | None = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        preprocessing: Preprocessing | str | None = None,
        loss: Loss = "squared_hinge",
        alpha: float | None = None,
        alphas: Sequence[float] | None = None,
        validation: int | float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        training: Training = "unsupervised",
        epochs: int = 30,
        learning_rate: float = 0.03,
        batch_size: int = 128,
        augmentation: Augmentation | str | None = None,
        regularizer: Regularizer | str | None = None,
        patches: int | None = None,
        iterations: int = 20,
        regularization: Regularization = "root",
        epsilon: float | None = None,
        random_state: Any = None,
        device: str | None = None,
        progress: Progress = False,
    ) -> None:
        self.architecture = architecture
        self.filters = filters
        self.input_shape = input_shape
        self.preprocessing = preprocessing
        self.loss = loss
        self.alpha = alpha
        self.alphas = alphas
        self.validation = validation
        self.checkpoint = checkpoint
        self.training = training
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.regularizer = regularizer
        self.patches = patches
        self.iterations = iterations
        self.regularization = regularization
        self.epsilon = epsilon
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any) -> CKNClassifier:
        """Learn the filters without labels, then the linear head.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features).
        y
            Labels, shape (n,).
        """
        if self.loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        lambdas = check_lambdas(self.alpha, LAMBDAS if self.alphas is None else self.alphas)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if self.training not in TRAINING:
            raise ValueError(f"training: expected one of {', '.join(TRAINING)}, got {self.training!r}")
        regularizer = read_regularizer(self.regularizer, self.preprocessing)
        if regularizer.terms and self.training != "supervised":
            raise ValueError(f"regularizer: only for training='supervised', got {str(regularizer)!r}")
        self.classes_, labels = read_labels(y)
        unfinished = self._unfinished(X, labels)
        clock = Stopwatch()
        signals = self._fit_network(X, unfinished)
        if len(signals) != len(labels):
            raise ValueError(f"y: expected {len(signals)} labels, as many as signals in X, got {len(labels)}")
        clock.lap("filters")
        self.history_: list[Epoch] = []
        selects = self.training == "supervised" and not regularizer.terms  # its epoch, on the set for lambda too
        share = 0.2 if selects and self.validation is None else self.validation
        # a stream of its own: the folds are the same whether the filters were learned now or before
        folds = validation_folds(labels, share, self._generator())
        self._fit_head(signals, labels, lambdas, folds, unfinished, clock)
        if self.training == "supervised":
            self._train(signals, labels, folds[0] if selects else None, regularizer)
            clock.lap("training")
            if selects:
                # the other folds, if there are, have trained the filters and could not judge them
                self._fit_head(signals, labels, lambdas, folds[:1], None, clock)
        self.seconds_ = clock.laps
        if unfinished is not None:
            unfinished.remove()
        return self

    def _train(self, signals: Tensor, labels: Tensor, held_out: Tensor | None, regularizer: Regularizer) -> None:
        """Train ``network_`` (with a regularizer also ``head_``) on what is not held out, with its lambda so far."""
        augment = None if self.augmentation is None else Augmentation.parse(str(self.augmentation))
        generator, labels = self._generator(), labels.to(signals.device)
        seed = int(torch.randint(2**31, (), generator=generator))
        net = CKNNet(self.network_, tuple(signals.shape[2:]), len(self.classes_))
        data, validation = (signals, labels), None
        if held_out is not None:
            mask = held_out.to(signals.device)
            data, validation = (signals[~mask], labels[~mask]), (signals[mask], labels[mask])
        bound: dict[str, Any] = {}
        if regularizer.terms:
            net.refit_(*data, self.loss, max(self.alpha_, _START))
            regularizer_seed = int(torch.randint(2**31, (), generator=generator))
            plain = classification_loss(self.loss)
            bound = {"refit": False, "regularizer": regularizer.bind(data[0], regularizer_seed, objective=plain)}
        self.history_ = train_supervised(
            net,
            data,
            validation,
            Recipe(self.epochs, self.batch_size, seed, clip=_CLIP),
            loss=self.loss,
            lam=self.alpha_,
            learning_rate=self.learning_rate,
            augment=augment,
            checkpoint=None if self.checkpoint is None else f"{os.fspath(self.checkpoint)}.training",
            progress=self.progress,
            **bound,
        )
        self.network_.requires_grad_(False)
        if regularizer.terms:
            self.head_ = net.linear_head(self.alpha_, self.loss)

    def _fit_head(
        self,
        signals: Tensor,
        labels: Tensor,
        lambdas: Sequence[float],
        folds: Sequence[Tensor],
        unfinished: Checkpoint | None,
        clock: Stopwatch,
    ) -> None:
        """Set ``alpha_``, ``validation_curve_`` and ``head_`` for ``network_`` as it is."""
        features = self.network_.encode(signals, progress=self.progress)
        clock.lap("features")
        mean, scale = standardize_(features)
        labels = labels.to(features.device)
        self.validation_curve_: list[ValidationPoint] = []
        self.alpha_ = lambdas[0]
        basis = Eigenbasis(features)
        if len(lambdas) > 1:
            self.alpha_, self.validation_curve_ = select_lambda(
                features,
                labels,
                len(self.classes_),
                self.loss,
                lambdas,
                [fold.to(features.device) for fold in folds],
                basis=basis,
                done=None if unfinished is None else unfinished.path,
                keep=None if unfinished is None else partial(unfinished.keep, self.network_),
                progress=self.progress,
            )
        clock.lap("lambda")
        head = fit_head(features, labels, len(self.classes_), self.loss, self.alpha_, basis=basis, max_iter=100)
        self.head_ = with_features_scaled(head, mean, scale)
        clock.lap("head")

    def _unfinished(self, X: Any, labels: Tensor) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        check_checkpoint_seed(self.random_state)
        kept = {name: repr(value) for name, value in self.get_params().items() if name not in _NOT_KEPT}
        data = {"X": digest(X if isinstance(X, Tensor) else np.asarray(X)), "y": digest(labels)}
        return Checkpoint(self.checkpoint, {**kept, **data, "threads": torch.get_num_threads()})

    def decision_function(self, X: Any) -> Any:
        """Decision values, shape (n,) for two classes and (n, classes) for more, in the kind of `X`."""
        check_is_fitted(self)
        scores = self.head_.scores(self._encode(X))
        return like_input(scores[:, 0] if scores.shape[1] == 1 else scores, X)

    def predict(self, X: Any) -> Any:
        """Labels, shape (n,): an array, or a tensor if `X` is one and labels are numbers."""
        check_is_fitted(self)
        found = self.classes_[self.head_.classes(self._encode(X)).cpu().numpy()]
        return labels_like_input(found, X)

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, shape (n, classes), for ``loss="logistic"``."""
        scores = torch.as_tensor(self.decision_function(X))
        both = torch.stack([-scores / 2, scores / 2], dim=1) if scores.ndim == 1 else scores
        return like_input(both.softmax(dim=1), X)

    def as_module(self) -> nn.Module:
        """The fitted function as a torch module: a copy, preprocessing inside, that can be differentiated.

        Returns
        -------
        Module
            From signals (n, channels, *space) in [0, 1] to decision values (n, outputs), one output for two classes.
        """
        check_is_fitted(self)
        return DecisionModule(self.preprocessing_, self.network_, self.head_)

    # --- save, load

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file; parameters of the fit are kept in its header."""
        check_is_fitted(self)
        tensors = {f"network.{name}": value for name, value in self.network_.state_dict().items()}
        tensors |= {"head.weight": self.head_.weight, "head.bias": self.head_.bias}
        if self.preprocessing_ is not None:
            tensors |= {f"preprocessing.{name}": value for name, value in self.preprocessing_.tensors().items()}
        header = {
            "kind": "CKNClassifier",
            "network": self.network_.config(),
            "preprocessing": None if self.preprocessing_ is None else str(self.preprocessing_),
            "signal_shape": list(self.signal_shape_),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "loss": self.head_.loss,
            "lambda": self.head_.lam,
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "validation_curve": [asdict(point) for point in self.validation_curve_],
        }
        save_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> CKNClassifier:
        """Read what `save` wrote: a fitted model that predicts the same.

        Parameters
        ----------
        path
            The file.
        device
            Where it is to compute.

        Raises
        ------
        ValueError
            If the file is not a saved classifier.
        """
        tensors, header = load_tensors(path, "CKNClassifier")
        try:
            return cls._restore(tensors, header, device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: expected a saved CKNClassifier, but {reason}") from None

    @classmethod
    def _restore(cls, tensors: dict[str, Tensor], header: dict[str, Any], device: str) -> CKNClassifier:
        network = CKN.from_config(header["network"], tensors, prefix="network.")
        shape, steps = header["input_shape"], header.get("preprocessing")
        model = cls(
            network.arch,
            network.filters,
            input_shape=None if shape is None else tuple(shape),
            preprocessing=steps,
            loss=header["loss"],
            alpha=header["lambda"],
            regularization=header["network"]["regularization"],
            epsilon=header["network"]["epsilon"],
            device=device,
        )
        model.network_ = network.to(device)
        prefix = "preprocessing."
        fitted = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        model.preprocessing_ = None if steps is None else Preprocessing.from_tensors(steps, fitted)
        model.signal_shape_ = tuple(header["signal_shape"])
        model.n_features_in_ = int(np.prod(model.signal_shape_))
        model.classes_ = np.array(header["classes"], dtype=header["classes_dtype"])
        model.alpha_ = header["lambda"]
        model.validation_curve_ = [ValidationPoint(**point) for point in header["validation_curve"]]
        weight, bias = (tensors[f"head.{name}"].to(device) for name in ("weight", "bias"))
        model.head_ = LinearHead(weight, bias, header["lambda"], header["loss"])
        return model
