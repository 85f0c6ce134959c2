"""Pools as values: equality, text forms, widths and errors. Their numbers are tested with the operators."""

import dataclasses

import pytest

from hilbertnet.architecture import Architecture, AveragePool, GaussianPool, GlobalPool, Layer, Linear, Subsample

EVERY = {
    "gauss2": GaussianPool(2),
    "gauss3/1": GaussianPool(1, 3),
    "avg2": AveragePool(2),
    "avg25/1": AveragePool(1, 25),
    "stride3": Subsample(3),
    "global": GlobalPool(),
    "-": None,
}


@pytest.mark.parametrize(("text", "pool"), EVERY.items())
def test_text_form_reads_back(text, pool):
    layer = Layer(3, Linear(), pool)
    assert str(layer) == f"3 linear {text}"
    assert Architecture.parse(str(layer)).layers == (layer,)


def test_all_pools_differ():
    assert len(set(EVERY.values())) == len(EVERY)
    assert GaussianPool(2) != AveragePool(2)


@pytest.mark.parametrize("pool", [GaussianPool, AveragePool])
def test_a_size_equal_to_the_stride_is_no_other_pool(pool):
    assert pool(2, 2) == pool(2)
    assert hash(pool(2, 2)) == hash(pool(2))
    assert str(pool(2, 2)) == str(pool(2))
    assert pool(2).window == 2


@pytest.mark.parametrize("pool", [p for p in EVERY.values() if isinstance(p, GaussianPool | AveragePool | Subsample)])
def test_pools_are_frozen(pool):
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.stride = 7


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("pool", [p for p in EVERY.values() if isinstance(p, GaussianPool | AveragePool | Subsample)])
def test_taps_are_symmetric_weights_that_sum_to_one(pool, half):
    offsets, weights = pool.taps(half)
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    assert (weights > 0).all()
    assert weights.tolist() == pytest.approx(weights[::-1].tolist(), abs=1e-16)
    assert (offsets + offsets[::-1] == int(half)).all()


@pytest.mark.parametrize(("size", "whole", "half"), [(1, 3, 2), (2, 5, 4), (5, 11, 10)])
def test_a_gaussian_reaches_the_pixels_within_its_size(size, whole, half):
    assert len(GaussianPool(size).taps(False).offsets) == whole
    assert len(GaussianPool(size).taps(True).offsets) == half


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (GaussianPool, "stride"),
        (lambda n: GaussianPool(2, n), "size"),
        (AveragePool, "stride"),
        (lambda n: AveragePool(2, n), "size"),
        (Subsample, "stride"),
    ],
)
def test_bad_sizes_are_refused_by_name(build, name, bad):
    with pytest.raises(ValueError, match=rf"^{name}: expected a whole number of pixels"):
        build(bad)
