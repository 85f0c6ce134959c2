"""Sequences of different lengths in one batch: nothing past the end counts, and neither does the padding."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertnet.architecture import Architecture
from hilbertnet.architecture.operators import extract_patches
from hilbertnet.data.sequences import DNA
from hilbertnet.networks import CKN
from hilbertnet.networks import features as module
from hilbertnet.networks.sequence import MaskedConvolutions, SequenceCNN, SequenceNet, pack, pool_inside, unpack
from hilbertnet.training import Recipe, evaluate, train

CHANNELS = 2
ZERO = [
    "3 exp(0.6) -",
    "2 exp(0.6) - | 4 arccos1 -",
    "3 exp(0.6) gauss2/1 | 3 poly2 avg3/1",
    "4 exp(0.6) avg2/1 | 3 arccos1 global",
    "3 exp(0.6) global | 1 poly2 -",
    "1 linear global",
]
VALID = ["3 exp(0.6) - | 2 arccos1 -", "2 exp(0.6) avg3/1 | 2 arccos1 avg2/1", "3 exp(0.6) - | 2 poly2 global"]
LEGACY = [
    "3 exp(0.6) gauss2 | 2 arccos1 avg2",
    "2 exp(0.6) stride2 | 3 arccos1 global",
    "3 exp(0.6) - | 2 poly2 avg3/1",
]
CASES = [(text, {"boundary": "zero"}) for text in ZERO]
CASES += [(text, {"boundary": "valid"}) for text in VALID]
CASES += [(text, {"layout": "ckn_kernel"}) for text in LEGACY]
CASES += [("3 exp(0.6) - | 3 arccos1 global", {"sigma0": 0.7})]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(text, **conventions):
    arch = Architecture.parse(text, **conventions)
    filters = tuple(4 + index for index in range(len(arch.layers)))
    return CKN(arch, CHANNELS, filters, axes=1, generator=0).double().eval()


def alone(lengths, seed=0):
    return [torch.randn(1, CHANNELS, n, generator=seeded(seed + n), dtype=torch.float64) for n in lengths]


def padded(signals, length, garbage=0.0, seed=0):
    """A batch of `length`, with garbage past the ends, and its mask."""
    x = garbage * torch.randn(len(signals), CHANNELS, length, generator=seeded(seed), dtype=torch.float64)
    for row, signal in zip(x, signals, strict=True):
        row[:, : signal.shape[2]] = signal[0]
    return x, mask_of([signal.shape[2] for signal in signals], length)


def mask_of(lengths, length):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


# ------------------------------------------------------------------------------------------------- what does not count


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    lengths=st.lists(st.integers(10, 16), min_size=1, max_size=4),
    more=st.integers(0, 7),
    garbage=st.sampled_from([0.0, 1.0, 1e8]),
    seed=st.integers(0, 1000),
)
def test_in_a_padded_batch_every_signal_has_the_maps_it_has_alone(case, lengths, more, garbage, seed):
    text, conventions = case
    net, signals = network(text, **conventions), alone(lengths, seed)
    x, mask = padded(signals, max(lengths) + more, garbage, seed)
    maps, inside = net(x, mask), net.output_mask(mask)
    assert maps.shape[2] == inside.shape[1]
    assert (maps[~inside[:, None].expand_as(maps)] == 0).all()
    for row, own, signal in zip(maps, inside, signals, strict=True):
        torch.testing.assert_close(row[:, own], net(signal)[0], rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    boundary=st.sampled_from(["zero", "valid"]),
    lengths=st.lists(st.integers(20, 26), min_size=1, max_size=4),
    more=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_with_strides_padding_by_multiples_of_all_strides_does_not_count(boundary, lengths, more, seed):
    net = network("3 exp(0.6) avg2 | 3 arccos1 avg3", boundary=boundary)
    signals = alone(lengths, seed)
    length = max(lengths)
    x, mask = padded(signals, length, 1.0, seed)
    longer, wide = padded(signals, length + 6 * more, 1e6, seed + 1)
    maps, wider = net(x, mask), net(longer, wide)
    torch.testing.assert_close(wider[:, :, : maps.shape[2]], maps, rtol=1e-9, atol=1e-9)
    assert (wider[:, :, maps.shape[2] :] == 0).all()
    for row, inside, signal in zip(maps, net.output_mask(mask), signals, strict=True):
        if (length - signal.shape[2]) % 6 == 0:
            torch.testing.assert_close(row[:, inside], net(signal)[0], rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(["3 exp(0.6) gauss2 | 2 arccos1 gauss3", "2 exp(0.6) stride3 | 3 poly2 avg4/2"]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    layout=st.sampled_from(["hilbertnet", "ckn_kernel"]),
)
def test_with_strides_what_stands_past_the_end_does_not_count_either(text, lengths, layout):
    net = network(text, layout=layout)
    signals = alone(lengths)
    length = max(*lengths, 14)
    (x, mask), (other, _) = padded(signals, length), padded(signals, length, 1e8)
    maps, inside = net(x, mask), net.output_mask(mask)
    assert torch.equal(net(other, mask), maps)
    assert inside[:, 0].all()
    assert (maps[~inside[:, None].expand_as(maps)] == 0).all()


@pytest.mark.parametrize("pool", ["-", "gauss2/1", "avg3", "global"])
def test_a_layer_by_itself_sees_no_position_past_the_end(pool):
    layer = network(f"3 exp(0.6) {pool}").layers[0]
    (x, mask), (other, _) = padded(alone([4, 9]), 12), padded(alone([4, 9]), 12, 1e8)
    maps, inside = layer(x, mask), layer.output_mask(mask)
    assert torch.equal(layer(other, mask), maps)
    assert ((maps != 0).any(1) == inside).all()


def test_the_gaussian_before_all_layers_sees_no_position_past_the_end():
    net, signals = network("3 exp(0.6) -", sigma0=0.7), alone([5, 9])
    for row, signal in zip(net(*padded(signals, 12, 1e8)), signals, strict=True):
        torch.testing.assert_close(row[:, : signal.shape[2]], net(signal)[0], rtol=1e-9, atol=1e-9)


def test_pooled_positions_count_where_their_centre_lies_inside():
    net = network("1 linear avg4")  # of length 10: centres 0.5, 4.5, 8.5
    lengths = [1, 2, 5, 6, 9, 10]
    assert net.output_mask(mask_of(lengths, 10)).sum(1).tolist() == [1, 1, 1, 2, 2, 3]
    strided = network("1 linear stride2")  # of length 9: centres 0, 2, 4, 6, 8
    assert strided.output_mask(mask_of([1, 2, 3, 8, 9], 9)).sum(1).tolist() == [1, 1, 2, 4, 5]


def test_signals_shorter_than_the_patch_are_those_in_zeros():
    net = network("5 exp(0.6) - | 3 arccos1 global")
    x = alone([2])[0]
    wide = torch.cat([x, torch.zeros(1, CHANNELS, 9, dtype=torch.float64)], 2)
    expected = net(wide, mask_of([2], 11))
    torch.testing.assert_close(net(wide[:, :, :5], mask_of([2], 5)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [*CASES, ("3 exp(0.6) gauss2 | 2 arccos1 avg2", {})])
def test_a_mask_of_whole_signals_changes_nothing(case):
    net = network(case[0], **case[1])
    x = torch.cat(alone([12, 12]))
    whole = torch.ones(2, 12, dtype=torch.bool)
    torch.testing.assert_close(net(x, whole), net(x), rtol=1e-10, atol=1e-12)
    assert net.output_mask(whole).all()
    assert [mask.shape[1] for mask in net.masks(whole)] == [space[0] for _, space in net.arch.shapes((12,))]


def test_values_past_the_end_that_are_no_numbers_do_not_count():
    net = network("3 exp(0.6) - | 3 arccos1 global")
    x, mask = padded(alone([5, 9]), 9)
    broken = torch.where(mask[:, None], x, math.nan)
    assert torch.equal(net(broken, mask), net(x, mask))


@pytest.mark.parametrize("text", ["3 exp(0.6) gauss2 | 2 arccos1 -", "2 poly2 avg2/1 | 2 exp(0.6) global"])
def test_gradients_with_masks_and_none_past_the_end(text):
    net = network(text)
    x, mask = padded(alone([3, 6, 7]), 7, 1.0)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x, mask), (x,), atol=1e-5)
    (gradient,) = torch.autograd.grad(net(x, mask).square().sum(), x)
    outside = ~mask[:, None].expand_as(x)
    assert (gradient[outside] == 0).all()
    assert (gradient[~outside] != 0).any()


def test_gradients_of_filters_do_not_depend_on_the_padding():
    net, signals = network("3 exp(0.6) - | 3 arccos1 global").requires_grad_(), alone([4, 7])
    found = [
        torch.autograd.grad(net(*padded(signals, length, garbage)).square().sum(), list(net.parameters()))
        for length, garbage in ((7, 0.0), (15, 1e6))
    ]
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


# -------------------------------------------------------------------------------------------------- features, filters


@pytest.mark.parametrize("as_mask", [lambda mask: mask, lambda mask: mask.numpy(), lambda mask: mask.tolist()])
def test_features_in_batches_are_those_of_forward(monkeypatch, as_mask):
    net = network("3 exp(0.6) - | 3 arccos1 gauss2")
    x, mask = padded(alone([4, 5, 6, 7, 8]), 9, 1e3)
    expected = net(x, mask).flatten(1)
    monkeypatch.setattr(module, "_BATCH_BYTES", 8 * 5 * 9 * 2)  # two signals
    torch.testing.assert_close(net.encode(x, as_mask(mask), progress=False), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma0", [0.0, 0.7])
@pytest.mark.parametrize("text", ["3 exp(0.6) - | 3 arccos1 -", "2 exp(0.6) gauss2/1 | 2 arccos1 -"])
def test_patches_are_sampled_from_the_signals_alone(text, sigma0):
    """All patches are asked for: they are those of the signals alone, and no other."""
    net, signals = network(text, sigma0=sigma0), alone([4, 6, 10])
    x, mask = padded(signals, 12, 1e3)
    for index, layer in enumerate(net.layers):
        found = net._sample(index, x, mask, 10_000, seeded(), batch=4)
        maps = [net._below(index)(signal) for signal in signals]
        own = torch.cat([extract_patches(m, layer.layer.patch, net.arch)[0].T for m in maps])
        cosines = found @ (own / own.norm(dim=1, keepdim=True)).T
        assert len(found) == len(own)
        assert (cosines.max(dim=1).values > 1 - 1e-9).all()
        assert (cosines.max(dim=0).values > 1 - 1e-9).all()


def test_filters_do_not_depend_on_what_stands_past_the_end():
    signals, fitted = alone([6, 9, 12, 7, 8]), []
    for garbage in (0.0, 1e6):
        net = network("3 exp(0.6) gauss2 | 2 arccos1 global")
        assert net.fit_filters_(*padded(signals, 12, garbage), patches=30, generator=0, progress=False) is net
        fitted.append(net)
    for one, two in zip(*(net.parameters() for net in fitted), strict=True):
        assert torch.equal(one, two)


def test_patches_past_the_end_are_no_distinct_patches():
    x = alone([12])[0].repeat(3, 1, 1)
    with pytest.raises(ValueError, match="^layer 1: filters: expected at most 2 filters.* got 4"):
        network("3 exp(0.6) -").fit_filters_(x, mask_of([2, 2, 2], 12), generator=0, progress=False)


# -------------------------------------------------------------------------------------------------------------- errors

GOOD = mask_of([3, 8], 8)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (GOOD[:1], r"^mask: expected shape \(2, 8\), got \(1, 8\)"),
        (GOOD[:, :7], r"^mask: expected shape \(2, 8\), got \(2, 7\)"),
        (GOOD[:, None], r"^mask: expected shape \(2, 8\), got \(2, 1, 8\)"),
        (GOOD.float(), "^mask: expected a tensor of dtype bool, got torch.float32"),
        (GOOD.long(), "^mask: expected a tensor of dtype bool, got torch.int64"),
        (mask_of([3, 0], 8), "^mask: expected rows that are true up to the end .*, got row 1, all false"),
        (GOOD.flip(1), "^mask: .* got row 0, false at first"),
        (GOOD ^ mask_of([5, 8], 8) ^ mask_of([7, 8], 8), "^mask: .* got row 0, true again after its end"),
    ],
)
def test_masks_that_are_none_are_refused_everywhere(mask, message):
    net, x = network("3 exp(0.6) - | 3 arccos1 -"), torch.cat(alone([8, 8]))
    doors = [net, net.layers[0], net.encode, lambda *a: net.fit_filters_(*a, progress=False)]
    doors += [SequenceCNN(CHANNELS, (3,), 2).double(), SequenceNet(net, 2), pack]
    for door in doors:
        with pytest.raises(ValueError, match=message):
            door(x, mask)


def test_arrays_that_are_no_masks_are_refused():
    net, x = network("3 exp(0.6) -"), torch.cat(alone([8, 8]))
    for mask in (GOOD.numpy().astype(np.float64), [[1] * 8] * 2, "mask", np.array([[None] * 8] * 2)):
        with pytest.raises(ValueError, match="^mask: expected a tensor of dtype bool, got"):
            net.encode(x, mask)


def test_masks_need_signals_with_an_end():
    with pytest.raises(ValueError, match="^mask: expected a boundary 'zero' or 'valid', got 'circular'"):
        network("3 exp(0.6) -", boundary="circular")(torch.cat(alone([8, 8])), GOOD)
    images = CKN("3 exp(0.6) -", 1, (2,), generator=0)
    with pytest.raises(ValueError, match=r"^mask: expected signals \(n, channels, length\) to mask"):
        images(torch.ones(2, 1, 8, 8), GOOD)


@pytest.mark.parametrize("text", ["4 exp(0.6) -", "2 exp(0.6) - | 3 arccos1 -", "1 exp(0.6) avg4"])
def test_signals_too_short_for_patches_that_fit_wholly_inside(text):
    with pytest.raises(ValueError, match="^mask: expected signals long enough for '.*', got row 0 of "):
        network(text, boundary="valid")(torch.cat(alone([8, 8])), GOOD)


# ---------------------------------------------------------------------------------------------------- whole networks


def nets(pool, **options):
    return [
        SequenceNet(network("3 exp(0.6) gauss2/1 | 2 arccos1 -"), 3, pool=pool, generator=1, **options),
        SequenceCNN(CHANNELS, (5, 4), 3, patch=4, pool=pool, generator=1, **options).double(),
    ]


@settings(max_examples=30, deadline=None)
@given(
    pool=st.sampled_from(["mean", "max"]),
    lengths=st.lists(st.integers(4, 12), min_size=1, max_size=4),
    more=st.integers(0, 6),
    garbage=st.sampled_from([0.0, 1e8]),
)
def test_decisions_are_those_of_every_sequence_alone(pool, lengths, more, garbage):
    signals = alone(lengths)
    x, mask = padded(signals, max(lengths) + more, garbage)
    for net, packed in zip(nets(pool), nets(pool, packed=True), strict=True):
        found = net(x, mask)
        for row, signal in zip(found, signals, strict=True):
            torch.testing.assert_close(row, net(signal)[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(packed(pack(x, mask)), found)


def test_mean_and_maximum_are_those_inside():
    maps = torch.tensor([[[-3.0, -1.0, 5.0]], [[-2.0, -6.0, -1.0]]])
    mask = mask_of([2, 3], 3)
    assert pool_inside(maps, mask, "mean").tolist() == [[-2.0], [-3.0]]
    assert pool_inside(maps, mask, "max").tolist() == [[-1.0], [-1.0]]
    assert pool_inside(maps, None, "max").tolist() == [[5.0], [-1.0]]
    x, mask = padded(alone([4, 7]), 9, 1e3)
    for pool in ("mean", "max"):
        for net in nets(pool):
            maps, inside = net.maps(x, mask)
            pooled = [m[:, i].mean(1) if pool == "mean" else m[:, i].amax(1) for m, i in zip(maps, inside, strict=True)]
            torch.testing.assert_close(net(x, mask), net.head(torch.stack(pooled)))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_gradients_of_whole_networks(pool):
    x, mask = padded(alone([3, 6]), 6, 1.0)
    x.requires_grad_()
    for net in nets(pool):
        assert torch.autograd.gradcheck(lambda x, net=net: net(x, mask), (x,), atol=1e-5)
        net(x, mask).square().sum().backward()
        assert (x.grad[~mask[:, None].expand_as(x)] == 0).all()
        assert all(parameter.grad is not None for parameter in net.parameters())
        x.grad = None


def test_numbers_of_symbols_have_learned_vectors():
    numbers, mask = torch.tensor([[3, 1, -7, 99], [0, 2, 4, 1]]), mask_of([2, 4], 4)
    net = SequenceCNN(6, (5,), 2, embedding=5, generator=0)
    found = net(numbers, mask)
    assert found.shape == (2, 1)
    torch.testing.assert_close(found[:1], net(numbers[:1, :2]))
    found.sum().backward()
    assert (net.embedding.weight.grad.abs().sum(1) > 0).all()
    packed = SequenceCNN(6, (5,), 2, embedding=5, packed=True, generator=0)
    for x in (numbers, numbers.float()):
        torch.testing.assert_close(packed(pack(x, mask)), found)
    features = CKN("3 exp(0.6) -", 6, (4,), axes=1, generator=0)
    assert SequenceNet(features, 3, embedding=5)(numbers, mask).shape == (2, 3)


def test_any_module_of_signals_and_mask_serves():
    class Twice(nn.Module):
        in_channels, out_channels = CHANNELS, CHANNELS

        def forward(self, x, mask):
            return 2 * x

    x, mask = padded(alone([3, 6]), 6, 1.0)
    net = SequenceNet(Twice(), 3, generator=0).double()
    torch.testing.assert_close(net(x, mask), net.head(2 * pool_inside(x, mask, "mean")))


def test_packed_is_unpacked():
    x, mask = padded(alone([3, 6]), 6)
    assert all(torch.equal(one, two) for one, two in zip(unpack(pack(x, mask)), (x, mask), strict=True))


def test_seeds_decide_and_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    one, two = (SequenceCNN(4, (5,), 3, embedding=7, generator=0).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceCNN(0, (5,), 2), "^in_channels: "),
        (lambda: SequenceCNN(4, (), 2), "^widths: expected positive whole numbers"),
        (lambda: SequenceCNN(4, (5, 0), 2), "^widths: "),
        (lambda: SequenceCNN(4, "5", 2), "^widths: "),
        (lambda: SequenceCNN(4, (5,), 1), "^classes: "),
        (lambda: SequenceCNN(4, (5,), 2, patch=0), "^patch: "),
        (lambda: SequenceCNN(4, (5,), 2, pool="sum"), "^pool: expected 'mean' or 'max', got 'sum'"),
        (lambda: SequenceCNN(4, (5,), 2, embedding=0), "^embedding: "),
        (lambda: SequenceNet(CKN("3 exp(0.6) -", 1, (2,)), 2), "^features: expected a network of signals"),
        (lambda: SequenceNet(nn.ReLU(), 2), "^features: expected a CKN, or a module with in_channels and out_channels"),
        (lambda: SequenceNet(None, 2), "^features: expected a CKN"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({}, torch.ones(2, 3, 8), r"^x: expected shape \(n, 2, length\), got \(2, 3, 8\)"),
        ({}, torch.ones(2, 8), r"^x: expected shape \(n, 2, length\), got \(2, 8\)"),
        ({"packed": True}, torch.ones(2, 8), r"^x: expected packed shape \(n, channels \+ 1, length\), got \(2, 8\)"),
        ({"embedding": 5}, torch.ones(2, 8), r"^x: expected whole numbers of symbols \(n, length\), got \(2, 8\)"),
        ({"embedding": 5}, torch.full((2, 8), 5), "^x: expected numbers of symbols from 0 to 4, got 5 to 5"),
        ({"embedding": 5}, torch.ones(2, 1, 8, dtype=torch.int64), "^x: expected whole numbers of symbols"),
    ],
)
def test_sequences_that_do_not_suit_are_refused(options, x, message):
    with pytest.raises(ValueError, match=message):
        SequenceCNN(2, (5,), 2, **options)(x)


def test_packed_sequences_hold_their_mask():
    with pytest.raises(ValueError, match="^mask: expected none beside packed sequences"):
        SequenceCNN(2, (5,), 2, packed=True)(torch.ones(2, 3, 8), GOOD)
    with pytest.raises(ValueError, match="^x: expected shape"):
        MaskedConvolutions(2, (5,), patch=3)(torch.ones(2, 8))


# ------------------------------------------------------------------------------------------------------------ learning

MOTIF = "GATTACA"


def motifs(n, seed):
    """Random sequences of random length, half of them with the motif somewhere, packed, and which have it."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("ACGT"), rng.integers(12, 31))) for _ in range(n)]
    for number in range(0, n, 2):
        start = rng.integers(0, len(texts[number]) - len(MOTIF) + 1)
        texts[number] = texts[number][:start] + MOTIF + texts[number][start + len(MOTIF) :]
    data = DNA.encode(texts, length=30)
    y = torch.tensor([MOTIF in text for text in texts]).long()
    return pack(torch.from_numpy(data.x), torch.from_numpy(data.mask)), y


@pytest.mark.parametrize("kind", ["CNN", "CKN"])
def test_a_motif_is_found_in_sequences_of_any_length(kind):
    data, held_out = motifs(600, 0), motifs(300, 1)
    if kind == "CNN":
        net = SequenceCNN(4, (16,), 2, patch=7, pool="max", packed=True, generator=0)
    else:
        features = CKN("7 exp(0.4) -", 4, (64,), axes=1, generator=0)
        features.fit_filters_(*unpack(data[0]), patches=5000, generator=0, progress=False)
        net = SequenceNet(features, 2, pool="max", packed=True, generator=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    train(net, data, None, optimizer, Recipe(epochs=20, batch_size=50), progress=False)
    assert evaluate(net, held_out)[1] > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's, of torch itself
@pytest.mark.parametrize(
    ("text", "boundary"),
    [
        ("3 exp(0.6) avg2 | 2 arccos1 avg2/1 | 1 poly2 -", "zero"),
        ("3 exp(0.6) - | 2 arccos1 global | 1 poly2 -", "valid"),
    ],
)
def test_compiled_with_masks_it_gives_the_same_numbers(text, boundary):
    arch = Architecture.parse(text, boundary=boundary)
    net = SequenceNet(CKN(arch, CHANNELS, (6, 7, 5), axes=1, generator=0), 3, generator=0)
    x, mask = padded(alone([9, 12, 16]), 16, 1e3)
    packed = pack(x.float(), mask)
    net.packed = True
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(packed), net(packed), rtol=1e-4, atol=1e-6)
