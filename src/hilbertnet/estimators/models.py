"""The networks that `RegularizedClassifier` trains: by name, by a function, or by the function's name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hilbertnet.named import function_named, is_name
from hilbertnet.networks import PlainCNN, resnet, vgg
from hilbertnet.networks.pieces import check_classes, convolution_layer, linear_layer, output_count
from hilbertnet.robustness.sanity import probability_warning
from hilbertnet.signals import as_rng
from hilbertnet.text import nearest
from hilbertnet.training.objective import evaluating

__all__ = [
    "MODELS",
    "ModelFunction",
    "build_model",
    "check_outputs",
    "model_function",
    "motif_cnn",
    "name_of",
    "small_cnn",
    "statistics",
    "tensor_of",
]

ModelFunction = Callable[[tuple[int, ...], int], nn.Module]
"""From the shape (channels, *space) of one signal and the number of classes to a network."""

MODELS = ("cnn", "motif", "vgg", "resnet")
_SMALLEST, _MOST_LAYERS, _WIDEST = 3, 8, 256


def small_cnn(
    shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 32,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """A small plain network for signals of any shape: convolutions with ReLU and average pooling, a linear layer.

    Each layer has patches of 3 and twice as many channels as the one before, up to 256, and halves every axis longer
    than 3; the last layer is the first after which none is. Signals of one position (rows) get one hidden layer.

    Parameters
    ----------
    shape
        Shape (channels, *space) of one signal, with one or two axes of space.
    classes
        At least 2; two classes have one logit.
    width
        Channels of the first layer.
    mean, std
        Of the channels of the signals; default 0 and 1.
    generator
        Seed or ``torch.Generator`` of the weights.

    Returns
    -------
    PlainCNN
        From signals (n, *shape) to logits.

    Examples
    --------
    >>> net = small_cnn((1, 8, 8), 10, generator=0)
    >>> net.maps(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 64, 2, 2])
    """
    check_classes(classes)
    rng, (channels, *space), parts = as_rng(generator), shape, list[nn.Module]()
    pooling: Any = nn.AvgPool2d if len(space) == 2 else nn.AvgPool1d
    while not parts or (max(space) > _SMALLEST and len(parts) < 3 * _MOST_LAYERS):
        out, patch = min(max(width, _WIDEST), width << (len(parts) // 3)), 3 if max(space) > 1 else 1
        parts += [convolution_layer(channels, out, rng, patch=patch, axes=len(space), bias=True), nn.ReLU()]
        halves = tuple(2 if side > _SMALLEST else 1 for side in space)
        parts.append(pooling(halves) if max(halves) > 1 else nn.Identity())
        channels, space = out, [side // half for side, half in zip(space, halves, strict=True)]
    head = linear_layer(channels * math.prod(space), output_count(classes), rng)
    return PlainCNN(nn.Sequential(*parts), head, shape, mean=mean, std=std)


def motif_cnn(
    shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 128,
    patch: int = 10,
    generator: int | torch.Generator | None = None,
) -> PlainCNN:
    """A plain network of sequences: filters that each look for one motif anywhere.

    One convolution without bias, over patches that may begin before the sequence and end after it, ReLU, the maximum
    over positions, a linear layer. Zeros past the end of a sequence change nothing, however many they are.

    Parameters
    ----------
    shape
        Shape (symbols, length) of one sequence.
    classes
        At least 2; two classes have one logit.
    width
        How many filters.
    patch
        Letters of each.
    generator
        Seed or ``torch.Generator`` of the weights.

    Returns
    -------
    PlainCNN
        From sequences (n, symbols, length) to logits.

    Raises
    ------
    ValueError
        If `shape` is not that of a signal.

    Examples
    --------
    >>> net = motif_cnn((4, 30), 3, generator=0)
    >>> net.maps(torch.zeros(2, 4, 30)).shape
    torch.Size([2, 128, 1])
    """
    check_classes(classes)
    if len(shape) != 2:
        raise ValueError(
            f"model: motif takes sequences and signals (n, channels, length), got {' x '.join(map(str, shape))}; "
            "cnn takes signals of any shape"
        )
    rng = as_rng(generator)
    convolution = convolution_layer(shape[0], width, rng, patch=patch, axes=1, padding=patch - 1, bias=False)
    body = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool1d(shape[1] + patch - 1))
    return PlainCNN(body, linear_layer(width, output_count(classes), rng), shape)


def model_function(model: Any, moments: tuple[list[float], list[float]] | None = None) -> ModelFunction:
    """What builds the network that a parameter ``model`` names.

    Parameters
    ----------
    model
        ``"cnn"``, ``"motif"``, ``"vgg"``, ``"resnet"``, ``"package.module:function"`` or the function itself.
    moments
        Mean and standard deviation of every channel, for ``"cnn"``.

    Raises
    ------
    ValueError
        If it is none of these, or cannot be imported.
    """
    if callable(model):
        return model
    if is_name(model):
        return function_named("model", model)
    if model == "cnn":
        mean, std = moments or (None, None)
        return lambda shape, classes: small_cnn(shape, classes, mean=mean, std=std, generator=_seed())
    if model == "motif":
        return lambda shape, classes: motif_cnn(shape, classes, generator=_seed())
    if model in ("vgg", "resnet"):
        return lambda shape, classes: _published(model, shape, classes)
    hint = nearest(model, MODELS) if isinstance(model, str) else ""
    raise ValueError(
        f"model: expected one of {', '.join(MODELS)}, 'package.module:function' or a function of the shape of a "
        f"signal and the number of classes, got {model!r}{hint}"
    )


def build_model(function: ModelFunction, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The network for signals of a shape, its weights drawn with a seed; torch's global generator is left as it was.

    Raises
    ------
    ValueError
        If the function returns something else, or a network with nothing to train.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = function(shape, classes)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model: expected a function that returns a torch module, got {type(module).__name__}")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("model: expected a module with parameters to train, got none")
    return module


@torch.no_grad()
def check_outputs(module: nn.Module, x: Tensor, classes: int, seed: int, *, trained: bool = False) -> None:
    """Refuse a network that does not give one logit for each class (two classes may have one), warn of probabilities.

    Lazy layers get their weights here, drawn with the seed. Of one output, an untrained network's logits of many
    signals may well be between 0 and 1: that is looked at once it is `trained`, and not where the network is one of
    ours, whose outputs are logits.

    Raises
    ------
    ValueError
        If the logits of `x`, shape (n, channels, *space), have another shape.
    """
    with evaluating(module), torch.random.fork_rng():
        torch.manual_seed(seed)
        found = module(x)
    if not isinstance(found, Tensor):
        raise ValueError(f"model: expected logits, a tensor, got {type(found).__name__}")
    allowed = [(len(x), classes)] + ([(len(x), 1), (len(x),)] if classes == 2 else [])
    if tuple(found.shape) not in allowed or not found.is_floating_point():
        wanted = f"{classes} logits" + (", or one," if classes == 2 else "")
        raise ValueError(
            f"model: expected {wanted} for each signal, as y has {classes} classes; for signals {tuple(x.shape)} got "
            f"{tuple(found.shape)} {found.dtype}"
        )
    single, ours = found.ndim == 1 or found.shape[1] == 1, type(module).__module__.startswith("hilbertnet.")
    suspicion = probability_warning(found.reshape(len(x), -1)) if trained == single and not ours else None
    if suspicion is not None:
        warnings.warn(suspicion, stacklevel=3)


def statistics(signals: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel; a constant channel keeps its scale."""
    channels = signals.detach().double().transpose(0, 1).flatten(1)
    deviation = channels.std(1, correction=0)
    floor = 1e-12 * channels.abs().amax(1)
    return channels.mean(1).tolist(), torch.where(deviation > floor, deviation, 1.0).tolist()


def tensor_of(module: nn.Module) -> Tensor:
    """Some parameter of real numbers: signals get its dtype and device."""
    return next(parameter for parameter in module.parameters() if parameter.is_floating_point())


def name_of(model: Any) -> str:
    return model if isinstance(model, str) else f"{model.__module__}:{getattr(model, '__qualname__', type(model))}"


def _published(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] % 32:
        raise ValueError(
            f"model: {name} takes square images of a multiple of 32 pixels, got {' x '.join(map(str, shape))}; "
            "cnn takes signals of any shape"
        )
    return {"vgg": vgg, "resnet": resnet}[name](shape[0], classes, size=shape[1], generator=_seed())


def _seed() -> int:
    """From torch's global generator, which `build_model` has seeded."""
    return int(torch.randint(2**31, ()))
