"""The text form of architectures: layers joined by ``|``, each ``PATCH KERNEL POOL``.

A kernel or pool with a new name needs one line in the tables below.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hilbertnet.architecture.dot_product import (
    ArcCosine,
    DotProductKernel,
    Dual,
    Exponential,
    InversePolynomial,
    Linear,
    Polynomial,
    Power,
    Vovk,
)
from hilbertnet.architecture.pools import AveragePool, GaussianPool, GlobalPool, Pool, Subsample
from hilbertnet.text import Call, Scanner

__all__ = ["parse_layers"]

LayerParts = tuple[int, DotProductKernel, Pool | None]


def parse_layers(text: str) -> list[LayerParts]:
    """Patch, kernel and pool of every layer.

    Raises
    ------
    TextFormError
        If the text is not an architecture; the message points at the character.
    """
    scanner = Scanner(text, "architecture")
    layers = [_parse_layer(scanner)]
    while not scanner.at_end():
        scanner.expect("|")
        layers.append(_parse_layer(scanner))
    return layers


def _parse_layer(scanner: Scanner) -> LayerParts:
    patch = scanner.integer("a patch size")
    if patch < 1:
        raise scanner.fail("expected a patch size of at least 1, got 0", scanner.position - 1)
    return patch, _parse_kernel(scanner), _parse_pool(scanner)


_PLAIN: dict[str, DotProductKernel] = {
    "arccos0": ArcCosine(0),
    "arccos1": ArcCosine(1),
    "inverse": InversePolynomial(),
    "vovk3": Vovk(),
    "linear": Linear(),
}
_USAGE = {"exp": "exp(sigma)", "poly": "poly(c,m)", "dual": "dual(name)"}


def _parse_kernel(scanner: Scanner) -> DotProductKernel:
    """Read one kernel's text form: ``exp(0.6)``, ``arccos1``, ``poly2``, ``poly(1,3)``, ``dual(gelu)``, ..."""
    call = scanner.call("a kernel such as exp(0.6)")
    if call.name in _PLAIN or (call.name.startswith("poly") and call.name[4:].isdigit()):
        if call.arguments:
            raise scanner.fail(f"{call.name!r} takes no arguments", call.position)
        return _PLAIN.get(call.name) or _build(scanner, call, Power, int(call.name[4:]))
    if call.name not in _USAGE:
        known = [*_PLAIN, "poly2", "poly3", "poly4", *_USAGE]
        raise scanner.unknown("kernel", call.name, known, call.position)
    return _build_with_arguments(scanner, call)


def _build_with_arguments(scanner: Scanner, call: Call) -> DotProductKernel:
    usage = scanner.fail(f"expected {_USAGE[call.name]}", call.position)
    numbers = [value for value in call.arguments if not isinstance(value, str)]
    if call.name == "dual":
        if len(call.arguments) != 1 or numbers:
            raise usage
        return _build(scanner, call, Dual, call.arguments[0])
    if len(numbers) != len(call.arguments) or len(numbers) != (1 if call.name == "exp" else 2):
        raise usage
    if call.name == "exp":
        return _build(scanner, call, Exponential, numbers[0])
    if not numbers[1].is_integer():
        raise usage
    return _build(scanner, call, Polynomial, numbers[0], int(numbers[1]))


def _build(scanner: Scanner, call: Call, kernel: Callable[..., DotProductKernel], *values: Any) -> DotProductKernel:
    try:
        return kernel(*values)
    except ValueError as error:
        raise scanner.fail(str(error), call.position) from None


_POOLS = {"gauss": GaussianPool, "avg": AveragePool, "stride": Subsample}
_POOL = re.compile(r"(?P<name>[A-Za-z_]+)(?P<first>\d+)?(?:/(?P<second>\d+))?")


def parse_pool(text: str) -> Pool:
    """The pool that `text` names."""
    scanner = Scanner(text, "pool")
    pool = _parse_pool(scanner)
    if pool is None or not scanner.at_end():
        raise scanner.fail("expected one pool")
    return pool


def _parse_pool(scanner: Scanner) -> Pool | None:
    if scanner.accept("-"):
        return None
    found = scanner.match(_POOL)
    if not found:
        raise scanner.fail("expected a pool such as gauss2, avg2, stride2, global or -")
    name, first, second = found.group("name", "first", "second")
    if name == "global" and first is None and second is None:
        return GlobalPool()
    if name not in _POOLS:
        raise scanner.unknown("pool", found.group(), ["gauss2", "avg2", "stride2", "global"], found.start())
    if first is None or (second is not None and name == "stride"):
        usage = "stride2" if name == "stride" else f"{name}2 or {name}3/1 (size/stride)"
        raise scanner.fail(f"expected {usage}, got {found.group()!r}", found.start())
    try:
        if name == "stride":
            return Subsample(int(first))
        size, stride = (None, int(first)) if second is None else (int(first), int(second))
        return _POOLS[name](stride, size)
    except ValueError as error:
        raise scanner.fail(str(error), found.start()) from None
