"""What a term costs in each training step, over a plain step, and how far cheaper penalties are from published ones.

    python benchmarks/penalties.py [--model mnist|vgg] [--width N] [--real] [--weight W] [--only NAME ...] [--out PNG]

A network is trained for a few epochs, with or without a penalty, on scikit-learn's digits, enlarged to 28 x 28 for
`mnist_net` and to 32 x 32 for `vgg`, there in two random colours each; or on 2,000 images of MNIST or CIFAR-10. Then
come steps without the optimizer's part (forward, loss, penalty, backward; for constraints also a small step,
projection, and back), one of each kind in turns, all in one run: the cost is the median over rounds of the ratio to the
plain step of the same round, in processor time of one thread. The whole is ``delta(1)``, the published objective, which
ascends from every example for every logit, or ``grad``. "arithmetic" is the same ratio in multiplications of matrices
and convolutions, which is the same on any machine; "missing" is what the mean value lacks of it, and, where logits
are drawn, "spread" the standard deviation of a step's value, both relative to the whole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hilbertnet.data import load, subset
from hilbertnet.networks import mnist_net, vgg
from hilbertnet.records import atomic_path, environment
from hilbertnet.regularization import (
    BoundRegularizer,
    Delta,
    DTau,
    Grad,
    GradL1,
    GradL2,
    OperatorProjection,
    PenaltyTerm,
    PgdL2,
    PgdLinf,
    SpectralPenalty,
    SpectralProjection,
    Tau,
    Term,
    Trades,
    Vat,
    WeightDecay,
    as_regularizer,
)
from hilbertnet.text import columns
from hilbertnet.training import Recipe, evaluate, train

BATCH = 128
RADIUS = 1.0

WHOLE = Delta(RADIUS)
DELTA = [
    WHOLE,
    Delta(RADIUS, steps=2),
    Delta(RADIUS, screen=16),
    Delta(RADIUS, screen=4),
    Delta(RADIUS, screen=2),
    Delta(RADIUS, probe=2),
    Delta(RADIUS, screen=24, shared=3, probe=4),
    Delta(RADIUS, screen=16, shared=2, probe=4),
    Delta(RADIUS, screen=8, shared=1, probe=2),
    Delta(RADIUS, probe=2, classes=1),
    Delta(RADIUS, probe=2, classes=3),
]
GRAD = [Grad(), Grad(classes=1), Grad(classes=3)]
OTHERS: list[Term] = [
    GradL2(),
    GradL2(examples=32),
    GradL1(),
    Vat(RADIUS),
    Vat(RADIUS, examples=32),
    Tau(),
    Tau(variants=8),
    DTau(),
    PgdL2(RADIUS),
    PgdLinf(0.03),
    Trades(0.03),
    SpectralPenalty(),
    SpectralPenalty(0),
    WeightDecay(),
    SpectralProjection(1.0, None),
    OperatorProjection(1.0, None),
]
DRAWS = 20


def digits(model: str) -> tuple[Tensor, Tensor]:
    """Enlarged digits; for vgg each has two colours of its own and noise, drawn from one seed."""
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x, rng = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16, torch.Generator().manual_seed(0)
    if model == "mnist":
        return functional.interpolate(x, size=28, mode="bilinear"), torch.from_numpy(y)
    x = functional.interpolate(x, size=32, mode="bilinear")
    first, second = torch.rand(2, len(x), 3, 1, 1, generator=rng)
    noise = 0.05 * torch.randn(len(x), 3, 32, 32, generator=rng)
    return (x * first + (1 - x) * second + noise).clamp(0, 1), torch.from_numpy(y)


def real(model: str) -> tuple[Tensor, Tensor]:
    """2,000 training images of MNIST, or for vgg of CIFAR-10."""
    data = load({"mnist": "mnist", "vgg": "cifar10"}[model])
    chosen = subset(data.y, 2000, 0)
    return torch.from_numpy(data.x[chosen]), torch.from_numpy(data.y[chosen]).long()


def trained(model: str, width: int, data: tuple[Tensor, Tensor], epochs: int, weight: float | None) -> nn.Module:
    """The last third of the epochs with a screened penalty, if it has a weight."""
    net = (mnist_net if model == "mnist" else vgg)(width=width, generator=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3 * min(1.0, 8 / width))  # wide ones learn nothing with more
    last = 0 if weight is None else epochs // 3
    train(net, data, None, optimizer, Recipe(epochs=epochs - last, batch_size=32, clip=1.0), progress=False)
    if weight is not None:
        penalty = (weight * Delta(RADIUS, steps=2, screen=4)).bind(data[0], 0).penalty
        recipe = Recipe(epochs=last, batch_size=32, clip=1.0)
        train(net, data, None, optimizer, recipe, penalty=penalty, progress=False)
    return net


def rounds(steps: list[Callable[[], object]], repeats: int) -> Iterator[list[float]]:
    """Seconds of processor time of each step, in turns; the first round warms up."""
    for repeat in range(repeats + 1):
        taken = []
        for step in steps:
            start = time.process_time()
            step()
            taken.append(time.process_time() - start)
        if repeat:
            yield taken


def step(net: nn.Module, term: Term | None, x: Tensor, y: Tensor) -> Callable[[], object]:
    bound = (1e-3 * term if isinstance(term, PenaltyTerm) else as_regularizer(term)).bind(x, 0)

    def call() -> None:
        net.zero_grad(set_to_none=True)
        bound(net, x, y)[0].backward()
        if bound.constraint is not None:
            moved(net, bound)

    return call


@torch.no_grad()
def moved(net: nn.Module, bound: BoundRegularizer) -> None:
    """A small step and its projection; the weights are put back."""
    before = [parameter.clone() for parameter in net.parameters()]
    for parameter in net.parameters():
        parameter -= 1e-3 * parameter.grad
    bound.project_(net, 0)
    for parameter, old in zip(net.parameters(), before, strict=True):
        parameter.copy_(old)


def arithmetic(call: Callable[[], object]) -> int:
    """Floating-point operations of a step in matrix products and convolutions."""
    with _Operations() as counter:
        call()
    return counter.total


class _Operations(TorchDispatchMode):
    """Adds up what torch's own formulas say; its counter cannot be used where gradients are asked for in the middle."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        self.total += 0 if formula is None else formula(*args, **(kwargs or {}), out_val=found)
        return found


class Error(NamedTuple):
    """How far the values of a penalty are from those of the whole, relative to them.

    Parameters
    ----------
    missing
        What the mean over draws and batches lacks of the whole.
    spread
        Standard deviation over draws, of one step.
    """

    missing: float
    spread: float


def errors(net: nn.Module, terms: list[PenaltyTerm], batches: list[tuple[Tensor, Tensor]]) -> dict[str, Error]:
    """Of all terms, against the first one, which looks at everything. Draws of logits are taken one after the other."""
    whole, found = [], {}
    for term in terms:
        bound, draws = term.bind(batches[0][0], 0), DRAWS if getattr(term, "classes", None) else 1
        with torch.no_grad():
            values = [[bound(net, x, y).item() for _ in range(draws)] for x, y in batches]
        whole = whole or [one[0] for one in values]
        shares = [[value / all_of_it for value in one] for one, all_of_it in zip(values, whole, strict=True)]
        missing = 1 - statistics.mean(map(statistics.mean, shares))
        found[str(term)] = Error(missing, statistics.mean(map(statistics.pstdev, shares)))
    return found


def draw(rows: list[tuple[PenaltyTerm, float, Error]], path: str) -> None:
    """The curve: cost against error, those that draw logits with the spread of a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    ax = figure.subplots()
    for kind, marker in ((Delta, "o"), (Grad, "s")):
        for drawn in (False, True):
            points = [row for row in rows if isinstance(row[0], kind) and bool(row[2].spread) == drawn]
            label = f"{kind.name}, logits drawn: spread of a step" if drawn else f"{kind.name}: what is missing"
            errors = [100 * (error.spread if drawn else max(error.missing, 0.0)) for _, _, error in points]
            ax.plot([cost for _, cost, _ in points], errors, marker, label=label, fillstyle="none" if drawn else "full")
            for (term, cost, _), error in zip(points, errors, strict=True):
                ax.annotate(str(term), (cost, error), fontsize=6, xytext=(3, 3), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_xlabel("cost of a step, in plain steps")
    ax.set_ylabel("of the value, %")
    ax.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["mnist", "vgg"], default="mnist")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer (64 in the paper)")
    parser.add_argument("--real", action="store_true", help="images of MNIST or CIFAR-10 in the place of digits")
    parser.add_argument("--epochs", type=int, default=12, help="of training before anything is measured")
    parser.add_argument("--weight", type=float, help="of delta in the last third of that training; default: none")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of steps")
    parser.add_argument("--batches", type=int, default=8, help="batches that errors are means over")
    names = sorted({term.name for term in (*DELTA, *GRAD, *OTHERS)})
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help="of terms; default: all"
    )
    parser.add_argument("--out", metavar="PNG", help="draw cost against error")
    arguments = parser.parse_args()
    data = (real if arguments.real else digits)(arguments.model)
    net = trained(arguments.model, arguments.width, data, arguments.epochs, arguments.weight)
    accuracy = evaluate(net, data)[1]
    torch.set_num_threads(1)
    net.train()
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(1))
    batches = [(data[0][part], data[1][part]) for part in order.split(BATCH)[: arguments.batches]]
    terms = [term for term in (*DELTA, *GRAD, *OTHERS) if term.name in arguments.only]
    steps = [step(net, term, *batches[0]) for term in [None, *terms]]
    taken, work = list(rounds(steps, arguments.repeats)), [arithmetic(one) for one in steps]
    found: dict[str, Error] = {}
    for kinds in (DELTA, GRAD):
        if kinds[0].name in arguments.only:
            found |= errors(net, kinds, batches)
    costs = [statistics.median(times[place] / times[0] for times in taken) for place in range(1, len(terms) + 1)]
    made = environment()
    print(f"{made['platform']}, torch {made['versions']['torch']}, one thread, {made['time']}")
    of = "2,000 real images" if arguments.real else "digits"
    print(
        f"{arguments.model}, width {arguments.width}, {of}, batches of {BATCH}, accuracy on the training data "
        f"{accuracy:.3f}"
    )
    print(f"a plain step: {1e3 * statistics.median(times[0] for times in taken):.0f} ms\n")
    table = [["term", "cost, plain steps", "arithmetic", "missing", "spread"], ["none", "1.0", "1.0", "", ""]]
    for term, cost, done in zip(terms, costs, work[1:], strict=True):
        error = found.get(str(term), ())
        words = [f"{100 * value:.1f}%" for value in error] + [""] * (2 - len(error))
        table.append([str(term), f"{cost:.1f}", f"{done / work[0]:.1f}", *words])
    print(columns(table))
    if arguments.out:
        rows = [(term, cost, found[str(term)]) for term, cost in zip(terms, costs, strict=True) if str(term) in found]
        draw(rows, arguments.out)


if __name__ == "__main__":
    main()
