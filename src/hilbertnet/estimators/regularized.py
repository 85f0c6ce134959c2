"""A plain network of the user's or of ours, trained with any regularizer, as a scikit-learn classifier."""

from __future__ import annotations

import copy
import math
import os
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from hilbertnet.data import Augmentation
from hilbertnet.estimators.inputs import (
    check_checkpoint_seed,
    generator_of,
    labels_like_input,
    like_input,
    read_labels,
    read_signals,
)
from hilbertnet.estimators.models import (
    ModelFunction,
    build_model,
    check_outputs,
    model_function,
    name_of,
    statistics,
    tensor_of,
)
from hilbertnet.losses import decide
from hilbertnet.networks.pieces import check_counts
from hilbertnet.progress import Progress, Stopwatch
from hilbertnet.records import load_tensors, save_tensors
from hilbertnet.regularization.regularizer import Regularizer, as_regularizer
from hilbertnet.regularization.term import Term
from hilbertnet.solvers.linear import validation_folds
from hilbertnet.training import Data, Epoch, Recipe, classification_loss, train
from hilbertnet.training.objective import evaluating

__all__ = ["RegularizedClassifier"]

_KIND = "RegularizedClassifier"
_BATCH, _LOOKED_AT = 512, 64
_PERIOD, _PERIODS = 40, 5  # epochs between two halvings of the learning rate, as published; periods in a short training
_KEPT = ("epochs", "learning_rate", "momentum", "weight_decay", "batch_size", "validation", "precision")


class RegularizedClassifier(ClassifierMixin, BaseEstimator):
    """A network trained by stochastic gradient descent with penalties, robust losses and constraints.

    The learning rate is halved every 40 epochs, as in the published experiments on small data (Bietti, Mialon, Chen and
    Mairal, ICML 2019), and after every fifth of trainings shorter than 200 epochs.

    Parameters
    ----------
    model : str or callable
        ``"cnn"``, a small plain network that fits any signals and whose input is normalized by the mean and deviation
        of every channel; ``"motif"``, for sequences, the maximum over positions of 128 filters of 10 letters;
        ``"vgg"`` (11 layers) or ``"resnet"`` (18), for square images of a multiple of 32 pixels;
        ``"package.module:function"``, or that function itself, from the shape (channels, *space) of a signal and the
        number of classes to a torch module. Its logits are as many as classes; two classes may have one.
    regularizer : Regularizer, term, str or None
        Such as ``"delta(1.0) + 0.1*tau + sn(1.5)"``, see `hilbertnet.regularization`.
    epochs, batch_size : int
        Passes over the training data; examples in a batch. The defaults are for some hundreds of examples; take fewer
        epochs and larger batches for many thousands.
    learning_rate, momentum, weight_decay : float
        Of stochastic gradient descent; the rate at first.
    augmentation : Augmentation, str or None
        Random changes of training images, such as ``"crop(4) | flip"``.
    validation : float or None
        Share of the training data held out, stratified, on which the epoch is selected by plain accuracy; ``None`` or 0
        trains on all of them and keeps the last epoch. A constraint with a schedule is, in an epoch selected, as far as
        it had come by then.
    input_shape : tuple or None
        Shape (channels, height, width) or (channels, length) of the signals that rows are; rows without are signals of
        one position.
    random_state : int, RandomState, Generator or None
        Of the weights, the order of examples, and whatever is random in model and regularizer.
    device : str or None
        Where to compute; default where `X` is.
    precision : str
        ``"float32"`` (the dtype of `X`, or of the user's model), or ``"bfloat16"`` or ``"float16"`` for mixed
        precision.
    checkpoint : path or None
        A file from which an interrupted `fit` goes on, to the same bits; it needs a whole number as `random_state`.
    progress : bool, callable or None
        ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total) epochs.

    Attributes
    ----------
    module_ : Module
        The fitted network in eval mode, from signals to logits.
    regularizer_ : Regularizer
        What `regularizer` says; without a term if it is ``None``.
    classes_ : array
        Labels.
    history_ : list of Epoch
        What training recorded; not in a saved file.
    signal_shape_ : tuple
        Shape (channels, *space) of one signal.
    seconds_ : dict
        Seconds of the stages of the fit.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> X = (X / 16).astype("float32")
    >>> model = RegularizedClassifier("cnn", "grad_l2 + sn(4)", epochs=10, input_shape=(1, 8, 8))
    >>> model.set_params(random_state=0).fit(X[:500], y[:500]).regularizer_.constraint[0].tau
    4.0
    >>> bool(model.score(X[500:], y[500:]) > 0.8)
    True
    """

    def __init__(
        self,
        model: str | ModelFunction = "cnn",
        regularizer: Regularizer | Term | str | None = None,
        *,
        epochs: int = 100,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_size: int = 32,
        augmentation: Augmentation | str | None = None,
        validation: float | None = None,
        input_shape: tuple[int, ...] | None = None,
        random_state: Any = None,
        device: str | None = None,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
    ) -> None:
        self.model = model
        self.regularizer = regularizer
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.validation = validation
        self.input_shape = input_shape
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.progress = progress

    def fit(self, X: Any, y: Any) -> RegularizedClassifier:
        """Train the network.

        Parameters
        ----------
        X
            Images (n, channels, height, width), signals (n, channels, length) or rows (n, features), in [0, 1].
        y
            Labels, shape (n,).

        Raises
        ------
        ValueError
            If a parameter, the data or the network is not as described; `DivergedError`, one of these, if the loss of a
            batch is not finite.
        """
        clock = Stopwatch()
        self._check()
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        self.regularizer_ = as_regularizer(self.regularizer)
        augment = None if self.augmentation is None else Augmentation.parse(str(self.augmentation))
        signals = read_signals(self, X, reset=True)
        self.classes_, labels = read_labels(y)
        if len(labels) != len(signals):
            raise ValueError(f"y: expected {len(signals)} labels, as many as signals in X, got {len(labels)}")
        weights_seed, training_seed, regularizer_seed, split_seed = self._seeds()
        module = self._build(signals, weights_seed)
        signals, labels = signals.to(tensor_of(module)), labels.to(tensor_of(module).device)
        first = signals[:_LOOKED_AT]
        check_outputs(module, first, len(self.classes_), weights_seed)
        data, held_out = self._split(signals, labels, split_seed)
        plain = classification_loss()
        bound = self.regularizer_.bind(data[0], regularizer_seed, objective=plain)
        optimizer = torch.optim.SGD(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        self.history_: list[Epoch] = train(
            module,
            data,
            held_out,
            optimizer,
            Recipe(self.epochs, self.batch_size, training_seed, precision=self.precision),
            schedule=torch.optim.lr_scheduler.MultiStepLR(optimizer, _milestones(self.epochs), gamma=0.5),
            objective=bound.objective,
            validation_objective=plain,
            penalty=bound.penalty,
            constraint=bound.constraint,
            augment=augment,
            checkpoint=self.checkpoint,
            settings={
                "regularizer": str(self.regularizer_),
                "augmentation": None if augment is None else str(augment),
                "model name": name_of(self.model),
                "epochs": self.epochs,
            },
            progress=self.progress,
        )
        self.module_ = module.eval()
        check_outputs(module, first, len(self.classes_), weights_seed, trained=True)
        clock.lap("training")
        self.seconds_ = clock.laps
        return self

    def _check(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        for name, least in (("learning_rate", None), ("momentum", 0.0), ("weight_decay", 0.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or not (value > 0 if least is None else value >= least):
                raise ValueError(f"{name}: expected a {'positive number' if least is None else 'number of at least 0'}"
                                 f", got {value!r}")  # fmt: skip
        if not self.momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {self.momentum!r}")
        share = self.validation
        if share and (isinstance(share, bool) or not isinstance(share, float | np.floating) or not 0 < share < 1):
            raise ValueError(f"validation: expected a share in (0, 1), or None, got {share!r}")
        if self.checkpoint is not None:
            check_checkpoint_seed(self.random_state)

    def _seeds(self) -> list[int]:
        return torch.randint(2**31, (4,), generator=generator_of(self.random_state)).tolist()

    def _build(self, signals: Tensor, seed: int) -> nn.Module:
        """The network, on the device; ours in the dtype of the signals."""
        function = model_function(self.model, statistics(signals))
        module = build_model(function, self.signal_shape_, len(self.classes_), seed)
        if isinstance(self.model, str) and ":" not in self.model:
            module = module.to(signals.dtype if self.precision == "float32" else torch.float32)
        return module.to(signals.device if self.device is None else torch.device(self.device))

    def _split(self, signals: Tensor, labels: Tensor, seed: int) -> tuple[Data, Data | None]:
        if not self.validation:
            return (signals, labels), None
        folds = validation_folds(labels, float(self.validation), torch.Generator().manual_seed(seed))
        if not folds:
            raise ValueError(
                f"validation: expected a share that leaves examples on both sides, got {self.validation!r} of "
                f"{len(labels)}"
            )
        mask = folds[0]
        return (signals[~mask], labels[~mask]), (signals[mask], labels[mask])

    @torch.no_grad()
    def _logits(self, X: Any) -> Tensor:
        """Shape (n, outputs)."""
        check_is_fitted(self, "module_")
        signals, like = read_signals(self, X, reset=False), tensor_of(self.module_)
        with evaluating(self.module_):
            parts = [self.module_(part.to(like)) for part in signals.split(_BATCH)]
        found = torch.cat(parts)
        return found[:, None] if found.ndim == 1 else found

    def decision_function(self, X: Any) -> Any:
        """Logits, shape (n, classes); of two classes that of the second less that of the first, shape (n,)."""
        found = self._logits(X)
        if len(self.classes_) == 2:
            found = found[:, 0] if found.shape[1] == 1 else found[:, 1] - found[:, 0]
        return like_input(found, X)

    def predict(self, X: Any) -> Any:
        """Labels, shape (n,): an array, or a tensor if `X` is one and labels are numbers."""
        numbers = decide(self._logits(X)).cpu().numpy()
        return labels_like_input(self.classes_[numbers], X)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, shape (n, classes)."""
        found = self._logits(X)
        both = torch.cat([-found / 2, found / 2], dim=1) if found.shape[1] == 1 else found
        return like_input(both.softmax(dim=1), X)

    def as_module(self) -> nn.Module:
        """The fitted function as a torch module: a copy of ``module_``.

        Returns
        -------
        Module
            From signals (n, channels, *space) in [0, 1] to logits (n, outputs).
        """
        check_is_fitted(self, "module_")
        return copy.deepcopy(self.module_).eval()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted network to one safetensors file, and what it was fitted with to its header.

        The code of a network is not written: one given as a function is called again by its name, if it was given by
        its name, or must be given to `load`.
        """
        check_is_fitted(self, "module_")
        state = self.module_.state_dict()
        strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if strange:
            raise ValueError(f"model: expected a state of tensors only, which a file can hold, got {strange[0]!r}")
        header = {
            "kind": _KIND,
            "model": self.model if isinstance(self.model, str) else None,
            "model_name": name_of(self.model),
            "dtype": str(tensor_of(self.module_).dtype).removeprefix("torch."),
            "regularizer": str(self.regularizer_),
            "augmentation": None if self.augmentation is None else str(self.augmentation),
            "signal_shape": list(self.signal_shape_),
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "settings": {name: _plain(getattr(self, name)) for name in _KEPT},
        }
        save_tensors(path, {f"module.{name}": value for name, value in state.items()}, header)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str = "cpu", model: str | ModelFunction | None = None
    ) -> RegularizedClassifier:
        """Read what `save` wrote: a fitted model that predicts the same.

        A network that was given as ``"package.module:function"`` is made by importing and calling that function: load
        such files only from where you would run code from.

        Parameters
        ----------
        path
            The file.
        device
            Where it is to compute.
        model
            What makes the network, if it was given as a function; default what the file names.

        Raises
        ------
        ValueError
            If the file is not a saved classifier, or the network cannot be made or has other weights.
        """
        tensors, header = load_tensors(path, _KIND)
        if model is None and "model" in header and header["model"] is None:
            raise ValueError(
                f"{path}: its network was given as the function {header.get('model_name')}, which a file cannot hold; "
                "give it to load as model=, or fit with model='package.module:function'"
            )
        try:
            return cls._restore(tensors, header, device, header["model"] if model is None else model)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: expected a saved {_KIND}, but {reason}") from None

    @classmethod
    def _restore(
        cls, tensors: dict[str, Tensor], header: dict[str, Any], device: str, model: str | ModelFunction
    ) -> RegularizedClassifier:
        shape = header["input_shape"]
        found = cls(
            model,
            header["regularizer"],
            augmentation=header["augmentation"],
            input_shape=None if shape is None else tuple(shape),
            device=device,
            **{name: header["settings"][name] for name in _KEPT},
        )
        found.regularizer_ = as_regularizer(header["regularizer"])
        found.signal_shape_ = tuple(header["signal_shape"])
        found.n_features_in_ = math.prod(found.signal_shape_)
        found.classes_ = np.array(header["classes"], dtype=header["classes_dtype"])
        module = build_model(model_function(model), found.signal_shape_, len(found.classes_), 0)
        module.to(getattr(torch, header["dtype"]))
        module.load_state_dict({name.removeprefix("module."): value for name, value in tensors.items()})
        found.module_ = module.to(device).eval()
        return found


def _milestones(epochs: int) -> list[int]:
    """The epochs after which the learning rate is halved."""
    period = min(_PERIOD, epochs / _PERIODS)
    ends = {math.ceil(number * period) for number in range(1, math.ceil(epochs / period))}
    return sorted(ends - {epochs})


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's, for JSON."""
    return value.item() if isinstance(value, np.generic) else value
