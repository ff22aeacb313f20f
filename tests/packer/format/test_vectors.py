"""Steps and classes that tell each other: there and back, what it saves, what damage does to it."""

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError
from golfpack.packer.format.rans.fit_vectors import Told, encode_vectors
from golfpack.packer.format.rans.vectors import MAX_WEIGHT, Item, decode_vectors

LOWEST, HIGHEST = -(2**31), 2**31 - 1


def _read(plan: list[Told]) -> list[Item]:
    """The plan as a reader has it."""
    return [(i[0], len(i[1])) if isinstance(i, tuple) else i for i in plan]


def _assert_round_trip(plan: list[Told]) -> bytes:
    payload = encode_vectors(plan)
    found = decode_vectors(payload, _read(plan))
    coded = [i[1] for i in plan if isinstance(i, tuple)]
    assert len(found) == len(coded)
    for got, expected in zip(found, coded, strict=True):
        assert np.array_equal(got, expected)
    return payload


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 3, 4, 5, 16, 16, 64]), max_size=8),
    seed=st.integers(0, 2**32),
)
def test_round_trip(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    latest: dict[int, np.ndarray] = {}
    plan: list[Told] = []
    for n in lengths:
        x = 10 ** rng.uniform(-1, 4) * rng.standard_normal(n)
        if n in latest and rng.random() < 0.7:
            x = rng.normal() * latest[n] + rng.standard_normal(n)
        if rng.random() < 0.3:
            x = np.cumsum(x)
        if rng.random() < 0.1:
            x = rng.integers(LOWEST, HIGHEST + 1, n)
        latest[n] = np.clip(np.rint(x), LOWEST, HIGHEST).astype(np.int64)
        plan.append(latest[n] if rng.random() < 0.3 else (int(rng.integers(3)), latest[n]))
    _assert_round_trip(plan)


@pytest.mark.parametrize("value", [LOWEST, -1, 0, HIGHEST])
def test_constant_vectors(value: int) -> None:
    x = np.full(300, value)
    assert len(_assert_round_trip([("a", x), ("b", x), ("a", -1 - x)])) < 150


def _vector(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.rint(6 * np.random.default_rng(seed).standard_normal(n)).astype(np.int64)


def test_what_is_known_of_a_vector_is_not_coded() -> None:
    x, y, noise = _vector(), _vector(seed=1), _vector(seed=2)
    alone = len(encode_vectors([("a", x)]))
    assert alone > 200
    turned = ("b", -2 * x + 77)
    assert len(_assert_round_trip([x, turned])) < 40
    assert len(_assert_round_trip([noise, x, y, noise, ("a", x + y // 2)])) < 0.35 * alone
    # What was coded is known, too, and vectors of other lengths are no help.
    assert len(_assert_round_trip([("a", x), turned])) < alone + 10
    assert len(encode_vectors([x[1:], ("a", x)])) == alone


def test_a_trend_is_followed() -> None:
    rng = np.random.default_rng(3)
    x = np.rint(np.cumsum(rng.standard_normal(1000))).astype(np.int64)
    shuffled = rng.permutation(x)
    sizes = [len(_assert_round_trip([("a", v)])) for v in (x, shuffled)]
    assert sizes[0] < 0.6 * sizes[1]


def test_golden_bytes() -> None:
    """A change here breaks every artifact: it needs a new version of the format, not a new constant."""
    x = np.array([3, -1, 4, -1, 5, -9, 2, -6])
    plan: list[tuple[Hashable, np.ndarray]] = [
        ("a", x),
        ("b", 2 * x - 50),
        ("a", np.arange(12) // 2),
    ]
    assert encode_vectors(plan).hex() == GOLDEN
    found = decode_vectors(bytes.fromhex(GOLDEN), [("a", 8), ("b", 8), ("a", 12)])
    assert [v.tolist() for v in found] == [v.tolist() for _, v in plan]


GOLDEN = "00010258f0cab01e0000002f0e8391ffcf6a2c704703ff126d50ea"


def test_damage_is_one_error_or_other_vectors() -> None:
    plan: list[Told] = [
        _vector(60),
        ("a", _vector(60) + 3),
        ("b", _vector(60, 1)),
        ("a", _vector(9)),
    ]
    payload = encode_vectors(plan)
    for keep in range(len(payload)):
        with pytest.raises(CorruptError):
            decode_vectors(payload[:keep], _read(plan))
    with pytest.raises(CorruptError):
        decode_vectors(payload + bytes(4), _read(plan))
    for at in range(len(payload)):
        damaged = bytearray(payload)
        damaged[at] ^= 0x55
        try:
            found = decode_vectors(bytes(damaged), _read(plan))
        except CorruptError:
            continue
        assert [len(v) for v in found] == [60, 60, 9]


def _lying(head: list[int], rest: list[int]) -> bytes:
    """A payload of one vector with this head, as no encoder writes it."""
    from golfpack.packer.format.rans.payload import encode_payload
    from golfpack.packer.format.rans.tables import tables
    from golfpack.packer.format.rans.vectors import FIRST, SPREAD_STEP, STEP_HEADS

    levels = np.full(len(rest), SPREAD_STEP * (FIRST[1] + head[1]) % 184, np.uint8)
    runs = [(np.array(head, np.int32), STEP_HEADS), (np.array(rest, np.int32), levels)]
    return encode_payload(runs, tables())


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ([0, 0, 0, 0, 0, 0, 0], ""),
        ([0, -9, 0, 0, 0, 0, 0], "no possible spread"),
        ([0, 54, 0, 0, 0, 0, 0], "no possible spread"),
        ([0, 0, 2, 0, 0, 0, 0], "told from none"),
        ([0, 0, -1, 0, 0, 0, 0], "told from none"),
        ([0, 0, 0, 0, 2, 0, 0], "told from none"),
        ([0, 0, 1, MAX_WEIGHT + 1, 0, 0, 0], "told from none"),
        ([0, 0, 0, 0, 0, 0, 2], "no possible trend"),
        ([HIGHEST, 0, 0, 0, 0, 0, 0], "leaves the 32-bit range"),
    ],
)
def test_heads_that_no_encoder_writes_are_corrupt(head: list[int], says: str) -> None:
    plan: list[Item] = [np.arange(5), ("a", 5)]
    payload = _lying(head, [1, 0, 0, 0, 0])
    if not says:
        assert decode_vectors(payload, plan)[0].tolist() == [1, 0, 0, 0, 0]
        return
    with pytest.raises(CorruptError, match=says):
        decode_vectors(payload, plan)


def test_more_than_a_payload_can_hold_is_not_believed() -> None:
    with pytest.raises(CorruptError, match="cannot hold"):
        decode_vectors(encode_vectors([("a", _vector())]), [("a", 1 << 30)])
