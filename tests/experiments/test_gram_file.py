"""Gram matrices in files: `gram_file`, `gram_plan` and ``hilbertnet gram``."""

import json

import numpy as np
import pytest

from hilbertnet.data import Preprocessing, load, subset
from hilbertnet.experiments import GramSettings, gram_file, gram_plan
from hilbertnet.kernels import ConvKernel

TEXT = "3 exp(0.6) - | 3 exp(0.6) gauss2"


def kernel_of(x, text=TEXT, kind="ckn", **how):
    return ConvKernel(text, kind).gram(x, **how)


# --- what is in the file


def test_a_matrix_is_that_of_the_kernel(few, tmp_path):
    kernel, shape = gram_file(GramSettings(str(few), kernel=TEXT), tmp_path / "g.npz", progress=False)
    data = load(few)
    assert shape == (12, 12)
    assert kernel == ConvKernel(TEXT)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        assert sorted(file) == ["class_names", "examples", "gram", "record", "y"]
        np.testing.assert_array_equal(file["gram"], kernel_of(data.x))
        assert file["gram"].dtype == np.float64
        np.testing.assert_array_equal(file["y"], data.y)
        assert tuple(file["class_names"]) == data.class_names == ("=c", "a, b", "d", "ω")
        np.testing.assert_array_equal(file["examples"], np.arange(12))
        record = json.loads(str(file["record"]))
    assert record["kind"] == "ckn"
    assert record["kernel"] == kernel.arch.to_dict()
    assert record["preprocessing"] is None
    assert record["data"] == data.to_dict()
    assert record["versions"]["numpy"] == np.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"]


def test_an_npy_file_is_the_matrix_alone(few, tmp_path):
    gram_file(GramSettings(str(few), kernel=TEXT), tmp_path / "g.npy", progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy", allow_pickle=False), kernel_of(load(few).x))


def test_the_default_kernel_suits_the_size(few, tmp_path):
    kernel, _ = gram_file(GramSettings(str(few)), tmp_path / "g.npy", progress=False)
    assert str(kernel.arch) == TEXT
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), kernel_of(load(few).x))


@pytest.mark.parametrize("seed", [0, 3])
def test_examples_are_drawn_by_seed_in_proportion(digits, seed, tmp_path):
    settings = GramSettings("digits", kernel="3 exp(0.6) gauss2", examples=20, seed=seed)
    gram_file(settings, tmp_path / "g.npz", progress=False)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        examples = file["examples"]
        np.testing.assert_array_equal(examples, np.sort(subset(digits.y, 20, seed)))
        np.testing.assert_array_equal(file["y"], digits.y[examples])
        assert np.bincount(file["y"], minlength=10).tolist() == [2] * 10
        np.testing.assert_array_equal(file["gram"], kernel_of(digits.x[examples], "3 exp(0.6) gauss2"))


def test_an_official_test_set_is_left_out(digits, tmp_path):
    path = tmp_path / "both.npz"
    np.savez(path, x=digits.x[:5], y=digits.y[:5], x_test=digits.x[5:9], y_test=digits.y[5:9])
    assert gram_file(GramSettings(str(path), kernel="3 exp(0.6) gauss2"), tmp_path / "g.npz")[1] == (5, 5)
    np.testing.assert_array_equal(np.load(tmp_path / "g.npz")["gram"], kernel_of(digits.x[:5], "3 exp(0.6) gauss2"))


def test_the_tangent_kernel(few, tmp_path):
    text = "3 arccos1 gauss2 | 3 arccos1 -"
    kernel, _ = gram_file(GramSettings(str(few), kernel=text, kind="ntk"), tmp_path / "g.npz", progress=False)
    assert kernel.kind == "ntk"
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["gram"], kernel_of(load(few).x, text, "ntk"))
        assert json.loads(str(file["record"]))["kind"] == "ntk"


def test_single_precision(few, tmp_path):
    gram_file(GramSettings(str(few), kernel=TEXT, dtype="float32"), tmp_path / "g.npy", progress=False)
    single = np.load(tmp_path / "g.npy")
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, kernel_of(load(few).x), rtol=1e-4)


def test_a_budget_makes_tiles_but_no_difference(few, tmp_path):
    gram_file(GramSettings(str(few), kernel=TEXT, memory="500kB"), tmp_path / "g.npy", progress=False)
    np.testing.assert_allclose(np.load(tmp_path / "g.npy"), kernel_of(load(few).x), rtol=1e-12)


def test_preprocessing_is_fitted_on_these_examples(digits, tmp_path):
    text = "contrast | zca(1e-2)"
    settings = GramSettings("digits", kernel=TEXT, examples=15, preprocessing=text)
    gram_file(settings, tmp_path / "g.npz", progress=False)
    x = digits.x[np.sort(subset(digits.y, 15, 0))]
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["gram"], kernel_of(Preprocessing.parse(text).fit(x)(x)), rtol=1e-10)
        assert json.loads(str(file["record"]))["preprocessing"] == text


def test_a_folder_may_be_resized_and_made_grey(digits, tmp_path, write_pictures):
    coloured = np.repeat(np.rint(digits.x[:4, 0, :, :, None] * 255), 3, axis=3)
    folder = write_pictures(tmp_path / "photos", coloured, ["a/0.png", "a/1.png", "b/0.png", "b/1.png"])
    settings = GramSettings(str(folder), kernel="3 exp(0.6) gauss2", size=(5, 6), channels=1)
    gram_file(settings, tmp_path / "g.npz", progress=False)
    x = load(folder, size=(5, 6), channels=1).x
    assert x.shape == (4, 1, 5, 6)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["gram"], kernel_of(x, "3 exp(0.6) gauss2"))


# --- whole or not at all


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_an_interrupted_computation_leaves_no_file(few, tmp_path, suffix):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gram_file(GramSettings(str(few), kernel=TEXT), tmp_path / f"g{suffix}", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"g{suffix}").write_text("older")
    with pytest.raises(KeyboardInterrupt):
        gram_file(GramSettings(str(few), kernel=TEXT), tmp_path / f"g{suffix}", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == [f"g{suffix}"]
    assert (tmp_path / f"g{suffix}").read_text() == "older"


def test_progress_counts_up_to_its_total(few, tmp_path):
    steps = []
    gram_file(GramSettings(str(few), kernel=TEXT), tmp_path / "g.npy", progress=lambda *counted: steps.append(counted))
    totals = {total for _, total in steps}
    assert len(totals) == 1
    assert [done for done, _ in steps] == list(range(1, totals.pop() + 1))


def test_a_folder_that_cannot_be_made_is_found_out_before_the_work(few, tmp_path, hilbertnet):
    (tmp_path / "file").write_text("no folder")
    code, out, err = hilbertnet("gram", few, "--kernel", TEXT, "--out", tmp_path / "file" / "g.npz")
    assert (code, out) == (2, "")
    assert err.startswith("hilbertnet: ")
    assert str(tmp_path / "file") in err
    assert err.count("\n") == 1


# --- a plan


def test_a_plan_computes_nothing(few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ConvKernel, "gram", lambda *_, **__: pytest.fail("computed"))
    kernel, cost = gram_plan(GramSettings(str(few), kernel=TEXT))
    assert kernel == ConvKernel(TEXT)
    assert (cost.rows, cost.columns, cost.symmetric) == (12, 12, True)
    code, out, err = hilbertnet("gram", few, "--kernel", TEXT, "--plan", "--out", "g.npz")
    assert (code, err) == (0, "")
    assert out.startswith(f"kernel: ckn {TEXT}\n")
    assert f"{cost.pairs:,} pairs" in out
    assert "second" in out
    assert any(unit in out for unit in ("kB", "MB", "GB"))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_much_is_quick(tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    code, out, _ = hilbertnet("gram", "digits", "--plan")
    assert code == 0
    assert f"{1797 * 1798 // 2:,} pairs" in out or "1,797 x 1,797" in out
    assert list(tmp_path.iterdir()) == []


# --- the command


def test_the_command_names_kernel_shape_and_file(few, tmp_path, hilbertnet):
    out_file = tmp_path / "new" / "g.npz"
    code, out, err = hilbertnet("gram", few, "--kernel", "3 arccos1 gauss2", "--kind", "ntk", "--out", out_file)
    assert (code, err) == (0, "")
    assert out == f"kernel: ntk 3 arccos1 gauss2\nGram matrix 12 x 12: {out_file}\n"
    np.testing.assert_array_equal(np.load(out_file)["gram"], kernel_of(load(few).x, "3 arccos1 gauss2", "ntk"))


BAD = [
    (["--out", "g.txt"], "out: expected a file that ends in .npz or .npy, or a store in .zarr, got g.txt"),
    (["--out", "g"], "out: expected a file that ends in .npz or .npy, or a store in .zarr, got g"),
    (["--out", "folder.npz"], "out: expected a file, got the folder folder.npz"),
    (["--memory", "lots"], "memory"),
    (["--memory=-1GB"], "memory"),
    (["--memory", "1kB"], "memory"),
    (["--dtype", "float16"], "dtype: expected float64 or float32, got 'float16'"),
    (["--kind", "nkt"], "kind: expected 'ckn' or 'ntk', got 'nkt'; did you mean 'ntk'"),
    (["--kind", "ntk", "--kernel", "3 arccos0 gauss2"], "kind: the tangent kernel needs a finite kappa'(1)"),
    (["--kernel", "3 exq(0.6) gauss2"], "did you mean 'exp'"),
    (["--kernel", "9 exp(0.6) -"], "patch of at most 8"),
    (["--kernel", "ckn-65-256"], "did you mean 'ckn-64-256'"),
    (["--examples", "3"], "examples: expected 4 (one for each class) to 12, got 3"),
    (["--examples", "13"], "examples: expected 4 (one for each class) to 12, got 13"),
    (["--preprocess", "zcq"], "did you mean 'zca'"),
    (["--size", "8x"], "size: expected HEIGHTxWIDTH"),
    (["--size", "9x8"], "size: only a folder of images is resized"),
    (["--channels", "3"], "channels: only a folder of images is converted"),
    (["--device", "gpu"], "device: expected one torch can use"),
]


@pytest.mark.parametrize("more", [[], ["--plan"]], ids=["", "plan"])
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_message(arguments, message, more, few, tmp_path, monkeypatch, hilbertnet):
    if more and "--out" in arguments:
        pytest.skip("a plan writes no file")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    code, out, err = hilbertnet("gram", few, *arguments, *more)
    assert (code, out) == (2, "")
    assert err.startswith("hilbertnet: ")
    assert message in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.npz"]


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_is_none_is_named(seed, few, tmp_path, monkeypatch, hilbertnet):
    monkeypatch.chdir(tmp_path)
    code, _, err = hilbertnet("gram", few, "--examples", "6", f"--seed={seed}")
    assert code == 2
    assert err.startswith("hilbertnet: seed: ")
    assert list(tmp_path.iterdir()) == []
