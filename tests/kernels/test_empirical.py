"""The empirical tangent kernel against autograd loops and the exact kernel, for any module, layer and budget."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from hilbertnet.kernels import ConvKernel
from hilbertnet.kernels.empirical import empirical_ntk
from hilbertnet.networks import CKN, CKNNet, ckn_like
from hilbertnet.networks.tangent import ntk_network


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make):
    """A module with weights, and buffers, of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


class OneOutput(nn.Module):
    """Outputs (n,), and a weight that is used twice under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x))).square().sum(1)


class Counts(nn.Module):
    """Writes to a buffer in its forward pass, and leaves one parameter unused."""

    def __init__(self):
        super().__init__()
        self.linear, self.unused = nn.Linear(6, 3), nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.linear(x).sin()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


def dense():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def normalized():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2)
    )
    nn.init.normal_(net[1].running_mean)
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    return net


def convolutional_kernel_network():
    net = CKNNet(CKN("3 exp(0.6) avg2 | 3 exp(0.6) global", 2, (4, 5), axes=1, generator=0), (7,), 3)
    nn.init.normal_(net.head.weight)
    return net


CASES = {
    "dense": (dense, (6,)),
    "normalized": (normalized, (2, 5, 5)),
    "one output": (OneOutput, (6,)),
    "counts": (Counts, (6,)),
    "recurrent": (Recurrent, (5, 2)),
    "ckn": (convolutional_kernel_network, (2, 7)),
    "images": (lambda: ckn_like("3 arccos1 gauss2", 1, (3,), classes=4, space=(4, 5), generator=0), (1, 4, 5)),
}


def jacobian_by_loops(model, x):
    """One backward pass for each example and output: (n, outputs, parameters)."""
    model.eval()
    rows = []
    for one in x:
        outputs = model(one[None]).reshape(-1)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for output in outputs:
            parts = torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows).unflatten(0, (len(x), -1))


def close(found, expected, rtol=1e-12):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", CASES)
def test_blocks_and_traces_are_those_of_autograd_loops(name):
    make, shape = CASES[name]
    model, x, y = seeded(make), draw(5, *shape), draw(3, *shape, seed=1)
    found = empirical_ntk(model, x, trace="class-by-class"), empirical_ntk(model, x, y, trace="class-by-class")
    traced = empirical_ntk(model, x), empirical_ntk(model, x, y, trace="sum")
    left, right = jacobian_by_loops(model, x), jacobian_by_loops(model, y)
    for block, trace, other in zip(found, traced, (left, right), strict=True):
        expected = torch.einsum("icp,jdp->ijcd", left, other)
        close(block, expected)
        total = torch.einsum("ijcc->ij", expected)
        close(trace, total / left.shape[1] if other is left else total)


def test_a_linear_model_has_its_closed_form():
    """The model W x + b has Theta_cd = (<x, y> + 1) 1[c = d]."""
    model, x, y = nn.Linear(4, 3), draw(5, 4), draw(2, 4, seed=1)
    expected = (x @ y.T + 1)[:, :, None, None] * torch.eye(3, dtype=torch.float64)
    close(empirical_ntk(model, x, y, trace=False), expected)
    close(empirical_ntk(model, x, y, trace=True), x @ y.T + 1)
    close(empirical_ntk(model, x, y, layers="bias", trace="sum"), torch.full((5, 2), 3.0, dtype=torch.float64))


def test_symbols_to_embed_stay_whole_numbers():
    """The sum of E[s_i] has the kernel of common symbols, times the dimension for the sum of the trace."""
    model = nn.EmbeddingBag(6, 4, mode="sum")
    x = torch.tensor([[0, 1, 2], [2, 2, 5]])
    counts = torch.nn.functional.one_hot(x, 6).sum(1).double()
    close(empirical_ntk(model, x, trace="sum"), 4 * counts @ counts.T)
    np.testing.assert_allclose(empirical_ntk(model, x.numpy()), counts @ counts.T)


@pytest.mark.parametrize("trace", ["mean", "class-by-class"])
@pytest.mark.parametrize("name", ["dense", "recurrent"])
def test_the_budget_changes_nothing_but_the_blocks(name, trace):
    make, shape = CASES[name]
    model, x, y = seeded(make), draw(9, *shape), draw(4, *shape, seed=1)
    for other in (None, y):
        whole = empirical_ntk(model, x, other, trace=trace)
        with pytest.raises(ValueError, match="^memory: expected at least") as refused:
            empirical_ntk(model, x, other, trace=trace, memory=1)
        unit = {"bytes": 1, "kB": 1000, "MB": 10**6}
        number, name = str(refused.value).split("at least ")[1].split()[:2]
        least = 1.01 * float(number) * unit[name]
        counts = []
        for budget in (least, 2 * least, 4 * least, "1GB"):
            steps = []
            found = empirical_ntk(
                model, x, other, trace=trace, memory=budget, progress=lambda *step, seen=steps: seen.append(step)
            )
            close(found, whole, rtol=1e-13)
            if other is None:
                assert (found == found.permute(1, 0, *range(found.ndim - 1, 1, -1))).all()
            assert steps == [(k, len(steps)) for k in range(1, len(steps) + 1)]
            counts.append(len(steps))
        assert counts[0] > counts[-1] == 1
        assert counts == sorted(counts, reverse=True)


def test_layers_sum_to_the_whole_and_are_chosen_by_any_name():
    model, x = seeded(dense), draw(4, 6)
    parts = empirical_ntk(model, x, per_layer=True)
    assert list(parts) == ["0", "2", "4"]
    close(sum(parts.values()), empirical_ntk(model, x))
    for chosen in ("2", [model[2]], ["2.bias", "2.weight"]):
        close(empirical_ntk(model, x, layers=chosen), parts["2"])
    nested = nn.Sequential(nn.Sequential(model[0], model[1]), nn.Sequential(model[2], model[3], model[4]))
    found = empirical_ntk(nested, x, layers=["1", "0.0.bias"], per_layer=True, trace="class-by-class")
    assert list(found) == ["1", "0.0.bias"]
    close(torch.einsum("ijcc->ij", found["1"]) / 3, parts["2"] + parts["4"])


def test_frozen_parameters_count_only_when_named():
    model, x = seeded(dense), draw(4, 6)
    parts = empirical_ntk(model, x, per_layer=True)
    model[0].requires_grad_(False)
    close(empirical_ntk(model, x), parts["2"] + parts["4"])
    close(empirical_ntk(model, x, layers="0"), parts["0"])


def test_a_weight_with_two_names_counts_once_under_either():
    model, x = seeded(OneOutput), draw(4, 6)
    close(empirical_ntk(model, x, layers="last.weight"), empirical_ntk(model, x, layers="first.weight"))
    with pytest.raises(
        ValueError, match="^layers: expected no parameter twice, 'first.weight' is in 'first' and 'last'"
    ):
        empirical_ntk(model, x, layers=["first", "last"])


def test_kind_dtype_and_device_follow_the_examples():
    model, x = nn.Linear(3, 2), draw(4, 3)
    for kind, expected in ((x, torch.Tensor), (x.numpy(), np.ndarray), (x.tolist(), np.ndarray)):
        assert isinstance(empirical_ntk(model, kind), expected)
    assert empirical_ntk(model, x.numpy()).dtype == np.float64
    small = empirical_ntk(model, x, dtype=torch.float32)
    assert small.dtype == torch.float32
    close(small.double(), empirical_ntk(model, x), rtol=1e-6)


# ----------------------------------------------------------------------------------------- the model is left as it was


def test_the_model_is_taken_in_eval_mode_and_left_as_it_was():
    model, x = seeded(normalized), draw(4, 2, 5, 5)
    model.train()
    model[1].eval()  # a mode of its own
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x.requires_grad_()
    found = empirical_ntk(model, x)
    assert [module.training for module in model.modules()] == modes
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad
    jacobian = jacobian_by_loops(model, x.detach())
    close(found, torch.einsum("icp,jcp->ij", jacobian, jacobian) / 2)


def test_the_mode_is_put_back_after_an_error():
    model = seeded(dense).train()
    with pytest.raises(ValueError, match=r"^X: expected examples that the model takes, got shape \(2, 5\)"):
        empirical_ntk(model, draw(2, 5))
    assert all(module.training for module in model.modules())


def test_a_buffer_written_by_the_forward_pass_is_not_the_models():
    model = seeded(Counts)
    empirical_ntk(model, draw(3, 6))
    assert model.calls == 0


def test_gradients_are_off_outside_and_on_inside():
    model, x = seeded(dense), draw(4, 6)
    with torch.no_grad():
        found = empirical_ntk(model, x)
    close(found, empirical_ntk(model, x))
    assert torch.is_grad_enabled()


def test_modules_that_vmap_does_not_know_are_said_once(caplog):
    model, x = seeded(convolutional_kernel_network), draw(4, 2, 7)
    with caplog.at_level(logging.WARNING, logger="hilbertnet"):
        empirical_ntk(model, x, trace="class-by-class", memory="40kB")
    assert len(caplog.records) == 1
    assert "one backward pass for each example and output" in caplog.text
    caplog.clear()
    empirical_ntk(seeded(dense), draw(4, 6))
    assert not caplog.records


# ------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("text", ["3 arccos1 avg2 | 3 arccos1 global", "3 dual(gelu) avg2 | 2 exp(0.8) -"])
def test_the_error_against_the_exact_kernel_falls_as_one_over_the_root_of_the_width(text):
    x, widths, seeds = draw(4, 2, 8), (32, 64, 128, 256), 24
    exact, errors = ConvKernel(text, kind="ntk").gram(x), []
    for width in widths:
        nets = (ntk_network(text, 2, width, space=(8,), generator=100 * width + seed) for seed in range(seeds))
        errors.append(np.mean([float((empirical_ntk(net, x) - exact).norm() / exact.norm()) for net in nets]))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert errors[-1] < 0.12
    assert -0.65 < slope < -0.35


def test_different_outputs_of_a_wide_network_have_no_kernel_in_common():
    net, x = ntk_network("3 arccos1 avg2", 2, 4096, space=(8,), outputs=3, generator=0), draw(3, 2, 8)
    blocks = empirical_ntk(net, x, trace="class-by-class")
    exact = ConvKernel("3 arccos1 avg2", kind="ntk").gram(x)
    expected = exact[:, :, None, None] * torch.eye(3, dtype=torch.float64)
    assert (blocks - expected).abs().max() < 0.1 * exact.max()


MEASURE = """
import sys, torch
from torch import nn
from hilbertnet.kernels.empirical import empirical_ntk
from hilbertnet.networks import ckn_like

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

torch.set_num_threads(1)
dense = sys.argv[1] == "dense"
rng = torch.Generator().manual_seed(0)
if dense:
    model = nn.Sequential(nn.Linear(50, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10))
    x = torch.randn(24, 50, generator=rng)
else:
    model = ckn_like("3 exp(0.6) avg2 | 3 exp(0.6) global", 3, (64, 64), space=(32, 32), generator=0)
    x = torch.rand(60, 3, 32, 32, generator=rng)
empirical_ntk(model, x[:1], dtype=torch.float32, memory="1GB")  # libraries and their buffers
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
empirical_ntk(model, x, dtype=torch.float32, memory=int(sys.argv[2]))
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not reset peaks of memory")
@pytest.mark.parametrize(
    ("kind", "whole"),
    [("dense", 24 * 10 * 281_010 * 4), ("images", 60 * 10 * 39_370 * 4)],
)
def test_the_peak_of_memory_stays_within_the_budget(kind, whole):
    """Budgets of a fraction of what all the gradients take, and the measured peak of the process beyond its start."""
    budget = 50_000_000
    assert budget < 0.55 * whole
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(budget)], capture_output=True, text=True, check=True
    )
    assert 0.2 * budget < int(done.stdout) < budget


# ---------------------------------------------------------------------------------------------------------- bad input


class Wrong(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.weight, self.output = nn.Parameter(torch.ones(3)), output

    def forward(self, x):
        return self.output((x * self.weight).sum(1))


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: empirical_ntk("model", x), "^model: expected a torch.nn.Module, got str"),
        (lambda m, x: empirical_ntk(nn.ReLU(), x), "^model: expected parameters that require a gradient"),
        (lambda m, x: empirical_ntk(nn.LazyLinear(3), x), "^model: expected parameters with a shape"),
        (lambda m, x: empirical_ntk(m, x[0]), "^X: expected images"),
        (lambda m, x: empirical_ntk(m, x[:0]), "^X: expected at least one signal"),
        (lambda m, x: empirical_ntk(m, x * NAN), "^X: expected finite numbers, got nan"),
        (lambda m, x: empirical_ntk(m, x, x[:, :4]), r"^Y: expected shape \(n, 6\), got \(5, 4\)"),
        (lambda m, x: empirical_ntk(m, x, x / 0), "^Y: expected finite numbers"),
        (lambda m, x: empirical_ntk(m, x, layers="5"), "^layers: expected the name of a layer or a parameter, got '5'"),
        (lambda m, x: empirical_ntk(m, x, layers=["0.wieght"]), "did you mean '0.weight'"),
        (lambda m, x: empirical_ntk(m, x, layers=[]), "^layers: expected at least one layer"),
        (lambda m, x: empirical_ntk(m, x, layers=["1"]), "^layers: expected layers with parameters, '1' has none"),
        (lambda m, x: empirical_ntk(m, x, layers=["0", "0.bias"]), "^layers: expected no parameter twice"),
        (lambda m, x: empirical_ntk(m, x, layers=[nn.Linear(6, 8)]), "^layers: expected modules of the model"),
        (lambda m, x: empirical_ntk(m, x, layers=[3]), "^layers: expected names or modules, got 3"),
        (lambda m, x: empirical_ntk(m, x, trace="means"), "^trace: .*did you mean 'mean'"),
        (lambda m, x: empirical_ntk(m, x, dtype=torch.float16), "^dtype: expected torch.float32 or torch.float64"),
        (lambda m, x: empirical_ntk(m, x, memory="lots"), "^memory: "),
        (
            lambda m, x: empirical_ntk(m, x, memory="1kB"),
            "^memory: expected at least .* for the gradients of two outputs",
        ),
        (
            lambda m, x: empirical_ntk(Wrong(lambda s: [s]), x[:, :3]),
            "^model: expected a tensor of real outputs, got list",
        ),
        (lambda m, x: empirical_ntk(Wrong(lambda s: s.sum()), x[:, :3]), r"^model: expected outputs \(1, ...\)"),
        (lambda m, x: empirical_ntk(Wrong(lambda s: s > 0), x[:, :3]), "^model: expected a tensor of real outputs"),
        (lambda m, x: empirical_ntk(Wrong(lambda s: (s * 0).sqrt()), x[:, :3]), "^model: expected finite gradients"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(seeded(dense), draw(5, 6))
