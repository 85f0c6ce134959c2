"""What a penalty costs in each training step, over a plain step, against how far its value is from the published one.

    python benchmarks/penalties.py [--model mnist|vgg] [--width N] [--weight W] [--out curve.png]

A network is trained for a few epochs, with or without a penalty, on scikit-learn's digits, enlarged to 28 x 28 for
`mnist_net` and to 32 x 32 for `vgg`, there in two random colours each. Then come steps without the optimizer's part
(forward, loss, penalty, backward), one of each kind in turns, all in one run: the cost is the median over rounds of the
ratio to the plain step of the same round, in processor time of one thread. The error is the mean over batches of
|value - whole| / whole, where the whole is ``delta(1)``, the published objective, which ascends from every example for
every logit, or ``grad``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hilbertnet.networks import mnist_net, vgg
from hilbertnet.records import atomic_path, environment
from hilbertnet.regularization.delta import Delta
from hilbertnet.regularization.gradients import Grad, GradL1, GradL2
from hilbertnet.regularization.term import PenaltyTerm
from hilbertnet.regularization.vat import Vat
from hilbertnet.text import columns
from hilbertnet.training import Recipe, evaluate, train

BATCH = 128
RADIUS = 1.0

WHOLE = Delta(RADIUS)
DELTA = [
    WHOLE,
    Delta(RADIUS, screen=16),
    Delta(RADIUS, screen=8),
    Delta(RADIUS, screen=4),
    Delta(RADIUS, steps=2, screen=4),
    Delta(RADIUS, screen=8, layer=1),
    Delta(RADIUS, steps=2, screen=8, layer=1),
    Delta(RADIUS, steps=2, screen=4, layer=2),
    Delta(RADIUS, steps=1, screen=4, layer=2),
    Delta(RADIUS, steps=2, screen=4, layer=2, examples=64),
    Delta(RADIUS, steps=2, screen=4, shortlist=32),
    Delta(RADIUS, steps=2, screen=4, examples=32),
]
GRAD = [Grad(), Grad(shortlist=32), Grad(examples=32)]
OTHERS = [GradL2(), GradL2(examples=32), GradL1(), Vat(RADIUS), Vat(RADIUS, examples=32)]


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


def trained(model: str, width: int, data: tuple[Tensor, Tensor], epochs: int, weight: float | None) -> nn.Module:
    """The last third of the epochs with a screened penalty, if it has a weight."""
    net = (mnist_net if model == "mnist" else vgg)(width=width, generator=0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
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


def step(net: nn.Module, term: PenaltyTerm | None, x: Tensor, y: Tensor) -> Callable[[], object]:
    penalty = None if term is None else term.bind(x, 0)

    def call() -> None:
        net.zero_grad(set_to_none=True)
        logits = net(x)
        loss = functional.cross_entropy(logits, y)
        if penalty is not None:
            loss = loss + 1e-3 * penalty(net, x, y, logits)
        loss.backward()

    return call


def errors(net: nn.Module, terms: list[PenaltyTerm], batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean relative errors of the values against those of the first term, which looks at everything."""
    with torch.no_grad():
        values = [[term.bind(x, 0)(net, x, y).item() for x, y in batches] for term in terms]
    return {
        str(term): statistics.mean(abs(a - b) / b for a, b in zip(found, values[0], strict=True))
        for term, found in zip(terms, values, strict=True)
    }


def draw(rows: list[tuple[PenaltyTerm, float, float]], path: str) -> None:
    """The curve: cost against error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    ax = figure.subplots()
    for kind, marker in ((Delta, "o"), (Grad, "s")):
        points = [(cost, 100 * error, str(term)) for term, cost, error in rows if isinstance(term, kind)]
        ax.plot([cost for cost, _, _ in points], [error for _, error, _ in points], marker, label=kind.name)
        for cost, error, text in points:
            ax.annotate(text, (cost, error), fontsize=6, xytext=(3, 3), textcoords="offset points")
    ax.set_xscale("log")
    ax.set_xlabel("cost of a step, in plain steps")
    ax.set_ylabel("mean error of the value, %")
    ax.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["mnist", "vgg"], default="mnist")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer (64 in the paper)")
    parser.add_argument("--epochs", type=int, default=12, help="of training before anything is measured")
    parser.add_argument("--weight", type=float, help="of delta in the last third of that training; default: none")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of steps")
    parser.add_argument("--batches", type=int, default=8, help="batches that errors are means over")
    parser.add_argument("--out", metavar="PNG", help="draw cost against error")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits(arguments.model)
    net = trained(arguments.model, arguments.width, data, arguments.epochs, arguments.weight)
    accuracy = evaluate(net, data)[1]
    net.train()
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(1))
    batches = [(data[0][part], data[1][part]) for part in order.split(BATCH)[: arguments.batches]]
    terms = [*DELTA, *GRAD, *OTHERS]
    taken = list(rounds([step(net, term, *batches[0]) for term in [None, *terms]], arguments.repeats))
    found = errors(net, DELTA, batches) | errors(net, GRAD, batches)
    costs = [statistics.median(times[place] / times[0] for times in taken) for place in range(1, len(terms) + 1)]
    made = environment()
    print(f"{made['platform']}, torch {made['versions']['torch']}, one thread, {made['time']}")
    print(
        f"{arguments.model}, width {arguments.width}, batches of {BATCH}, accuracy on the training data {accuracy:.3f}"
    )
    print(f"a plain step: {1e3 * statistics.median(times[0] for times in taken):.0f} ms\n")
    table = [["penalty", "cost, plain steps", "error"], ["none", "1.0", ""]]
    for term, cost in zip(terms, costs, strict=True):
        error = found.get(str(term))
        table.append([str(term), f"{cost:.1f}", "" if error is None else f"{100 * error:.1f}%"])
    print(columns(table))
    if arguments.out:
        rows = [(term, cost, found[str(term)]) for term, cost in zip(terms, costs, strict=True) if str(term) in found]
        draw(rows, arguments.out)


if __name__ == "__main__":
    main()
