"""Adapters against distances computed by hand: kernels, networks, layers of modules, kymatio's interface, functions."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import OneHotEncoder
from torch import nn

from hilbertnet import CKNFeatures
from hilbertnet.kernels import ConvKernel
from hilbertnet.networks import CKN, RandomFeatureNet
from hilbertnet.protocols import Representation
from hilbertnet.stability.adapters import KernelRepresentation
from hilbertnet.stability.representations import as_representation

ARCH = "3 exp(0.6) gauss2 | 3 exp(0.6) gauss2"


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(n=5, space=(8, 8), channels=1):
    return draw(n, channels, *space), draw(n, channels, *space, seed=1)


def by_hand(features, x, y):
    """Distances and norms in numpy, one signal at a time."""
    left, right = (np.stack([np.asarray(features(one)).ravel() for one in part]) for part in (x, y))
    return np.sqrt(((left - right) ** 2).sum(1)), np.sqrt((left**2).sum(1))


class Tiny(nn.Module):
    """Two layers, dropout, running statistics, and an in-place ReLU behind the first."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4 * 36, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(x).flatten(1))


def tiny(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Tiny()
        nn.init.normal_(net.body[2].running_mean)
        nn.init.uniform_(net.body[2].running_var, 0.5, 2.0)
    return net.to(dtype)


class ScatteringNumPy2D:
    """The interface of kymatio's numpy frontend: a callable that takes arrays only, shape (..., M, N)."""

    def __init__(self, shape):
        self.frontend_name, (self.M, self.N) = "numpy", shape
        rows, columns = (np.fft.fftfreq(length) for length in shape)
        self.low = np.exp(-20 * (rows[:, None] ** 2 + columns**2))

    def scattering(self, x):
        if type(x) is not np.ndarray:
            raise TypeError("The input should be a NumPy array.")
        smooth = np.abs(np.fft.ifft2(np.fft.fft2(x) * self.low))
        return np.stack([smooth, np.abs(x - smooth)], -3)

    __call__ = scattering


class ScatteringTorch2D(nn.Module):
    """The interface of kymatio's torch frontend: filters are float32 buffers, read anew at every call, x contiguous."""

    def __init__(self, shape):
        super().__init__()
        self.frontend_name = "torch"
        self.register_buffer("tensor0", torch.from_numpy(ScatteringNumPy2D(shape).low).float())

    def forward(self, x):
        if not x.is_contiguous():
            raise RuntimeError("Tensor must be contiguous!")
        low = dict(self.named_buffers())["tensor0"]
        if low.dtype != x.dtype:
            raise TypeError("Input and filter must be of the same dtype.")
        smooth = torch.fft.ifft2(torch.fft.fft2(x) * low).abs()
        return torch.stack([smooth, (x - smooth).abs()], -3)


# --- values


def test_pixels():
    x, y = pair()
    pixels = as_representation("pixels")
    torch.testing.assert_close(pixels.distance(x, y), (x - y).square().sum((1, 2, 3)).sqrt())
    torch.testing.assert_close(pixels.norm(x), x.square().sum((1, 2, 3)).sqrt())
    assert pixels.name == "pixels"


@pytest.mark.parametrize("kind", ["ckn", "ntk"])
def test_exact_kernels_in_batches(kind):
    kernel, (x, y) = ConvKernel("3 arccos1 gauss2", kind=kind), pair(5, (6, 7))
    phi = as_representation(kernel, batch_size=2)
    gram = kernel.gram(torch.cat([x, y]))
    squares = gram.diag()[:5] + gram.diag()[5:] - 2 * gram.diag(5)
    torch.testing.assert_close(phi.distance(x, y), squares.sqrt(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(phi.norm(x), gram.diag()[:5].sqrt())
    assert phi.name == f"{kind.upper()} kernel 3 arccos1 gauss2"
    assert phi.distance(x[:1], x[:1]).item() < (1e-6 if kind == "ckn" else 1e-3)


def test_an_architecture_stands_for_its_exact_kernel():
    x, y = pair(2, (6, 6))
    expected = ConvKernel(ARCH).distance(x, y)
    assert torch.equal(as_representation(ARCH).distance(x, y), expected)
    assert torch.equal(as_representation(ConvKernel(ARCH).arch).distance(x, y), expected)


@pytest.mark.parametrize(
    "make", [lambda: CKN(ARCH, 1, (6, 9), generator=0), lambda: RandomFeatureNet(ARCH, 1, 10, generator=0)]
)
def test_networks_of_an_architecture(make):
    net = make().double().train()
    x, y = pair()
    phi = as_representation(net, batch_size=3)
    assert phi.name in ("CKN(6, 9)", "RandomFeatureNet(10, 10)")
    net.eval()
    torch.testing.assert_close(phi.distance(x, y), net.distance(x, y))
    torch.testing.assert_close(phi.norm(x), net.norm(x))


def test_layers_of_a_module_and_nothing_of_it_changes():
    net, (x, y) = tiny(), pair()
    net.body.eval()  # mixed modes
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    net.head.weight.requires_grad_(False)
    wanted = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    found = {layer: as_representation(net, layer=layer) for layer in ("body.0", "body.1", "body", "head", "")}
    y.requires_grad_()
    distances = {layer: phi.distance(x, y) for layer, phi in found.items()}
    sum(distance.sum() for distance in distances.values()).backward()
    assert y.grad.abs().sum() > 0
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert found["body.0"].name == "Tiny, layer body.0"
    with torch.no_grad():
        net.eval()
        stages = {"body.0": net.body[0], "body.1": net.body[:2], "body": net.body, "head": net, "": net}
        for layer, stage in stages.items():  # one at a time: the ReLU works in place
            one, two = stage(x.clone()), stage(y.detach().clone())
            expected = (one - two).flatten(1).norm(dim=1)
            torch.testing.assert_close(distances[layer], expected, msg=layer)
    # the ReLU behind the first layer did not change what was taken
    assert not torch.allclose(distances["body.0"], distances["body.1"])


def test_gradients_are_those_of_the_distance():
    x, y = pair(2, (8, 8))
    for thing in (tiny(), CKN(ARCH, 1, (4, 5), generator=0).double(), "pixels"):
        phi = as_representation(thing, batch_size=1)
        assert torch.autograd.gradcheck(lambda z, phi=phi: phi.distance(x, z), y.clone().requires_grad_())
        assert torch.autograd.gradcheck(phi.norm, y.clone().requires_grad_())
        away = phi.distance_from(x)
        torch.testing.assert_close(away(y), phi.distance(x, y))
        assert torch.autograd.gradcheck(away, y.clone().requires_grad_())


def test_the_precision_of_a_module_may_be_raised():
    """In float32 a distance of 1e-9 drowns in rounding; converted, it is that of the converted module."""
    net, x = tiny(torch.float32), draw(3, 1, 8, 8)
    y = x + 1e-9 * draw(3, 1, 8, 8, seed=5)
    expected = as_representation(tiny(torch.float32).double()).distance(x, y)
    converted = as_representation(net, dtype=torch.float64)
    torch.testing.assert_close(converted.distance(x, y), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(as_representation(net).distance(x, y), expected, rtol=1e-2, atol=0)
    assert all(value.dtype == torch.float32 for value in net.parameters())
    assert net.calls == 0


def test_features_tell_tiny_distances_apart():
    """A difference of 1e-12 is seen: the norm of a difference, not the difference of squares."""
    x = draw(2, 1, 8, 8)
    net = CKN(ARCH, 1, (6, 9), generator=0).double()
    direction = draw(2, 1, 8, 8, seed=3)
    large, small = (as_representation(net).distance(x, x + size * direction) / size for size in (1e-6, 1e-11))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=0)


def test_the_interface_of_kymatio():
    x, y = pair(4, (8, 10), channels=2)
    numpy_frontend, torch_frontend = ScatteringNumPy2D((8, 10)), ScatteringTorch2D((8, 10))
    arrays, tensors = as_representation(numpy_frontend, batch_size=3), as_representation(torch_frontend)
    assert (arrays.differentiable, tensors.differentiable) == (False, True)
    expected, norms = by_hand(numpy_frontend, x.numpy(), y.numpy())
    np.testing.assert_allclose(arrays.distance(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(arrays.norm(x), norms, rtol=1e-12)
    np.testing.assert_allclose(tensors.distance(x.mT.contiguous().mT, y), expected, rtol=1e-5)
    np.testing.assert_allclose(
        as_representation(torch_frontend, dtype=torch.float64).distance(x, y), expected, rtol=1e-6
    )
    y.requires_grad_()
    tensors.distance(x, y).sum().backward()
    assert y.grad.abs().sum() > 0
    assert torch_frontend.tensor0.dtype == torch.float32


def test_functions_of_tensors_and_of_arrays():
    x, y = pair(4, (12,), channels=2)
    phi = as_representation(torch.fft.fft, name="Fourier")  # complex features: Parseval
    torch.testing.assert_close(phi.distance(x, y), 12**0.5 * (x - y).square().sum((1, 2)).sqrt())
    assert (phi.name, phi.differentiable) == ("Fourier", True)
    arrays = as_representation(np.fft.fft, arrays="numpy", batch_size=1)
    torch.testing.assert_close(arrays.distance(x, y), phi.distance(x, y))
    torch.testing.assert_close(arrays.norm(x), phi.norm(x))
    assert (arrays.name, arrays.differentiable) == ("fft", False)
    counts = as_representation(lambda z: (z > 0.5).sum((1, 2)), batch_size=3)  # whole numbers, one for each signal
    np.testing.assert_allclose(counts.norm(x), (x.numpy() > 0.5).sum((1, 2)))


def test_transformers_take_rows_and_ours_take_signals():
    x, y = pair(6)
    pca = PCA(3).fit(x.flatten(1))
    phi = as_representation(pca)
    expected = np.linalg.norm(pca.transform(x.flatten(1)) - pca.transform(y.flatten(1)), axis=1)
    np.testing.assert_allclose(phi.distance(x, y), expected)
    assert (phi.name, phi.differentiable) == ("PCA", False)
    ours = CKNFeatures(ARCH, (4, 5), patches=200, random_state=0).fit(x.numpy())
    expected = np.linalg.norm(ours.transform(x.numpy()) - ours.transform(y.numpy()), axis=1)
    np.testing.assert_allclose(as_representation(ours).distance(x, y), expected)


def test_compiled_modules():
    net, (x, y) = tiny(), pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is about to go
        compiled = torch.jit.trace(net.eval(), x)
    torch.testing.assert_close(as_representation(compiled).distance(x, y), as_representation(net).distance(x, y))
    with pytest.raises(ValueError, match="dtype: expected none for a module compiled by torch.jit"):
        as_representation(compiled, dtype=torch.float64)


def test_rows_stay_rows():
    net = nn.Linear(6, 4).double()
    x, y = draw(3, 6), draw(3, 6, seed=1)
    expected = ((x - y) @ net.weight.T).norm(dim=1)
    torch.testing.assert_close(as_representation(net).distance(x, y), expected.detach())


def test_any_representation_and_adapters_themselves():
    class Mine:
        differentiable = False
        name = "mine"

        def distance(self, x, y):
            return (x - y).flatten(1).abs().sum(1)

        def norm(self, x):
            return x.flatten(1).abs().sum(1)

    x, y = pair()
    phi = as_representation(Mine(), batch_size=2)
    torch.testing.assert_close(phi.distance(x, y), (x - y).abs().sum((1, 2, 3)))
    assert isinstance(phi, KernelRepresentation)
    assert isinstance(phi, Representation)
    assert (phi.name, phi.differentiable) == ("mine", False)
    assert as_representation(phi) is phi
    assert repr(phi) == "<KernelRepresentation 'mine'>"


def test_arrays_give_arrays_and_dtypes_do_not_matter():
    x, y = pair()
    phi = as_representation(CKN(ARCH, 1, (6, 9), generator=0).double())
    found = phi.distance(x.numpy(), y.numpy())
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, phi.distance(x, y))
    assert phi.distance(x.float(), y.float()).dtype == torch.float64


# --- bad input


class Answers(nn.Module):
    """Answers with whatever it was made with."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (
            lambda x: (x, x[:2]),
            r"got a tuple of 2 \(a tensor of shape \(4, 1, 8, 8\), a tensor of shape \(2, 1, 8, 8\)",
        ),
        (lambda x: {"logits": x}, "got a dict with 'logits'"),
        (lambda x: None, "got None"),
        (lambda x: x.sum(), r"got a tensor of shape \(\)"),
        (lambda x: x.mean(0), r"got a tensor of shape \(1, 8, 8\)"),
        (
            lambda x: x.log() * 0 * (torch.arange(4).reshape(-1, 1, 1, 1) == 2) / 0,
            "finite features, got nan for signal 0",
        ),
        (lambda x: torch.where(torch.arange(4)[:, None] == 2, torch.inf, x.flatten(1)), "got inf for signal 2"),
    ],
)
@pytest.mark.parametrize("how", ["module", "layer", "function"])
def test_answers_that_are_no_features_give_one_error(answer, came, how):
    x, y = pair(4)
    if how == "function":
        phi = as_representation(answer, name="mine")
    else:
        net = nn.Sequential(nn.Identity(), Answers(answer))
        phi = as_representation(net, layer="1" if how == "layer" else None, name="mine")
    with pytest.raises(ValueError, match=f"^mine: expected .*{came}"):
        phi.distance(x, y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"thing": tiny(), "layer": "body.00"},
            "layer: expected the name of a layer of Tiny, got 'body.00'; did you mean 'body.0'",
        ),
        ({"thing": nn.ReLU(), "layer": "first"}, "got 'first'; known: none"),
        ({"thing": "pixels", "layer": "0"}, "layer: expected none, as only torch modules have layers"),
        ({"thing": "pixls"}, "thing: expected 'pixels' or an architecture, got 'pixls'; did you mean 'pixels'"),
        ({"thing": "3 expo(0.6) gauss2"}, "unknown kernel 'expo'"),
        ({"thing": 3}, "thing: expected 'pixels', an exact kernel, .* got an object of type int"),
        ({"thing": ConvKernel}, "got an object of type type"),
        ({"thing": "pixels", "batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"thing": "pixels", "dtype": torch.float64}, "dtype: expected none for 'pixels'"),
        ({"thing": tiny(), "dtype": torch.float16}, "dtype: expected torch.float32 or torch.float64"),
        ({"thing": tiny(), "arrays": "numpy"}, "arrays: expected none for 'Tiny', it is for functions"),
        ({"thing": len, "arrays": "nunpy"}, "arrays: expected 'torch' or 'numpy', got 'nunpy'; did you mean 'numpy'"),
        ({"thing": as_representation("pixels"), "name": "other"}, "thing: expected no adapter beside other arguments"),
    ],
)
def test_what_is_no_representation(arguments, message):
    with pytest.raises(ValueError, match=message):
        as_representation(**arguments)


def test_bad_signals():
    phi, (x, y) = as_representation(tiny(), name="mine"), pair()
    with pytest.raises(ValueError, match="y: expected 5 signals, as many as in x, got 4"):
        phi.distance(x, y[:4])
    with pytest.raises(ValueError, match="y: expected 5 signals, as many as in x, got 4"):
        phi.distance_from(x)(y[:4])
    with pytest.raises(ValueError, match=r"y: expected shape \(n, 1, 8, 8\), got \(5, 1, 8, 7\)"):
        phi.distance(x, y[..., :7])
    with pytest.raises(ValueError, match="x: expected finite numbers, got nan"):
        phi.norm(torch.full((1, 1, 8, 8), torch.nan))
    with pytest.raises(ValueError, match=r"mine: cannot take signals of shape \(5, 2, 8, 8\)"):
        phi.norm(draw(5, 2, 8, 8))
    assert phi.module.training  # after an error too


def test_functions_that_give_arrays_are_told_so():
    x, y = pair()
    with pytest.raises(ValueError, match="expected a tensor, got an array: name it a function of arrays='numpy'"):
        as_representation(np.asarray).distance(x, y)


def test_layers_that_are_used_twice_or_never():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)

        def forward(self, x):
            return self.twice(self.twice(x))

    for layer, times in (("twice", 2), ("never", 0)):
        with pytest.raises(ValueError, match=f"expected a layer that is used once, '{layer}' was used {times} times"):
            as_representation(Shared(), layer=layer).norm(draw(2, 1, 8, 8))


def test_transformers_that_give_no_numbers():
    class Words:
        def transform(self, rows):
            return np.array([["a"]] * len(rows))

    with pytest.raises(ValueError, match="Words: expected one tensor or array .* of 2 signals .*, got ndarray"):
        as_representation(Words()).norm(draw(2, 1, 4))


def test_sparse_features():
    encoder = OneHotEncoder().fit(np.arange(4)[:, None])
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [3.0], [0.0]])
    np.testing.assert_allclose(as_representation(encoder).distance(x, y), [0, 2**0.5, 2**0.5])
