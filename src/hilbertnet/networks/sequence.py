"""Networks of sequences of different lengths: maps of the positions, their mean or maximum inside, and a linear head.

A batch is padded to one length; a mask says where each sequence is, and no position past its end counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.networks.ckn import CKN
from hilbertnet.networks.layer import check_mask, zero_past_end
from hilbertnet.networks.pieces import (
    check_classes,
    check_counts,
    convolution_layer,
    linear_layer,
    output_count,
)
from hilbertnet.signals import as_rng, is_count

__all__ = ["MaskedConvolutions", "SequenceCNN", "SequenceNet", "pack", "pool_inside", "unpack"]

GlobalPooling = Literal["mean", "max"]


def pack(x: Tensor, mask: Bool[Tensor, "n length"]) -> Float[Tensor, "n packed length"]:
    """Sequences and their mask as one tensor, as `hilbertnet.training.train` takes it: the mask is the last channel.

    Parameters
    ----------
    x
        Shape (n, channels, length), or numbers of symbols (n, length), which are taken as one channel.
    mask
        Shape (n, length), true up to the end of each sequence.

    Returns
    -------
    Tensor
        Shape (n, channels + 1, length), in the dtype of `x`.

    Raises
    ------
    ValueError
        If the mask is not of this form.

    Examples
    --------
    >>> packed = pack(torch.ones(1, 4, 3), torch.tensor([[True, True, False]]))
    >>> packed.shape, packed[0, 4].tolist()
    (torch.Size([1, 5, 3]), [1.0, 1.0, 0.0])
    """
    x = x.unsqueeze(1) if x.ndim == 2 else x
    check_mask(mask, x)
    return torch.cat([x, mask[:, None].to(x)], dim=1)


def unpack(packed: Float[Tensor, "n packed length"]) -> tuple[Tensor, Tensor]:
    """What `pack` packed: x, shape (n, channels, length), and the mask."""
    if packed.ndim != 3 or packed.shape[1] < 2:
        raise ValueError(f"x: expected packed shape (n, channels + 1, length), got {tuple(packed.shape)}")
    return packed[:, :-1], packed[:, -1] > 0


def pool_inside(
    maps: Float[Tensor, "n channels length"], mask: Bool[Tensor, "n length"] | None, pool: GlobalPooling
) -> Float[Tensor, "n channels"]:
    """The mean or the maximum over the positions where `mask` is true; over all if it is ``None``."""
    if mask is None:
        return maps.mean(2) if pool == "mean" else maps.amax(2)
    if pool == "mean":
        return zero_past_end(maps, mask).sum(2) / mask.sum(1).clamp(min=1)[:, None]
    return torch.where(mask[:, None], maps, -torch.inf).amax(2)


class MaskedConvolutions(nn.Module):
    """Convolutions with biases and ReLU of signals of different lengths; every map is zero past the end.

    The length is kept; beyond both ends lie zeros. Convolutions start as N(0, 2 / fan_in), with biases 0.

    Parameters
    ----------
    in_channels
        Channels of the signals.
    widths
        Channels of every layer.
    patch
        Length of the patches.
    generator
        Seed or ``torch.Generator`` of the weights.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        patch: int,
        generator: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, patch=patch)
        counts = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str) else ()
        if not counts or not all(map(is_count, counts)):
            raise ValueError(f"widths: expected positive whole numbers, one for each layer, got {widths!r}")
        self.in_channels, self.out_channels, self.patch = in_channels, counts[-1], patch
        rng, layers = as_rng(generator), []
        for inputs, out in zip((in_channels, *counts[:-1]), counts, strict=True):
            layers.append(convolution_layer(inputs, out, rng, patch=patch, axes=1, padding=0, bias=True))
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "n channels length"], mask: Bool[Tensor, "n length"] | None = None
    ) -> Float[Tensor, "n width length"]:
        """The last maps.

        Parameters
        ----------
        x
            Signals, shape (n, in_channels, length).
        mask
            Shape (n, length), true up to the end of each signal.

        Raises
        ------
        ValueError
            If signals or mask are not of this form.
        """
        if x.ndim != 3 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected shape (n, {self.in_channels}, length), got {tuple(x.shape)}")
        if mask is not None:
            check_mask(mask, x)
            x = zero_past_end(x, mask)
        for layer in self.layers:
            x = functional.relu(layer(functional.pad(x, (self.patch // 2, (self.patch - 1) // 2))))
            x = x if mask is None else zero_past_end(x, mask)
        return x


class SequenceNet(nn.Module):
    """Maps of every position, their mean or maximum over the positions inside each sequence, and a linear head.

    Parameters
    ----------
    features
        A `CKN` of signals, ``axes=1``, whose filters are made to require a gradient; or any module from (x, mask) to
        maps (n, out_channels, positions) with attributes `in_channels` and `out_channels`. If its maps have other
        positions than its input, it has a method `output_mask` as that of `CKN`.
    classes
        At least 2; two classes have one output.
    pool
        ``"mean"`` or ``"max"``.
    embedding
        How many different symbols there are, to take numbers of symbols (n, length) instead of vectors; each has a
        learned vector, of as many entries as `features` has channels.
    packed
        Whether the input is one tensor that `pack` made.
    generator
        Seed or ``torch.Generator`` of the vectors and the head.

    Raises
    ------
    ValueError
        If an argument is not of this form.

    Examples
    --------
    >>> features = CKN("3 exp(0.6) - | 3 exp(0.6) -", in_channels=4, filters=(8, 16), axes=1, generator=0)
    >>> net = SequenceNet(features, classes=3, pool="max", generator=0)
    >>> net(torch.rand(2, 4, 9), torch.arange(9) < torch.tensor([[9], [5]])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        features: nn.Module,
        classes: int,
        *,
        pool: GlobalPooling = "mean",
        embedding: int | None = None,
        packed: bool = False,
        generator: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        if pool not in ("mean", "max"):
            raise ValueError(f"pool: expected 'mean' or 'max', got {pool!r}")
        inputs, outputs = _channels(features)
        rng = as_rng(generator)
        self.features = features.requires_grad_() if isinstance(features, CKN) else features
        self.classes, self.pool, self.packed = classes, pool, packed
        self.embedding: nn.Embedding | None = None
        if embedding is not None:
            check_counts(embedding=embedding)
            self.embedding = nn.Embedding.from_pretrained(torch.randn(embedding, inputs, generator=rng), freeze=False)
        self.head = linear_layer(outputs, output_count(classes), rng)
        if isinstance(features, CKN):
            self.to(next(features.parameters()))

    def forward(self, x: Tensor, mask: Bool[Tensor, "n length"] | None = None) -> Float[Tensor, "n outputs"]:
        """Decision values.

        Parameters
        ----------
        x
            Vectors (n, channels, length), or with `embedding` numbers of symbols (n, length); if the network is
            `packed`, either of them packed with its mask.
        mask
            Shape (n, length), true up to the end of each sequence; ``None`` where all have the padded length.

        Raises
        ------
        ValueError
            If the sequences do not suit the network, or the mask is not of this form.
        """
        maps, inside = self.maps(x, mask)
        return self.head(pool_inside(maps, inside, self.pool))

    def maps(self, x: Tensor, mask: Bool[Tensor, "n length"] | None = None) -> tuple[Tensor, Tensor | None]:
        """The maps that are pooled, shape (n, out_channels, positions), and their mask; arguments are `forward`'s."""
        if self.packed:
            if mask is not None:
                raise ValueError("mask: expected none beside packed sequences, which hold their own")
            x, mask = unpack(x)
        if self.embedding is not None:
            x = self._embed(x, mask, self.embedding)
        maps = self.features(x, mask)
        output_mask: Callable[[Tensor], Tensor] | None = getattr(self.features, "output_mask", None)
        return maps, mask if mask is None or output_mask is None else output_mask(mask)

    def _embed(self, x: Tensor, mask: Tensor | None, embedding: nn.Embedding) -> Tensor:
        """Vectors (n, channels, length) of numbers (n, length), or (n, 1, length) as they are packed."""
        x = x.squeeze(1) if self.packed else x
        if x.ndim != 2 or (not self.packed and x.is_floating_point()):
            raise ValueError(f"x: expected whole numbers of symbols (n, length), got {tuple(x.shape)} {x.dtype}")
        if mask is not None:
            check_mask(mask, x[:, None])
            x = torch.where(mask, x, 0)  # any number may stand past the end
        x = x.long()
        if not torch.compiler.is_compiling() and not ((x >= 0) & (x < embedding.num_embeddings)).all():
            got = f"{int(x.min())} to {int(x.max())}"
            raise ValueError(f"x: expected numbers of symbols from 0 to {embedding.num_embeddings - 1}, got {got}")
        return embedding(x).movedim(-1, 1)


class SequenceCNN(SequenceNet):
    """The plain network of sequences: convolutions with ReLU, mean or maximum over the positions inside, linear head.

    Parameters
    ----------
    in_channels
        Channels of the sequences, or of the vectors of an `embedding`.
    widths
        Channels of every convolution.
    classes, pool, embedding, packed
        As for `SequenceNet`.
    patch
        Length of the patches of every convolution.
    generator
        Seed or ``torch.Generator`` of the weights.

    Raises
    ------
    ValueError
        If an argument is not of this form.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        classes: int,
        *,
        patch: int = 3,
        pool: GlobalPooling = "mean",
        embedding: int | None = None,
        packed: bool = False,
        generator: int | torch.Generator | None = None,
    ) -> None:
        rng = as_rng(generator)
        features = MaskedConvolutions(in_channels, widths, patch=patch, generator=rng)
        super().__init__(features, classes, pool=pool, embedding=embedding, packed=packed, generator=rng)


def _channels(features: nn.Module) -> tuple[int, int]:
    """Channels of the input and of the output."""
    if isinstance(features, CKN):
        if features.axes != 1:
            raise ValueError(f"features: expected a network of signals, axes=1, got one of axes={features.axes}")
        return features.in_channels, features.filters[-1]
    found = getattr(features, "in_channels", None), getattr(features, "out_channels", None)
    if not isinstance(features, nn.Module) or not all(map(is_count, found)):
        raise ValueError(
            f"features: expected a CKN, or a module with in_channels and out_channels, got {type(features).__name__}"
        )
    return found[0], found[1]  # type: ignore[return-value]
