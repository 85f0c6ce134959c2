"""The stream of Infinite MNIST: every digit once a round, no index twice, and on where it stopped."""

import json

import numpy as np
import pytest
import torch

from hilbertnet.deformations.digit_stream import DigitStream
from hilbertnet.deformations.infinite_mnist import InfiniteMNIST

DIGITS = InfiniteMNIST(
    images=np.random.RandomState(0).randint(0, 256, (23, 6, 6)).astype(np.uint8), labels=np.arange(23)
)  # fmt: skip


def take(stream, count):
    return [next(stream) for _ in range(count)]


def test_every_digit_once_a_round():
    stream = DigitStream(DIGITS, 10, seed=3)
    indices = []
    for _ in range(23):
        indices.append(stream.next_indices())
        x, y = next(stream)
        assert x.shape == (10, 1, 6, 6)
        assert torch.equal(x, DIGITS.batch(indices[-1])[0])
        assert y.tolist() == (indices[-1] % 23).tolist()
    rounds = np.concatenate(indices).reshape(10, 23)
    orders = set()
    for number, found in enumerate(rounds):
        assert (found // 23 == number + 1).all()  # copy 1, 2, ...
        assert sorted(found % 23) == list(range(23))
        orders.add(tuple(found % 23))
    assert len(orders) == 10
    assert len(np.unique(rounds)) == 230


def test_a_batch_of_several_rounds():
    large, little = DigitStream(DIGITS, 60, seed=1), DigitStream(DIGITS, 1, seed=1)
    assert torch.equal(next(large)[0], torch.cat([x for x, _ in take(little, 60)]))


def test_the_seed_tells_the_order():
    assert torch.equal(next(DigitStream(DIGITS, seed=5))[0], next(DigitStream(DIGITS, seed=5))[0])
    assert DigitStream(DIGITS, 23).next_indices().tolist() == FROZEN
    assert DigitStream(DIGITS, 23, seed=1).next_indices().tolist() != FROZEN
    assert DigitStream(DIGITS, 23, first=0).next_indices().tolist() == [i - 23 for i in FROZEN]
    assert iter(stream := DigitStream(DIGITS)) is stream


FROZEN = [33, 25, 23, 44, 45, 41, 31, 35, 43, 27, 29, 26, 32, 37, 42, 24, 39, 40, 28, 34, 36, 30, 38]


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_resume(stop):
    whole = take(DigitStream(DIGITS, 7, seed=2), 14)
    first = DigitStream(DIGITS, 7, seed=2)
    take(first, stop)
    state = json.loads(json.dumps(first.state_dict()))
    second = DigitStream(DIGITS, 7, seed=2)
    second.load_state_dict(state)
    for (x, y), (other, labels) in zip(whole[stop:], take(second, 14 - stop), strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


def test_resume_with_other_batches():
    first, second = DigitStream(DIGITS, 6), DigitStream(DIGITS, 5)
    take(first, 5)
    second.load_state_dict(first.state_dict())
    assert np.array_equal(second.next_indices(), first.next_indices()[:5])


def test_a_state_of_something_else():
    state = DigitStream(DIGITS, seed=2).state_dict()
    for stream, name in (
        (DigitStream(DIGITS), "seed 0, got 2"),
        (DigitStream(DIGITS, seed=2, first=0), "first 0, got 1"),
        (DigitStream(DIGITS.at(2), seed=2), "digits {'alpha': 2.0"),
    ):
        with pytest.raises(ValueError, match=f"state: expected that of a stream with {name}"):
            stream.load_state_dict(state)
        assert stream.taken == 0
    with pytest.raises(ValueError, match="state: expected the state of a digit stream, got None digits taken"):
        DigitStream(DIGITS).load_state_dict({})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size: expected a whole number of digits"),
        ({"size": 2.0}, "size: expected a whole number of digits"),
        ({"seed": -1}, "seed: expected a whole number from 0 to 2"),
        ({"seed": 2**32}, "seed: expected a whole number from 0 to 2"),
        ({"first": -1}, "first: expected the number of a copy"),
        ({"first": 2**60}, "first: expected the number of a copy"),
    ],
)
def test_bad_arguments(how, message):
    with pytest.raises(ValueError, match=message):
        DigitStream(DIGITS, **how)
