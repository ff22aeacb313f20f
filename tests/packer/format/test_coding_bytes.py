"""The contract every byte codec and every filter keeps, whatever is added to the tables."""

import json
import lzma
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.format.codecs import (
    CODECS,
    Brotli,
    Lzma,
    Zlib,
    Zstd,
    codec_config,
    make_codec,
)
from golfpack.packer.format.filters import FILTERS, Shuffle, filter_config, make_filter
from golfpack.packer.format.similar import similarity_order

RNG = np.random.default_rng(0)
INPUTS = {
    "empty": b"",
    "one byte": b"\x07",
    "int6 codes": np.clip(np.rint(3 * RNG.standard_normal(5000)), -31, 31).astype("i1").tobytes(),
    "100 kB of text-like bytes": bytes(RNG.zipf(1.5, 100_000).clip(0, 255).astype(np.uint8)),
    "1 MB of zeros": bytes(1_000_000),
}
CODEC_IDS = sorted(CODECS)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_round_trip_is_exact_and_bytes_are_reproducible(codec_id, name):
    codec, data = make_codec(codec_id), INPUTS[name]
    coded = codec.encode(data)
    assert codec.decode(coded, len(data)) == data
    assert make_codec(json.loads(json.dumps(codec_config(codec)))).encode(data) == coded


@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_another_size_is_damage(codec_id):
    codec, data = make_codec(codec_id), INPUTS["int6 codes"]
    coded = codec.encode(data)
    for size in (0, 1, len(data) - 1, len(data) + 1, 2 * len(data)):
        with pytest.raises(CorruptError):
            codec.decode(coded, size)


@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_a_truncated_or_prolonged_stream_is_damage(codec_id):
    codec, data = make_codec(codec_id), INPUTS["int6 codes"][:300]
    coded = codec.encode(data)
    damaged = [coded[:n] for n in range(len(coded))] + [coded + b"\0", coded + coded]
    for stream in damaged:
        with pytest.raises(CorruptError):
            codec.decode(stream, len(data))


@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_a_flipped_bit_gives_the_right_size_or_an_error(codec_id):
    # The artifact's sha256 finds the flip; a codec on its own must only stay within its bounds.
    codec, data = make_codec(codec_id), INPUTS["int6 codes"][:300]
    coded = codec.encode(data)
    for position in range(8 * len(coded)):
        stream = bytearray(coded)
        stream[position // 8] ^= 1 << position % 8
        with suppress(CorruptError):
            assert len(codec.decode(bytes(stream), len(data))) == len(data)


BOMB = bytes(64_000_000)


@pytest.mark.parametrize(
    ("codec", "bomb"),
    [
        (Zlib(), Zlib(level=9).encode(BOMB)),
        (Brotli(), Brotli(quality=5).encode(BOMB)),
        (Zstd(), Zstd(level=3).encode(BOMB)),
        (Zstd(), zstandard.ZstdCompressor(level=3).compress(BOMB)),
        (make_codec("lzma"), make_codec({"id": "lzma", "preset": 0}).encode(BOMB)),
    ],
    ids=["zlib", "brotli", "zstd", "zstd that tells its size", "lzma"],
)
def test_a_bomb_is_not_inflated(codec, bomb):
    def peak(stream: bytes) -> int:
        tracemalloc.start()
        try:
            with pytest.raises(CorruptError):
                codec.decode(stream, 1000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # A decoder may keep a window of its own (64 MB for lzma); the bomb must not add to it.
    assert peak(bomb) < peak(codec.encode(bytes(1001))) + 1_000_000


@pytest.mark.parametrize("codec_id", CODEC_IDS)
def test_a_claim_of_a_terabyte_is_damage_not_an_allocation(codec_id):
    codec = make_codec(codec_id)
    with pytest.raises(CorruptError):
        codec.decode(codec.encode(b"abc"), 1 << 40)


@pytest.mark.parametrize("preset", [6, 9])
@pytest.mark.parametrize("size", [0, 100, 4097, 65536, 65537])
def test_a_small_window_finds_what_the_presets_own_does(preset, size):
    data = np.random.default_rng(size).normal(0, 3, size).astype(np.int8).tobytes()
    own = [{"id": lzma.FILTER_LZMA2, "preset": preset, "lc": 0, "lp": 0, "pb": 0}]
    assert Lzma(preset).encode(data) == lzma.compress(data, lzma.FORMAT_RAW, filters=own)


def test_unknown_codecs_filters_and_options_are_usage_errors():
    bad: list[Any] = ["gzip", {"id": "gzip"}, {"id": "zlib", "speed": 3}, {}, {"id": ["zlib"]}, 5]
    for config in bad:
        with pytest.raises(UsageError):
            make_codec(config)
    for config in ("delta", {"id": "shuffle", "stride": 0}, {"id": "shuffle", "x": 1}, {}):
        with pytest.raises(UsageError):
            make_filter(config)


@pytest.mark.parametrize(
    ("codec_id", "option", "bad"),
    [
        ("zlib", "level", (-2, 10, "9", True)),
        ("zstd", "level", (0, 23, 3.0)),
        ("lzma", "preset", (-1, 10, None)),
        ("brotli", "quality", (-1, 12, 99)),
        ("brotli", "lgwin", (9, 25)),
        ("shuffle", "stride", (0, 256, 2.0, True)),
    ],
)
def test_option_values_are_checked_when_the_codec_is_made(codec_id, option, bad):
    made = make_filter if codec_id in FILTERS else make_codec
    for value in bad:
        with pytest.raises(UsageError, match=option):
            made({"id": codec_id, option: value})


@pytest.mark.parametrize("filter_id", sorted(FILTERS))
@given(data=st.binary(max_size=200), stride=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_filters_are_reversible_and_keep_the_size(filter_id, data, stride):
    f = make_filter({"id": filter_id, "stride": stride})
    coded = f.encode(data)
    assert sorted(coded) == sorted(data)
    assert f.decode(coded) == data
    assert make_filter(json.loads(json.dumps(filter_config(f)))) == f


def test_shuffle_deals_into_piles():
    assert Shuffle(2).encode(b"abcdefg") == b"acegbdf"
    assert Shuffle(3).encode(b"abcdefg") == b"adgbecf"


@given(
    st.integers(0, 20),
    st.integers(0, 9),
    st.integers(0, 2**20),
    st.sampled_from([1, 50, 4000, 10**6]),
)
@settings(max_examples=60, deadline=None)
def test_similarity_order_is_the_greedy_walk_from_row_0(rows, cols, seed, size):
    codes = np.random.default_rng(seed).integers(-size, size + 1, (rows, cols)).astype(np.int32)
    walk, left = list(range(min(rows, 1))), list(range(1, rows))
    while left:
        distances = np.abs(codes[left].astype(np.int64) - codes[walk[-1]]).sum(1)
        walk.append(left.pop(int(np.argmin(distances))))  # argmin takes the first of equals
    assert similarity_order(codes).tolist() == walk


def test_similarity_order_of_extreme_codes_is_an_order():
    codes = np.array([[2**31 - 1] * 3, [-(2**31)] * 3, [0, 0, 0]], np.int32)
    assert sorted(similarity_order(codes)) == [0, 1, 2]
