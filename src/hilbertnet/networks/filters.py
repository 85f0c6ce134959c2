"""Filters without labels: random patches, clustered on the sphere.

References: J. Mairal, "End-to-end kernel learning with supervised convolutional kernel networks", NeurIPS 2016; K.
Zhang, I. Tsang and J. Kwok, "Improved Nyström low-rank approximation and error analysis", ICML 2008 (k-means centres as
anchors); D. Arthur and S. Vassilvitskii, "k-means++", SODA 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hilbertnet.architecture.operators import Conventions, patch_length, patch_windows

__all__ = ["sample_patches", "spherical_kmeans"]

_CHUNK_ENTRIES = 2**24  # of a block of cosines: 64 MB in float32
_START_PER_CLUSTER = 100  # k-means++ looks at this many samples for each cluster


def sample_patches(
    x: Float[Tensor, "n channels *space"],
    count: int,
    patch: int,
    conventions: Conventions,
    generator: torch.Generator,
    *,
    before: Callable[[Tensor], Tensor] = lambda x: x,
    batch: int = 256,
) -> Float[Tensor, "count entries"]:
    """Unit patches drawn uniformly, without repetition, from all positions of all signals.

    Patches of norm 0 have no direction and are drawn anew.

    Parameters
    ----------
    x
        Signals, shape (n, channels, *space).
    count
        How many patches; fewer come back if there are no more.
    patch
        Side of the patch.
    conventions
        The architecture.
    generator
        Of the draw, on the CPU.
    before
        The layers below, applied to batches of `x`; patches are taken from their output.
    batch
        Signals at a time.

    Returns
    -------
    Tensor
        Unit patches, shape (count, channels * patch**axes).
    """
    space = before(x[:1]).shape[2:]
    grid = tuple(patch_length(n, patch, conventions) for n in space)
    positions = math.prod(grid)
    total, found, taken = len(x) * positions, [], torch.empty(0, dtype=torch.int64)
    missing = wanted = count
    while missing > 0 and len(taken) < total:
        drawn = _draw_new(total, wanted, taken, generator)
        taken = torch.cat([taken, drawn])
        found.append(_patches_at(x, drawn, grid, patch, conventions, before, batch))
        kept = sum(map(len, found))
        missing = count - kept
        # draw as many more as the share of patches with a direction asks for
        wanted = missing * -(-len(taken) // max(kept, 1))
    samples = torch.cat(found)
    if not len(samples):
        raise ValueError("x: expected patches that are not all zero, got none")
    return samples[torch.randperm(len(samples), generator=generator)[:count].to(samples.device)]


def _draw_new(total: int, count: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """`count` distinct numbers below `total` that are not in `taken`, or all that are left."""
    if total - len(taken) <= 2 * count or total < 2**20:
        order = torch.randperm(total, generator=generator)
        return order[~torch.isin(order, taken)][:count]
    drawn = torch.randint(total, (count + count // 2 + 64,), generator=generator).unique()
    drawn = drawn[~torch.isin(drawn, taken)]
    return drawn[torch.randperm(len(drawn), generator=generator)][:count]


def _patches_at(
    x: Tensor,
    drawn: Tensor,
    grid: tuple[int, ...],
    patch: int,
    conventions: Conventions,
    before: Callable[[Tensor], Tensor],
    batch: int,
) -> Tensor:
    """The patches at numbers ``signal * positions + position``, scaled to unit norm, without those of norm 0."""
    positions, parts = math.prod(grid), []
    drawn = drawn.sort().values
    signals, places = drawn // positions, drawn % positions
    for used in torch.unique_consecutive(signals).split(batch):
        inside = slice(*(int(torch.searchsorted(signals, edge)) for edge in (used[0], used[-1] + 1)))
        maps = before(x[used.to(x.device)])
        windows = patch_windows(maps, patch, conventions)
        row = torch.searchsorted(used, signals[inside]).to(maps.device)
        index = torch.unravel_index(places[inside].to(maps.device), grid)
        parts.append(windows[(row, *index)].flatten(1))
    found = torch.cat(parts)
    norms = found.norm(dim=1, keepdim=True)
    # a patch far below the typical norm is rounding noise of the layers below
    real = norms[:, 0] > 1e-6 * norms.max()
    return found[real] / norms[real]


def spherical_kmeans(
    samples: Float[Tensor, "n entries"],
    clusters: int,
    generator: torch.Generator,
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
    allow_fewer: bool = False,
) -> Float[Tensor, "clusters entries"]:
    """Unit vectors that maximize the mean cosine of each sample with the nearest of them.

    Parameters
    ----------
    samples
        Unit vectors, shape (n, entries), at least `clusters` of them distinct.
    clusters
        How many.
    generator
        Of the k-means++ start, on the CPU.
    iterations
        At most so many passes.
    tolerance
        Stop when the mean cosine changes by less than this share of itself.
    allow_fewer
        Where there are fewer distinct samples than clusters, return as many clusters as there are distinct samples.

    Returns
    -------
    Tensor
        Shape (clusters, entries). No cluster is empty: one that loses its samples takes the worst represented one.

    Raises
    ------
    ValueError
        If there are fewer distinct samples than clusters, unless `allow_fewer`.
    """
    centres = _plus_plus(samples, clusters, generator)
    if len(centres) < clusters and not allow_fewer:
        raise ValueError(
            f"filters: expected at most {len(centres)} filters, the number of distinct patches, got {clusters}"
        )
    previous = -math.inf
    for _ in range(iterations):
        cosines, nearest = _assign(samples, centres)
        centres = _update(samples, centres, cosines, nearest)
        mean = float(cosines.double().mean())
        if abs(mean - previous) <= tolerance * abs(mean):
            break
        previous = mean
    return centres


def _plus_plus(samples: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ on the sphere, on a random part of very many samples unless that has too few distinct ones."""
    limit = max(_START_PER_CLUSTER * clusters, 10_000)
    if len(samples) > limit:
        part = samples[torch.randperm(len(samples), generator=generator)[:limit].to(samples.device)]
        starts = _plus_plus_from(part, clusters, generator)
        if len(starts) == clusters:
            return starts
    return _plus_plus_from(samples, clusters, generator)


def _plus_plus_from(samples: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Each start is drawn with probability proportional to 1 - cos to the nearest so far, until none is distinct."""
    chosen = [int(torch.randint(len(samples), (1,), generator=generator))]
    gaps = torch.full((len(samples),), math.inf, dtype=torch.float64, device=samples.device)
    same = 16 * torch.finfo(samples.dtype).eps  # 1 - cos of equal vectors is this small
    while len(chosen) < clusters:
        gaps = torch.minimum(gaps, 1.0 - (samples @ samples[chosen[-1]]).double())
        gaps[gaps < same] = 0.0
        mass = gaps.cumsum(0)
        if not float(mass[-1]) > 0:
            break
        draw = torch.rand(1, generator=generator, dtype=torch.float64).to(samples.device) * mass[-1]
        chosen.append(min(int(torch.searchsorted(mass, draw, right=True)), len(samples) - 1))
    return samples[torch.tensor(chosen, device=samples.device)]


def _assign(samples: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine with the nearest centre, and which it is, in chunks."""
    step = max(1, _CHUNK_ENTRIES // len(centres))
    found = [(chunk @ centres.T).max(dim=1) for chunk in samples.split(step)]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def _update(samples: Tensor, centres: Tensor, cosines: Tensor, nearest: Tensor) -> Tensor:
    """Means of clusters on the sphere; a cluster without a mean takes the worst represented sample."""
    sums = torch.zeros_like(centres).index_add_(0, nearest, samples)
    norms = sums.norm(dim=1)
    centres = functional.normalize(sums)
    for cluster in torch.nonzero(norms < 1e-6).flatten():
        centres[cluster] = samples[cosines.argmin()]
        cosines = torch.maximum(cosines, samples @ centres[cluster])
    return centres
