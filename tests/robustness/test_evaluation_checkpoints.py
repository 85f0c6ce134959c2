"""Evaluations that were interrupted go on to the same numbers; files of others and damaged ones are refused."""

import functools

import pytest
import torch
from torch import nn

from hilbertnet.robustness.attacks import pgd
from hilbertnet.robustness.evaluation import evaluate
from hilbertnet.robustness.minimal_norm import fmn
from hilbertnet.robustness.threats import Ball

RADII = (0.05, 0.1, 0.2, 0.4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem():
    """A linear classifier, and examples of which some are decided wrongly."""
    weight, x = draw(6, 3), draw(40, 6, seed=1)
    return (lambda z: z @ weight), x, (x @ weight + 0.5 * draw(40, 3, seed=2)).argmax(1), weight


class Stopped(Exception):
    pass


def stop_after(parts):
    def progress(done, total):
        if done >= parts:
            raise Stopped

    return progress


@pytest.mark.parametrize("parts", [1, 9])
def test_an_interrupted_evaluation_goes_on_to_the_same_numbers(tmp_path, parts):
    _, x, y, weight = problem()
    net = nn.Linear(6, 3, bias=False).double()
    net.weight.data = weight.T.clone()
    calls = []

    def attack(model, z, labels, threat, *, generator, restarts=1):
        calls.append(len(z))
        return threat.retract(z + 0.2 * torch.randn(z.shape, generator=generator, dtype=z.dtype), z)

    attacks = {"noise": attack, "nearest": partly}
    options = {"attacks": attacks, "restarts": 2, "batch_size": 7, "generator": 5, "keep": 6, "checks": False}
    threat, file = Ball("2", 1.0, None), tmp_path / "evaluation.safetensors"
    whole = evaluate(net, x, y, threat, RADII, **options)
    needed = len(calls)
    with pytest.raises(Stopped):
        evaluate(net, x, y, threat, RADII, checkpoint=file, progress=stop_after(parts), **options)
    begun = len(calls) - needed
    found = evaluate(net, x, y, threat, RADII, checkpoint=file, **options)
    assert len(calls) - needed <= needed + 1  # what was done is not done again
    assert len(calls) - needed - begun < needed or begun == 0
    for name in ("clean", "length", "by", "kept", "points"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    count = len(calls)
    assert torch.equal(evaluate(net, x, y, threat, RADII, checkpoint=file, **options).length, whole.length)
    assert len(calls) == count  # a finished one is read
    assert 0 < whole.accuracy[-1].value < whole.accuracy[0].value


def partly(model, x, y, *, norm, bounds, generator):
    """Finds every other example's nearest decision."""
    points = fmn(model, x, y, norm=norm, bounds=bounds, steps=5).x_adv
    return torch.where(x[:, :1] > 0, points, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radii": [0.1]}, "other radii"),
        ({"attacks": [functools.partial(pgd, steps=3)]}, "other attacks"),
        ({"generator": 1}, "other generator"),
        ({"restarts": 2}, "other restarts"),
        ({"x": "other"}, "other .*data"),
        ({"model": "other"}, "other model"),
        ({"threat": Ball("inf", 0.1, None)}, "other threat"),
    ],
)
def test_a_checkpoint_of_another_evaluation_is_refused(tmp_path, change, message):
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.copy_(draw(3, 6))
    x = draw(5, 6, seed=1).float()
    arguments = {"model": net, "x": x, "y": torch.arange(5) % 3, "threat": Ball("2", 0.1, None), "radii": [0.1, 0.2]}
    arguments |= {"attacks": [functools.partial(pgd, steps=2)], "generator": 0, "checks": False}
    arguments |= {"checkpoint": tmp_path / "file"}
    evaluate(**arguments)
    before = (tmp_path / "file").read_bytes()
    if change.get("model"):
        change = {"model": nn.Linear(6, 3)}
        change["model"].load_state_dict({**net.state_dict(), "bias": net.bias.detach() + 1})
    if change.get("x") == "other":
        change = {"x": x + 1e-3}
    with pytest.raises(ValueError, match=f"checkpoint: .*{message}"):
        evaluate(**(arguments | change))
    assert (tmp_path / "file").read_bytes() == before


def test_options_that_are_functions_and_tensors_are_known_again(tmp_path):
    """A process that goes on has other addresses; the code of a function is not looked at, the numbers are."""
    model, x, y, _ = problem()

    def options(scale):
        def least(scores, labels):
            return -scores.gather(1, labels[:, None])[:, 0]

        def toward(model, z, labels, threat, *, generator, away=None):
            return threat.retract(z + away, z)

        attacks = [
            functools.partial(pgd, loss=least, steps=2),
            functools.partial(toward, away=scale * torch.ones(6).double()),
        ]
        return {"attacks": attacks, "generator": 0, "checks": False, "checkpoint": tmp_path / "file", "progress": False}

    first = evaluate(model, x, y, Ball("2", 0.1, None), **options(1.0))
    assert first.attacks[0] == "pgd(loss=least, steps=2)"
    assert torch.equal(evaluate(model, x, y, Ball("2", 0.1, None), **options(1.0)).length, first.length)
    with pytest.raises(ValueError, match="other attacks"):
        evaluate(model, x, y, Ball("2", 0.1, None), **options(2.0))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    model, x, y, _ = problem()
    (tmp_path / "file").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        evaluate(model, x, y, Ball("2", 0.1, None), checkpoint=tmp_path / "file", checks=False)


def test_a_file_without_a_seed_keeps_the_one_it_drew(tmp_path):
    model, x, y, _ = problem()

    def noise(model, z, labels, threat, *, generator):
        return threat.retract(z + torch.randn(z.shape, generator=generator, dtype=z.dtype), z)

    options = {"attacks": [noise], "batch_size": 3, "checks": False, "checkpoint": tmp_path / "file"}
    with pytest.raises(Stopped):
        evaluate(model, x, y, Ball("2", 0.3, None), RADII, progress=stop_after(9), **options)
    first = evaluate(model, x, y, Ball("2", 0.3, None), RADII, **options)
    assert torch.equal(first.length, evaluate(model, x, y, Ball("2", 0.3, None), RADII, **options).length)
