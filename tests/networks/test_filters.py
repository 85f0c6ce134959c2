"""Patches drawn without bias and k-means on the sphere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch.nn import functional

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import extract_patches
from hilbertnet.networks import filters
from hilbertnet.networks.filters import sample_patches, spherical_kmeans

ZERO = Architecture.parse("3 exp(0.6) -")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def all_unit_patches(x, patch, arch):
    flat = extract_patches(x, patch, arch).flatten(2).movedim(1, 2).flatten(0, 1)
    return functional.normalize(flat[flat.norm(dim=1) > 0])


def sorted_rows(rows):
    return np.array(sorted(map(tuple, np.round(rows.numpy(), 9))))


# ----------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize("boundary", ["zero", "valid", "circular"])
@pytest.mark.parametrize("space", [(7,), (5, 6)])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_asked_for_all_patches_it_returns_each_once(boundary, space, patch):
    x = torch.rand(4, 2, *space, generator=seeded(), dtype=torch.float64)
    arch = Architecture.parse(f"{patch} exp(0.6) -", boundary=boundary)
    expected = all_unit_patches(x, patch, arch)
    for count in (len(expected), 10 * len(expected)):
        found = sample_patches(x, count, patch, arch, seeded(), batch=3)
        np.testing.assert_allclose(sorted_rows(found), sorted_rows(expected), atol=1e-9)


def test_patches_are_unit_vectors_of_the_signals_and_come_in_random_order():
    x = torch.rand(20, 1, 6, 6, generator=seeded())
    found = sample_patches(x, 200, 3, ZERO, seeded())
    assert found.shape == (200, 9)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(200))
    cosines = found @ all_unit_patches(x, 3, ZERO).T
    torch.testing.assert_close(cosines.max(dim=1).values, torch.ones(200))
    order = cosines.argmax(dim=1)  # where in the data each one comes from
    assert abs(np.corrcoef(order.numpy(), np.arange(200))[0, 1]) < 0.2


def test_same_seed_same_patches():
    x = torch.rand(10, 1, 6, 6, generator=seeded())
    first, second, other = (sample_patches(x, 50, 3, ZERO, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_patches_are_drawn_uniformly_from_all_images():
    """Image i is constant i in one of the channels, so that each patch says where it comes from."""
    n, count = 50, 2000
    x = torch.ones(n, 2, 10, 10)
    x[:, 1] = torch.linspace(0.1, 5, n)[:, None, None]
    found = sample_patches(x, count, 1, ZERO, seeded())
    slopes = x[:, 1, 0, 0]
    image = (found[:, 1] / found[:, 0])[:, None].sub(slopes).abs().argmin(dim=1)
    counts = torch.bincount(image, minlength=n).double()
    expected = count / n
    assert float(((counts - expected) ** 2 / expected).sum()) < 90  # chi-squared, 49 degrees: below 86 at 99.9%


def test_positions_are_drawn_uniformly_from_very_many():
    """Above a million positions, draws are not from a permutation."""
    x = torch.arange(1.0, 2**20 + 2).reshape(1, 1, -1)
    x = torch.cat([torch.ones_like(x), x / 2**20], dim=1)
    found = sample_patches(x, 4000, 1, Architecture.parse("1 linear -"), seeded())
    places = (found[:, 1] / found[:, 0]).numpy()
    assert len(np.unique(places)) > 3900  # float32 cannot tell all of them apart
    counts, _ = np.histogram(places, bins=20, range=(0, 1))
    assert ((counts - 200) ** 2 / 200).sum() < 44  # chi-squared, 19 degrees of freedom


def test_patches_of_zeros_are_never_returned():
    x = torch.rand(6, 1, 8, 8, generator=seeded())
    x[:, :, 2:] = 0
    found = sample_patches(x, 100, 3, ZERO, seeded())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_enough_patches_come_back_from_images_that_are_mostly_zero(share):
    """As in pictures of digits: patches of zeros are drawn anew until there are as many as asked for."""
    n = 200
    x = torch.zeros(n, 1, 6, 6)
    filled = int(share * n)
    x[torch.randperm(n, generator=seeded())[:filled]] = torch.rand(filled, 1, 6, 6, generator=seeded())
    count = filled * 36 // 2
    assert len(sample_patches(x, count, 3, ZERO, seeded())) == count


def test_images_of_zeros_have_no_patches():
    with pytest.raises(ValueError, match="^x: expected patches that are not all zero"):
        sample_patches(torch.zeros(3, 1, 6, 6), 10, 3, ZERO, seeded())


def test_layers_below_are_applied_in_batches():
    x, sizes = torch.rand(10, 1, 6, 6, generator=seeded(), dtype=torch.float64), []

    def doubled(part):
        sizes.append(len(part))
        return torch.cat([part, -part], dim=1)

    found = sample_patches(x, 360, 3, ZERO, seeded(), before=doubled, batch=4)
    assert max(sizes) <= 4
    expected = all_unit_patches(torch.cat([x, -x], dim=1), 3, ZERO)
    np.testing.assert_allclose(sorted_rows(found), sorted_rows(expected), atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- k-means


def cloud(n=600, size=8, groups=12, seed=0, spread=0.3):
    rng = seeded(seed)
    means = functional.normalize(torch.randn(groups, size, generator=rng))
    which = torch.randint(groups, (n,), generator=rng)
    return functional.normalize(means[which] + spread * torch.randn(n, size, generator=rng))


def mean_cosine(samples, centres):
    return float((samples @ centres.T).max(dim=1).values.mean())


def members(samples, centres):
    return torch.bincount((samples @ centres.T).argmax(dim=1), minlength=len(centres))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100), clusters=st.integers(1, 30))
def test_centres_are_unit_vectors_and_no_cluster_is_empty(seed, clusters):
    samples = cloud(200, 5, seed=seed)
    centres = spherical_kmeans(samples, clusters, seeded(seed))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(clusters))
    assert (members(samples, centres) > 0).all()


@pytest.mark.parametrize("clusters", [3, 12, 40])
def test_objective_is_as_good_as_scikit_learns(clusters):
    samples = cloud()
    ours = np.mean([mean_cosine(samples, spherical_kmeans(samples, clusters, seeded(seed))) for seed in range(5)])
    theirs = []
    for seed in range(5):
        model = KMeans(clusters, n_init=1, random_state=seed).fit(samples.numpy())
        theirs.append(mean_cosine(samples, functional.normalize(torch.from_numpy(model.cluster_centers_))))
    assert 1 - ours < 1.05 * (1 - np.mean(theirs))


def test_more_passes_are_no_worse():
    samples = cloud(spread=0.6)
    found = [mean_cosine(samples, spherical_kmeans(samples, 20, seeded(), iterations=k)) for k in (1, 2, 5, 20, 100)]
    assert found == sorted(found)


def test_well_separated_groups_are_found():
    samples = cloud(400, 30, groups=6, spread=0.02)
    assert mean_cosine(samples, spherical_kmeans(samples, 6, seeded())) > 0.99


def test_chunks_change_nothing(monkeypatch):
    samples = cloud()
    whole = spherical_kmeans(samples, 10, seeded())
    monkeypatch.setattr(filters, "_CHUNK_ENTRIES", 70)
    torch.testing.assert_close(spherical_kmeans(samples, 10, seeded()), whole)


def test_same_seed_same_centres():
    samples = cloud()
    first, second, other = (spherical_kmeans(samples, 10, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("start", ["opposite", "equal", "duplicates"])
def test_no_cluster_stays_empty_from_a_bad_start(monkeypatch, start):
    samples = cloud(300, 6, spread=0.5)
    samples[:100] = samples[0]
    starts = {
        "opposite": torch.cat([-functional.normalize(samples.mean(0, keepdim=True)).expand(7, -1), samples[:1]]),
        "equal": samples[150].expand(8, -1),
        "duplicates": samples[:8],
    }[start]
    monkeypatch.setattr(filters, "_plus_plus", lambda *_: starts.clone())
    centres = spherical_kmeans(samples, 8, seeded())
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(8))
    assert (members(samples, centres) > 0).all()


def test_samples_that_cancel_are_no_trouble():
    """A cluster whose samples sum to zero has no mean on the sphere."""
    samples = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for clusters in (1, 2, 3, 4):
        centres = spherical_kmeans(samples, clusters, seeded())
        assert torch.isfinite(centres).all()
        torch.testing.assert_close(centres.norm(dim=1), torch.ones(clusters))


def test_as_many_clusters_as_distinct_samples_keeps_them_all():
    distinct = cloud(15, 6)
    samples = distinct.repeat(20, 1)
    centres = spherical_kmeans(samples, 15, seeded())
    assert mean_cosine(samples, centres) == pytest.approx(1, abs=1e-6)


def test_more_clusters_than_distinct_samples_is_an_error_unless_allowed():
    samples = cloud(7, 6).repeat(30, 1)
    with pytest.raises(ValueError, match="^filters: expected at most 7 filters.* got 8"):
        spherical_kmeans(samples, 8, seeded())
    centres = spherical_kmeans(samples, 8, seeded(), allow_fewer=True)
    assert len(centres) == 7
    assert mean_cosine(samples, centres) == pytest.approx(1, abs=1e-6)


def test_rare_samples_are_seen_among_very_many_equal_ones():
    """The start looks at a part of the samples, and at all of them where that has too few distinct ones."""
    samples = torch.cat([cloud(1, 4).repeat(30_000, 1), cloud(5, 4, seed=3)])
    centres = spherical_kmeans(samples, 6, seeded())
    assert mean_cosine(samples, centres) == pytest.approx(1, abs=1e-6)
