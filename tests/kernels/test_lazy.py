"""Linearized models, lazy training and kernel regression: against finite differences, closed forms and each other."""

import copy
import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.kernels.empirical import empirical_ntk
from hilbertnet.kernels.lazy import LazyModel, LinearizedModel, lazy_objective, tangent_regression
from hilbertnet.kernels.movement import Movement
from hilbertnet.losses import signs
from hilbertnet.networks import CKN, CKNNet
from hilbertnet.networks.tangent import ntk_network
from hilbertnet.training import Recipe, classification_loss, train

SQUARED = classification_loss("ridge")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(width=16, kernel="arccos1"):
    arch = f"3 {kernel} avg2 | 3 {kernel} global"
    return ntk_network(arch, 2, width, space=(8,), outputs=3, generator=0).double()


def ckn():
    net = CKNNet(CKN("3 exp(0.6) avg2 | 3 exp(0.6) global", 2, (4, 5), axes=1, generator=0), (8,), 3)
    nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(0))
    return net.double()


def normalized():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(), nn.Flatten(), nn.Linear(24, 3)
        ).double()


def problem(n=8):
    y = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(1))
    return draw(n, 2, 8), y, draw(5, 2, 8, seed=2)


def flat_kernel(model, x, y=None):
    """Rows and columns are pairs of an example and an output."""
    blocks = empirical_ntk(model, x, y, trace="class-by-class").permute(0, 2, 1, 3)
    return blocks.flatten(2, 3).flatten(0, 1)


def close(found, expected, rtol=1e-10):
    found, expected = found.detach(), expected.detach()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# --------------------------------------------------------------------------------------------------- linearized models


def shift_(model, delta, scale):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in delta:
                parameter += scale * delta[name]
    return model


@pytest.mark.parametrize("make", [network, ckn, normalized])
def test_the_linearization_is_the_slope_of_the_model(make):
    """Against central differences of the model itself; its training mode does not matter."""
    model, x = make(), draw(4, 2, 8)
    if make is ckn:
        x = x.abs()
    linear = LinearizedModel(model.train()).train()
    model.eval()
    close(linear(x), model(x))
    rng = torch.Generator().manual_seed(3)
    for delta in linear.displacement:
        nn.init.normal_(delta, generator=rng)
    deltas, step = linear.deltas(), 1e-6
    above, below = (shift_(copy.deepcopy(model), deltas, sign * step)(x) for sign in (1, -1))
    close(linear(x) - model(x), (above - below) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("make", [network, ckn])
def test_gradients_in_the_displacement_and_in_the_input_are_exact(make):
    model, x = make(), draw(2, 2, 8)
    linear = LinearizedModel(model)
    rng = torch.Generator().manual_seed(3)
    for delta in linear.displacement:
        nn.init.normal_(delta, generator=rng)
    linear(x)  # which way it goes is said here

    def outputs(x, *deltas):
        return torch.func.functional_call(linear, {f"displacement.{k}": d for k, d in enumerate(deltas)}, (x,))

    # the second derivative of a rectifier is 0 except at its kink, where finite differences go astray: smooth nets only
    inputs = (x.requires_grad_(make is ckn), *(delta.detach().requires_grad_() for delta in linear.displacement))
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)


def test_a_module_without_forward_mode_is_said_once(caplog):
    linear, x = LinearizedModel(ckn()), draw(2, 2, 8)
    with caplog.at_level(logging.WARNING, logger="hilbertnet"):
        for _ in range(3):
            linear(x)
    assert len(caplog.records) == 1
    assert "by differentiating the backward pass" in caplog.text
    with torch.no_grad():
        assert not linear(x).requires_grad


def test_only_the_displacement_trains_and_the_model_is_not_touched():
    model = network()
    before = copy.deepcopy(model.state_dict())
    linear = LinearizedModel(model, layers="features.layers.1")
    assert linear.names == ("features.layers.1.weight",)
    assert [name for name, p in linear.named_parameters() if p.requires_grad] == ["displacement.0"]
    optimizer = torch.optim.Adam(linear.parameters(), 0.1, weight_decay=0.1)
    x, y, _ = problem()
    start = linear(x).detach()
    train(linear, (x, y), None, optimizer, Recipe(epochs=3), progress=False)
    assert (linear(x) - start).abs().max() > 0.1
    for state in (model.state_dict(), linear.base.state_dict()):
        assert all((tensor == before[name]).all() for name, tensor in state.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_saved_linearization_is_read_back():
    linear, x = LinearizedModel(network()), draw(3, 2, 8)
    nn.init.normal_(linear.displacement[0], generator=torch.Generator().manual_seed(3))
    other = LinearizedModel(shift_(network(), linear.anchors(), 0.5))
    assert (other(x) - linear(x)).abs().max() > 0.01
    other.load_state_dict(linear.state_dict())
    close(other(x), linear(x), rtol=1e-14)


# --------------------------------------------------------------------------------------------------- kernel regression


@pytest.mark.parametrize("make", [network, ckn])
@pytest.mark.parametrize("rule", [{}, {"lam": 0.03}, {"time": 2.0}, {"time": 0.0}], ids=str)
def test_regression_is_its_formula_in_the_kernel(make, rule):
    model, (x, y, other) = make(), problem()
    targets = signs(y, 3, torch.float64)
    gram, cross, n = flat_kernel(model, x), flat_kernel(model, other, x), len(x)
    residual = (targets - model(x).detach()).flatten()
    if "time" in rule:
        residual = residual - torch.matrix_exp(-gram * rule["time"] / n) @ residual
    ridge = n * rule.get("lam", 0.0) * torch.eye(len(gram), dtype=torch.float64)
    expected = model(other).detach() + (cross @ torch.linalg.solve(gram + ridge, residual)).view(5, 3)
    # no lambda: the condition number of the kernel, of 1e3 and 1e7
    close(tangent_regression(model, x, targets, progress=False, **rule)(other).detach(), expected, rtol=1e-8)


def test_without_lambda_the_targets_are_met_by_the_smallest_displacement():
    model, (x, y, _) = network(), problem()
    targets = signs(y, 3, torch.float64)
    linear = tangent_regression(model, x, targets, progress=False)
    close(linear(x), targets)
    residual = (targets - model(x).detach()).flatten()
    norm = sum(delta.square().sum() for delta in linear.displacement).detach()
    close(norm, residual @ torch.linalg.solve(flat_kernel(model, x), residual), rtol=1e-8)


def test_examples_that_are_twice_the_same_are_no_harm():
    model, (x, y, other) = network(), problem()
    targets = signs(y, 3, torch.float64)
    twice = tangent_regression(model, torch.cat([x, x]), torch.cat([targets, targets]), progress=False)
    close(twice(other), tangent_regression(model, x, targets, progress=False)(other), rtol=1e-7)


def gradient_descent(model, x, y, rate, epochs, decay=0.0):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate, weight_decay=decay)
    return train(model, (x, y), None, optimizer, Recipe(epochs, len(x)), objective=SQUARED, progress=False)


def spectrum(model, x):
    """Of the kernel over n: what gradient descent on half the mean squared error sees."""
    return torch.linalg.eigvalsh(flat_kernel(model, x) / len(x))


def test_the_linearized_model_trained_to_convergence_is_kernel_regression():
    model, (x, y, other) = network(64), problem(4)
    values = spectrum(model, x)
    rate, epochs = 2 / float(values[0] + values[-1]), 120
    linear = LinearizedModel(model)
    gradient_descent(linear, x, y, rate, epochs)
    shrinks = ((values[-1] - values[0]) / (values[-1] + values[0])) ** epochs
    assert shrinks < 1e-5  # by theory what is left of the error
    expected = tangent_regression(model, x, signs(y, 3, torch.float64), progress=False)
    close(linear(other), expected(other), rtol=1e-4)
    assert (expected(other) - model(other)).abs().max() > 0.1


def test_weight_decay_on_the_displacement_is_ridge():
    model, (x, y, other), lam = network(), problem(), 3.0
    linear = LinearizedModel(model)
    gradient_descent(linear, x, y, 1 / (float(spectrum(model, x)[-1]) + lam), 80, lam)
    expected = tangent_regression(model, x, signs(y, 3, torch.float64), lam=lam, progress=False)
    close(linear(other), expected(other), rtol=1e-6)


def test_small_steps_follow_the_gradient_flow():
    """Euler's method: at a tenth of the rate, the error at a fixed time is a tenth."""
    model, (x, y, other) = network(), problem()
    targets, errors = signs(y, 3, torch.float64), []
    top = float(spectrum(model, x)[-1])
    flow = tangent_regression(model, x, targets, time=8 / top, progress=False)(other)
    for steps in (12, 120):
        linear = LinearizedModel(model)
        gradient_descent(linear, x, y, 8 / top / steps, steps)
        errors.append(float(((linear(other) - flow).norm() / (flow - model(other)).norm()).detach()))
    assert errors[0] < 0.2
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.3)


# -------------------------------------------------------------------------------------------------------- lazy training


def test_a_lazy_model_is_scaled_and_centred():
    model, x = normalized().eval(), draw(4, 2, 8)
    lazy, plain = LazyModel(model, 7.0).train(), LazyModel(model, 7.0, centred=False).eval()
    assert not lazy.start.training
    lazy.eval()
    assert (lazy(x) == 0).all()
    start = model(x).detach()
    close(plain(x), 7 * start)
    with torch.no_grad():
        model[-1].bias += 1.0
    close(lazy(x), torch.full((4, 3), 7.0, dtype=torch.float64))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(lazy(x).sum(), x)
    assert gradient.abs().max() < 1e-12  # that of the frozen copy counts


def test_the_objective_is_divided_by_the_square_of_the_scale():
    model, (x, y, _) = network(), problem()
    loss, scores = SQUARED(model, x, y)
    lazy_loss, lazy_scores = lazy_objective(5.0, SQUARED)(model, x, y)
    close(lazy_loss, loss / 25)
    close(lazy_scores, scores)


def test_growing_scales_are_lazier():
    """Distance to the linearization and movement of all layers fall as 1 / alpha (Chizat et al. 2019, theorem 2.3)."""
    x, y, other = problem()
    start = network(kernel="dual(gelu)")  # smooth: a rectifier whose kinks are not crossed is as good as linear
    rate = 0.5 / float(spectrum(start, x)[-1])
    linear = LinearizedModel(LazyModel(start, 1.0))
    gradient_descent(linear, x, y, rate, 60)
    distances, moves, alphas = [], [], (3.0, 30.0, 300.0)
    for alpha in alphas:
        model = LazyModel(copy.deepcopy(start), alpha)
        movement = Movement(model.model)
        optimizer = torch.optim.SGD(model.model.parameters(), rate)
        objective = lazy_objective(alpha, SQUARED)
        train(
            model, (x, y), None, optimizer, Recipe(60, len(x)),
            schedule=movement, objective=objective, progress=False,
        )  # fmt: skip
        distances.append(float(((model(other) - linear(other)).norm() / linear(other).norm()).detach()))
        moves.append(movement.history[-1])
    assert distances[0] > 0.02
    assert np.diff(np.log10(distances)) == pytest.approx([-1, -1], abs=0.15)
    for layer in moves[0]:
        assert np.diff(np.log10([move[layer] for move in moves])) == pytest.approx([-1, -1], abs=0.1)


def test_movement_is_recorded_after_every_epoch_and_steps_the_schedule():
    model, (x, y, _) = network(), problem()
    starts = [copy.deepcopy(model)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    movement = Movement(model, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    history = train(
        model, (x, y), None, optimizer, Recipe(3, 4), schedule=movement, progress=False,
        before_epoch=lambda net, _: starts.append(copy.deepcopy(net)),
    )  # fmt: skip
    assert [epoch.learning_rate for epoch in history] == [0.1, 0.05, 0.025]
    assert len(movement.history) == 3
    for found, net in zip(movement.history, [*starts[2:], model], strict=True):
        assert list(found) == ["readout", "features.layers.0", "features.layers.1"]
        for layer, name in zip(found, ["readout", "features.layers.0.weight", "features.layers.1.weight"], strict=True):
            first = dict(starts[0].named_parameters())[name].detach()
            now = dict(net.named_parameters())[name].detach()
            assert found[layer] == pytest.approx(float((now - first).norm() / first.norm()), rel=1e-12)
            assert found[layer] > 1e-3


def test_movement_goes_on_with_an_interrupted_training(tmp_path):
    (x, y, _), file = problem(), tmp_path / "training.safetensors"

    class StoppedError(Exception):
        pass

    def run(**options):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        movement = Movement(model, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
        train(model, (x, y), None, optimizer, Recipe(4, 3), schedule=movement, progress=False, **options)
        return movement

    def stop(_, epoch):
        if epoch == 2:
            raise StoppedError

    whole = run()
    with pytest.raises(StoppedError):
        run(checkpoint=file, before_epoch=stop)
    assert run(checkpoint=file).history == whole.history
    with pytest.raises(KeyError, match="movement of other layers"):
        Movement(normalized()).load_state_dict(whole.state_dict())


def test_movement_of_a_linearization_is_relative_to_the_frozen_weights():
    model = network()
    linear = LinearizedModel(model)
    movement = Movement(linear)
    assert set(movement.measure().values()) == {0.0}
    for delta, anchor in zip(linear.displacement, linear.anchors().values(), strict=True):
        delta.data.copy_(0.25 * anchor)
    assert list(movement.measure()) == ["readout", "features.layers.0", "features.layers.1"]
    assert list(movement.measure().values()) == pytest.approx([0.25] * 3)


def test_a_layer_that_starts_at_zero_moves_infinitely():
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.bias)
    movement = Movement(model, layers=["bias", "weight"])
    assert movement.measure() == {"bias": 0.0, "weight": 0.0}
    nn.init.ones_(model.bias)
    assert movement.measure() == {"bias": math.inf, "weight": 0.0}


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, t: LinearizedModel("model"), "^model: expected a torch.nn.Module, got str"),
        (lambda m, x, t: LinearizedModel(m, layers="head"), "^layers: expected the name of a layer"),
        (
            lambda m, x, t: LinearizedModel(m.requires_grad_(False)),
            "^model: expected parameters that require a gradient",
        ),
        (lambda m, x, t: LazyModel(3, 1.0), "^model: expected a torch.nn.Module, got int"),
        (lambda m, x, t: LazyModel(m, 0), "^alpha: expected a positive number, got 0"),
        (lambda m, x, t: LazyModel(m, float("nan")), "^alpha: expected a positive number, got nan"),
        (lambda m, x, t: lazy_objective(-2.0), "^alpha: expected a positive number, got -2.0"),
        (lambda m, x, t: Movement(m, layers="featurs"), "did you mean 'features'"),
        (lambda m, x, t: Movement(LinearizedModel(m), layers="readout"), "^layers: expected None for a Linearized"),
        (
            lambda m, x, t: tangent_regression(m, x, t[:, :2]),
            r"^targets: expected real numbers \(8, 3\), got shape \(8, 2\)",
        ),
        (
            lambda m, x, t: tangent_regression(m, x, t[:, 0]),
            r"^targets: expected real numbers \(8, 3\), got shape \(8,\)",
        ),
        (lambda m, x, t: tangent_regression(m, x, t / 0), "^targets: expected finite numbers"),
        (lambda m, x, t: tangent_regression(m, x / 0, t), "^X: expected finite numbers"),
        (lambda m, x, t: tangent_regression(normalized(), x[:, :1], t), "^X: expected examples that the model takes"),
        (lambda m, x, t: tangent_regression(m, x, t, lam=-1.0), "^lam: expected a finite number, 0 or more, got -1.0"),
        (lambda m, x, t: tangent_regression(m, x, t, time=float("nan")), "^time: expected a finite number"),
        (lambda m, x, t: tangent_regression(m, x, t, lam=0.1, time=1.0), "^time: expected lam = 0"),
        (lambda m, x, t: tangent_regression(m, x, t, memory="1kB"), "^memory: expected at least"),
    ],
)
def test_bad_arguments_are_named(call, message):
    x, y, _ = problem()
    with pytest.raises(ValueError, match=message):
        call(network(), x, signs(y, 3, torch.float64))
