"""Which code evaluates the recursion: compiled for a CPU or an accelerator where it can, else plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Timer
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilbertnet.architecture.layers import Architecture
from hilbertnet.architecture.operators import antialias, pad_for_patches
from hilbertnet.kernels import recursion
from hilbertnet.kernels.recursion import SelfPass
from hilbertnet.kernels.tiles import ACCELERATORS
from hilbertnet.progress import announce

if TYPE_CHECKING:
    from hilbertnet.kernels.fused_program import Program

__all__ = ["cross_pass", "self_pass", "working_memory"]

_BLOCK = 8  # signals on each side of the work of one thread
_PATIENCE = 3.0  # seconds for compiled code to come from the disk
_without_compiler: set[torch.device] = set()  # where it failed
_PLAIN = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def working_memory(arch: Architecture, x: Tensor, *, tangent: bool) -> tuple[int, int] | None:
    """Bytes of one signal of a tile, and of what all threads work in; ``None`` if the reference is used.

    Parameters
    ----------
    arch
        The architecture.
    x
        Signals of the shape, dtype and device that matter.
    tangent
        Whether the tangent kernel is computed.
    """
    program = _program(arch, x, own=True)
    if program is None:
        return None
    from hilbertnet.kernels.fused_cpu import workspace_size

    work, states, whole = workspace_size(program.ints, tangent)
    item = program.floats.dtype.itemsize
    grids = program.shape[0] * program.stride + sum(stride for *_, stride in program.layers)
    thread = (work + states) * item + 8 * whole + _BLOCK**2 * 16
    return 4 * grids * item, torch.get_num_threads() * thread + program.floats.nbytes + program.table.nbytes


def self_pass(arch: Architecture, x: Tensor, *, tangent: bool) -> SelfPass:
    """`hilbertnet.kernels.recursion.self_pass`, compiled where that is possible."""
    program = _program(arch, x, own=True)
    if program is None:
        return recursion.self_pass(arch, x, tangent=tangent)
    x = antialias(x, arch.sigma0, arch).contiguous()
    return _own(program, arch, x, tangent)


def cross_pass(
    arch: Architecture,
    x: SelfPass,
    y: SelfPass,
    *,
    tangent: bool,
    elementwise: bool = False,
    symmetric: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`hilbertnet.kernels.recursion.cross_pass`, compiled where that is possible.

    With `symmetric`, x and y are the same, and half of the pairs is evaluated.
    """
    grad = torch.is_grad_enabled() and y.signals.requires_grad
    program = None if grad else _program(arch, x.signals, own=False)
    if program is None:
        ckn, ntk = _in_torch(arch, x, y, tangent, elementwise)
        if symmetric:  # to the last bit
            return (ckn + ckn.T) / 2, None if ntk is None else (ntk + ntk.T) / 2
        return ckn, ntk
    values = torch.from_numpy(_cross(program, x, y, tangent, elementwise, symmetric)).to(x.signals.dtype)
    return values[..., 0], values[..., 1] if tangent else None


def _in_torch(
    arch: Architecture, x: SelfPass, y: SelfPass, tangent: bool, elementwise: bool
) -> tuple[Tensor, Tensor | None]:
    signals = x.signals
    grad = torch.is_grad_enabled() and (signals.requires_grad or y.signals.requires_grad)
    if signals.device.type in ACCELERATORS and not (grad or elementwise) and signals.device not in _without_compiler:
        from hilbertnet.kernels import fused_gpu

        try:
            return fused_gpu.cross_pass(arch, x, y, tangent=tangent)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # also what the compiler raises
            _without_compiler.add(signals.device)
            slow = "torch cannot compile the exact kernels, they are several times slower"
            announce(f"{signals.device}: {slow}: {str(error).strip().splitlines()[0]}")
    return recursion.cross_pass(arch, x, y, tangent=tangent, elementwise=elementwise)


def _program(arch: Architecture, x: Tensor, *, own: bool) -> Program | None:
    if x.device.type != "cpu" or x.dtype not in _PLAIN or (torch.is_grad_enabled() and x.requires_grad):
        return None
    return _made(arch, tuple(x.shape[1:]), _PLAIN[x.dtype], own)


@lru_cache(maxsize=64)
def _made(arch: Architecture, shape: tuple[int, ...], dtype: np.dtype[Any], own: bool) -> Program | None:
    from hilbertnet.kernels.fused_program import make_program

    arch.shapes(shape[1:])
    program = make_program(arch, shape, dtype, own=own)
    if program is None and not own:
        announce(f"{arch}: some kernel is not smooth enough for the compiled recursion; the slower one is used")
    return program


@lru_cache
def _compiled(dtype: np.dtype[Any]) -> Callable[..., None]:
    """`hilbertnet.kernels.fused_cpu.block`, ready to run; the compiler, where it takes long, says so."""
    from hilbertnet.kernels.fused_cpu import ALL, block
    from hilbertnet.kernels.fused_program import FIELDS

    numbers, whole = np.zeros((0, 0, 0), dtype), np.zeros(0, np.int64)
    flat, rows, ints = numbers.reshape(0), numbers.reshape(0, 0), np.zeros((0, len(FIELDS)), np.int64)
    say = Timer(_PATIENCE, announce, [f"compiling the exact kernels ({dtype}) for this processor, once: a minute"])
    say.start()
    try:  # of no signals
        block(
            ints, whole, flat, numbers, numbers, rows, rows, rows, rows, ALL, dtype.type(0), False, flat, whole, flat,
            np.zeros((0, 0, 2)),
        )  # fmt: skip
    finally:
        say.cancel()
    return block


# --- signals as the compiled code reads them


def _grids(program: Program, x: Tensor, arch: Architecture) -> NDArray[Any]:
    """Signals on the first layer's grid, with its border, shape (n, channels, entries of a row)."""
    padded = pad_for_patches(x, arch.layers[0].patch, arch).flatten(2).numpy()
    result = np.zeros((*padded.shape[:2], program.stride), padded.dtype)
    result[..., : padded.shape[2]] = padded
    return result


def _flat_norms(program: Program, norms: tuple[Tensor, ...], *, grid: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Norms of all layers after each other, on their grids if `grid`, and their inverses, 0 where they vanish."""
    parts = []
    for (height, width, row, stride), norm in zip(program.layers, norms, strict=True):
        part = norm.reshape(len(norm), height, width).numpy()
        if grid:
            part = np.pad(part, ((0, 0), (0, 0), (0, row - width))).reshape(len(norm), -1)
            part = np.pad(part, ((0, 0), (0, stride - height * row)))
        parts.append(part.reshape(len(norm), -1))
    flat = np.concatenate(parts, axis=1)
    inverse = np.divide(1.0, flat, out=np.zeros_like(flat), where=flat > 0)
    return flat, inverse


class _Workspaces:
    """What threads work in, lent to one at a time; fresh memory for every block would cost a tenth of its time."""

    def __init__(self, program: Program, tangent: bool) -> None:
        from hilbertnet.kernels.fused_cpu import workspace_size

        self._sizes, self._dtype = workspace_size(program.ints, tangent), program.floats.dtype
        self._free: list[tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]] = []

    @contextmanager
    def lent(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]]:
        try:
            space = self._free.pop()
        except IndexError:
            work, states, whole = self._sizes
            space = _aligned(work, self._dtype), np.zeros(whole, np.int64), _aligned(states, self._dtype)
        yield space
        self._free.append(space)


def _aligned(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that begin where a cache line does."""
    bytes_ = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -bytes_.ctypes.data % 64
    return bytes_[start : start + count * dtype.itemsize].view(dtype)


def _in_threads(work: Callable[[Any], None], parts: Iterator[Any]) -> None:
    """`work` on all parts, on as many threads as torch uses; the compiled code runs without the interpreter's lock."""
    threads = torch.get_num_threads()
    if threads == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts):
            pass


# --- passes


def _own(program: Program, arch: Architecture, x: Tensor, tangent: bool) -> SelfPass:
    from hilbertnet.kernels.fused_cpu import OWN

    block, spaces = _compiled(program.floats.dtype), _Workspaces(program, tangent)
    n, dtype = len(x), program.floats.dtype
    flat, grids = x.reshape(n, x.shape[1], -1).numpy(), _grids(program, x, arch)
    norms = np.zeros((n, sum(height * width for height, width, *_ in program.layers)), dtype)
    inverse, values = np.zeros_like(norms), np.zeros((n, 1, 2))
    size = sum(stride for *_, stride in program.layers)
    floor = dtype.type(np.sqrt(np.finfo(dtype).tiny))

    def work(part: slice) -> None:
        grid, grid_inverse = np.zeros((1, size), dtype), np.zeros((1, size), dtype)
        with spaces.lent() as space:
            block(
                program.ints, program.table, program.floats, flat[part], grids[part], norms[part], inverse[part], grid,
                grid_inverse, OWN, floor, tangent, *space, values[part],
            )  # fmt: skip

    _in_threads(work, (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)))
    result = torch.from_numpy(values[:, 0]).to(x.dtype)
    shapes = arch.shapes(tuple(x.shape[2:]))
    parts = torch.from_numpy(norms).split([height * width for height, width, *_ in program.layers], dim=1)
    kept = tuple(part.reshape(n, *patched) for part, (patched, _) in zip(parts, shapes, strict=True))
    return SelfPass(x, kept, result[:, 0], result[:, 1] if tangent else None)


def _cross(
    program: Program, x: SelfPass, y: SelfPass, tangent: bool, elementwise: bool, symmetric: bool
) -> NDArray[np.float64]:
    block, spaces = _compiled(program.floats.dtype), _Workspaces(program, tangent)
    n, m = len(x.signals), len(y.signals)
    flat, grids = x.signals.reshape(n, x.signals.shape[1], -1).numpy(), _grids(program, y.signals, program.arch)
    norms_x, norms_y = _flat_norms(program, x.norms, grid=False), _flat_norms(program, y.norms, grid=True)
    result = np.zeros((n, 2) if elementwise else (n, m, 2))

    def work(part: tuple[slice, slice, int]) -> None:
        rows, columns, mode = part
        found = np.zeros((len(range(n)[rows]), len(range(m)[columns]), 2))
        with spaces.lent() as space:
            block(
                program.ints, program.table, program.floats, flat[rows], grids[columns], norms_x[0][rows],
                norms_x[1][rows], norms_y[0][columns], norms_y[1][columns], mode, program.floats.dtype.type(0), tangent,
                *space, found,
            )  # fmt: skip
        if elementwise:
            result[rows] = found[range(len(found)), range(len(found))]
            return
        result[rows, columns] = found
        if symmetric and rows != columns:
            result[columns, rows] = found.swapaxes(0, 1)
        elif symmetric:
            below = np.tril_indices(len(found), -1)
            result[rows, columns][below] = found.swapaxes(0, 1)[below]

    _in_threads(work, _blocks(n, m, elementwise, symmetric))
    return result


def _blocks(n: int, m: int, elementwise: bool, symmetric: bool) -> Iterator[tuple[slice, slice, int]]:
    """Rows, columns, and which of their pairs."""
    from hilbertnet.kernels.fused_cpu import ALL, EQUAL, UPPER

    for top in range(0, n, _BLOCK):
        rows = slice(top, top + _BLOCK)
        if elementwise:
            yield rows, rows, EQUAL
            continue
        for left in range(top if symmetric else 0, m, _BLOCK):
            yield rows, slice(left, left + _BLOCK), UPPER if symmetric and left == top else ALL
