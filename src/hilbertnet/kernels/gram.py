"""Exact convolutional kernels: Gram matrices, norms and distances. The public door of this room."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hilbertnet.architecture.homogeneous import safe_norm
from hilbertnet.architecture.layers import Architecture
from hilbertnet.kernels.engine import cross_pass, self_pass, working_memory
from hilbertnet.kernels.recursion import SelfPass
from hilbertnet.kernels.tiles import ACCELERATORS, Plan, check_machine, make_plan
from hilbertnet.progress import LONG, Progress, announce, track
from hilbertnet.signals import as_signals
from hilbertnet.text import nearest, parse_bytes

__all__ = ["ConvKernel"]


@dataclass(frozen=True)
class ConvKernel:
    """The exact kernel of an architecture, ``K(x, y) = <Phi(x), Phi(y)>``.

    Signals are images (n, channels, height, width), one-dimensional signals (n, channels, length), or rows (n,
    features), which are signals of one position (a fully connected kernel). numpy in, numpy out; torch in, torch out,
    on the same device.

    Parameters
    ----------
    arch
        The architecture, or its text form.
    kind
        ``"ckn"``, the kernel of the convolutional kernel network (with arc-cosine kernels this is the random-feature
        kernel), or ``"ntk"``, the neural tangent kernel.

    Raises
    ------
    ValueError
        If `kind` is unknown, or is ``"ntk"`` for a layer whose kappa'(1) is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.RandomState(0).rand(4, 1, 8, 8)
    >>> kernel = ConvKernel("3 exp(0.6) gauss2 | 3 exp(0.6) gauss2")
    >>> kernel.gram(x).shape
    (4, 4)
    >>> bool(np.allclose(np.diag(kernel.gram(x)), kernel.diag(x)))
    True
    """

    arch: Architecture
    kind: Literal["ckn", "ntk"] = "ckn"

    differentiable = True

    def __post_init__(self) -> None:
        if isinstance(self.arch, str):
            object.__setattr__(self, "arch", Architecture.parse(self.arch))
        if not isinstance(self.arch, Architecture):
            raise ValueError(f"arch: expected an Architecture or its text form, got {self.arch!r}")
        if self.kind not in ("ckn", "ntk"):
            raise ValueError(
                f"kind: expected 'ckn' or 'ntk', got {self.kind!r}{nearest(str(self.kind), ['ckn', 'ntk'])}"
            )
        if self.kind == "ntk":
            self._check_tangent()

    def _check_tangent(self) -> None:
        for number, layer in enumerate(self.arch.layers, start=1):
            if layer.kernel.slope == float("inf"):
                raise ValueError(
                    f"kind: the tangent kernel needs a finite kappa'(1), which {layer.kernel} of layer {number} has not"
                )

    # --- Gram matrices

    def gram(
        self,
        X: Any,
        Y: Any = None,
        *,
        memory: int | float | str | None = None,
        dtype: torch.dtype = torch.float64,
        progress: Progress = None,
    ) -> Any:
        """The Gram matrix of two sets of signals.

        Parameters
        ----------
        X, Y
            Signals, n and m of them; without `Y`, the symmetric matrix of `X`, which costs half.
        memory
            Budget for everything but the signals, in bytes or as ``"2GB"``; default the result and 32 MiB beside it
            (on a GPU a quarter of its memory, 16 GiB at most).
        dtype
            Of the computation and the result.
        progress
            ``None`` (a bar on a terminal), ``True``, ``False`` or a callable of (done, total).

        Returns
        -------
        array or tensor
            Shape (n, m), in the kind of `X`.

        Raises
        ------
        ValueError
            If the signals are not what is expected (see the class), do not suit the architecture, or the budget is too
            small.
        """
        which = 0 if self.kind == "ckn" else 1
        matrices = self._gram(X, Y, memory, dtype, progress, tangent=self.kind == "ntk", keep=(which,))
        return _like(matrices[0], X)

    def gram_pair(
        self,
        X: Any,
        Y: Any = None,
        *,
        memory: int | float | str | None = None,
        dtype: torch.dtype = torch.float64,
        progress: Progress = None,
    ) -> tuple[Any, Any]:
        """The Gram matrices of the CKN (or random-feature) kernel and of the tangent kernel, in one pass.

        Parameters and errors are those of `gram`.
        """
        self._check_tangent()
        first, second = self._gram(X, Y, memory, dtype, progress, tangent=True, keep=(0, 1))
        return _like(first, X), _like(second, X)

    def plan(
        self,
        X: Any,
        Y: Any = None,
        *,
        memory: int | float | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Plan:
        """What `gram` would cost: pairs, memory, and the time extrapolated from a few pairs of these signals."""
        x, y = _signals(X, Y, dtype)
        tangent = self.kind == "ntk"
        plan = self._make_plan(x, y, memory, dtype, tangent, results=1)
        return plan.timed(self._probe(x, y, plan, tangent))

    def _make_plan(
        self,
        x: Tensor,
        y: Tensor | None,
        memory: int | float | str | None,
        dtype: torch.dtype,
        tangent: bool,
        results: int,
    ) -> Plan:
        budget = None if memory is None else parse_bytes(memory)
        columns = None if y is None else len(y)
        return make_plan(
            self.arch,
            tuple(x.shape[1:]),
            len(x),
            columns,
            dtype=dtype,
            results=results,
            tangent=tangent,
            memory=budget,
            compiled=working_memory(self.arch, x, tangent=tangent),
            device=x.device,
        )

    @torch.no_grad()
    def _gram(
        self,
        X: Any,
        Y: Any,
        memory: int | float | str | None,
        dtype: torch.dtype,
        progress: Progress,
        *,
        tangent: bool,
        keep: tuple[int, ...],
    ) -> list[Tensor]:
        x, y = _signals(X, Y, dtype)
        plan = self._make_plan(x, y, memory, dtype, tangent, results=len(keep))
        if memory is None:
            check_machine(plan)
        self._say_if_long(x, y, plan, tangent)
        results = [torch.empty(plan.rows, plan.columns, dtype=dtype, device=x.device) for _ in keep]
        steps = plan.tile_count + sum(len(plan.batches(signals)) for signals in (x, y) if signals is not None)
        for _ in track(self._fill_(results, x, y, plan, tangent, keep), progress, label="Gram matrix", total=steps):
            pass
        return results

    def _fill_(
        self, results: list[Tensor], x: Tensor, y: Tensor | None, plan: Plan, tangent: bool, keep: tuple[int, ...]
    ) -> Iterator[None]:
        """Fill the matrices, yielding after every batch of norms and every tile."""
        passes_x = yield from self._self_passes(x, plan, tangent)
        passes_y = passes_x if y is None else (yield from self._self_passes(y, plan, tangent))
        for tile in plan.tiles():
            own = plan.symmetric and tile.rows == tile.columns
            block = cross_pass(self.arch, passes_x[tile.rows], passes_y[tile.columns], tangent=tangent, symmetric=own)
            for result, index in zip(results, keep, strict=True):
                part = block[index]
                assert part is not None
                result[tile.rows, tile.columns] = part
                if plan.symmetric:
                    result[tile.columns, tile.rows] = part.T
            yield
        if plan.symmetric:  # the same numbers as `diag`: kappa_0 magnifies a rounding error of the cosine to 1e-8
            for result, index in zip(results, keep, strict=True):
                result.diagonal().copy_(_pick(passes_x, tangent=index == 1))

    def _self_passes(self, x: Tensor, plan: Plan, tangent: bool) -> Generator[None, None, SelfPass]:
        parts = []
        for batch in plan.batches(x):
            parts.append(self_pass(self.arch, x[batch], tangent=tangent))
            yield
        return SelfPass.cat(parts)

    def _say_if_long(self, x: Tensor, y: Tensor | None, plan: Plan, tangent: bool) -> None:
        """Announce the cost of what will take more than a minute; small jobs are not even probed."""
        if plan.pairs * math.prod(x.shape[2:]) ** 2 < 2**30:  # pairs of positions: some seconds at most
            return
        plan = plan.timed(self._probe(x, y, plan, tangent))
        if plan.seconds > LONG:
            announce(str(plan))

    @torch.no_grad()
    def _probe(self, x: Tensor, y: Tensor | None, plan: Plan, tangent: bool) -> float:
        """Seconds for one pair, measured on the first few signals."""
        few = 8 * torch.get_num_threads() if plan.signal_bytes else 16 if x.device.type in ACCELERATORS else 2
        few = min(plan.side, few)
        left = self_pass(self.arch, x[:few], tangent=tangent)
        right = left if y is None else self_pass(self.arch, y[:few], tangent=tangent)
        best = float("inf")
        for _ in range(2):  # the first call warms up
            _synchronize(x)
            start = time.perf_counter()
            cross_pass(self.arch, left, right, tangent=tangent)
            _synchronize(x)
            best = min(best, time.perf_counter() - start)
        return best / (len(left.ckn) * len(right.ckn))

    # --- one signal at once

    def diag(self, X: Any, *, dtype: torch.dtype = torch.float64) -> Any:
        """``K(x_i, x_i)``, shape (n,), in the kind of `X`; differentiable for tensors that require a gradient."""
        x, _ = _signals(X, None, dtype)
        return _like(self._diagonal(x), X)

    def norm(self, x: Any) -> Any:
        """``||Phi(x_i)||``, shape (n,), float64."""
        signals, _ = _signals(x, None, torch.float64)
        return _like(safe_norm(self._diagonal(signals)), x)

    def distance(self, x: Any, y: Any) -> Any:
        """``||Phi(x_i) - Phi(y_i)||`` for every i, shape (n,), float64; differentiable where it is not 0.

        It comes from ``K(x, x) + K(y, y) - 2 K(x, y)``, so signals that nearly agree are told apart down to about 1e-8
        of their norm, and 1e-4 for the tangent kernel, whose values near the diagonal are good to 1e-8 only.

        Parameters
        ----------
        x, y
            As many signals in each.
        """
        left, right = _signals(x, y, torch.float64)
        assert right is not None
        if len(left) != len(right):
            raise ValueError(f"y: expected {len(left)} signals, as many as in x, got {len(right)}")
        tangent, squares = self.kind == "ntk", []
        step = min(self._step(left), self._step(right))  # one that requires a gradient takes more memory
        for part_x, part_y in zip(left.split(step), right.split(step), strict=True):
            pass_x, pass_y = (self_pass(self.arch, part, tangent=tangent) for part in (part_x, part_y))
            cross = cross_pass(self.arch, pass_x, pass_y, tangent=tangent, elementwise=True)[tangent]
            assert cross is not None
            squares.append(_pick(pass_x, tangent) + _pick(pass_y, tangent) - 2 * cross)
        return _like(safe_norm(torch.cat(squares)), x)

    def _diagonal(self, x: Tensor) -> Tensor:
        tangent = self.kind == "ntk"
        parts = x.split(self._step(x))
        return torch.cat([_pick(self_pass(self.arch, part, tangent=tangent), tangent) for part in parts])

    def _step(self, x: Tensor) -> int:
        """How many of the signals have states that fit the default working memory."""
        return max(1, self._make_plan(x, None, None, x.dtype, self.kind == "ntk", results=0).side ** 2)


def _pick(own: SelfPass, tangent: bool) -> Tensor:
    value = own.ntk if tangent else own.ckn
    assert value is not None
    return value


def _signals(X: Any, Y: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    x = as_signals(X, "X", dtype=dtype)
    return x, None if Y is None else as_signals(Y, "Y", dtype=dtype, like=x)


def _like(result: Tensor, example: Any) -> Any:
    """Torch for torch, numpy for anything else."""
    return result if isinstance(example, Tensor) else result.numpy()


def _synchronize(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
