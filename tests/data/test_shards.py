"""Token shards: round trip, strict sizes, globs without byte-count side-cars."""

import re
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.data.shards import (
    HEADER_BYTES,
    read_shard,
    read_tokens,
    tokens_sha256,
    write_shard,
)
from golfpack.errors import UsageError


@given(st.lists(st.integers(0, 65535), max_size=20), st.integers(0, 25))
def test_round_trip_with_limit(tmp_path_factory, tokens, limit):
    path = tmp_path_factory.mktemp("shards") / "a.bin"
    write_shard(path, np.array(tokens, dtype=np.int64))
    assert path.stat().st_size == HEADER_BYTES + 2 * len(tokens)
    assert read_shard(path).dtype == np.uint16
    assert read_shard(path).tolist() == tokens
    assert read_shard(path, limit).tolist() == tokens[:limit]


def test_the_layout_is_the_challenges(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, np.array([1, 258]))
    header = np.frombuffer(path.read_bytes()[:HEADER_BYTES], "<i4")
    assert header[:3].tolist() == [20240520, 1, 2]
    assert not header[3:].any()
    assert path.read_bytes()[HEADER_BYTES:] == b"\x01\x00\x02\x01"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_tokens_beyond_uint16_are_uint32_in_llm_cs_layout(tmp_path):
    path, ids = tmp_path / "a.bin", [1, 65_536, 128_255]
    write_shard(path, np.array(ids))
    header = np.frombuffer(path.read_bytes()[:HEADER_BYTES], "<i4")
    assert header[:3].tolist() == [20240801, 7, 3]
    assert path.stat().st_size == HEADER_BYTES + 4 * 3
    assert read_shard(path).dtype == np.uint32
    assert read_shard(path).tolist() == ids
    # What is read decides, not the file: equal tokens have one type and one sha256.
    write_shard(tmp_path / "b.bin", np.array([1]))
    assert read_shard(path, 1).dtype == np.uint16
    assert tokens_sha256(read_shard(path, 1)) == tokens_sha256(read_shard(tmp_path / "b.bin"))
    assert tokens_sha256(read_shard(path)) == sha256(np.array(ids, "<u4").tobytes()).hexdigest()
    # Shards of both kinds are one stream.
    assert read_tokens(f"{tmp_path}/*.bin").tolist() == [*ids, 1]


def test_a_glob_is_one_stream_in_name_order(tmp_path):
    for name, token in (("v_1.bin", 1), ("v_0.bin", 0), ("v_bytes_0.bin", 9), ("w_2.bin", 2)):
        write_shard(tmp_path / name, np.full(3, token))
    assert read_tokens(f"{tmp_path}/v_*.bin").tolist() == [0, 0, 0, 1, 1, 1]
    assert read_tokens(f"{tmp_path}/v_*.bin", 4).tolist() == [0, 0, 0, 1]
    assert read_tokens(f"{tmp_path}/*.bin", 100).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(UsageError, match="only byte-count side-cars"):
        read_tokens(tmp_path / "v_bytes_0.bin")
    with pytest.raises(UsageError, match="no shard matches") as caught:
        read_tokens(f"{tmp_path}/v_3.bin")
    assert "v_0.bin" in (caught.value.hint or "")


def header(*fields):
    values = np.zeros(256, "<i4")
    values[: len(fields)] = fields
    return values.tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"x" * 100, "only 100 bytes long"),
        (header(20240801, 1, 0), "header starts with 20240801, 1"),
        (header(20240520, 7, 0), "header starts with 20240520, 7"),
        (header(20240520, 1, 3) + b"1234", "is truncated"),
        (header(20240520, 1, 1) + b"1234", "has bytes left over"),
        (header(20240520, 1, -1), "has bytes left over"),
    ],
)
def test_damaged_shards_say_what_is_wrong(data, message, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=re.escape(message)):
        read_shard(path)


@pytest.mark.parametrize("token", [-1, 1 << 32])
def test_tokens_that_do_not_fit_are_refused(token, tmp_path):
    with pytest.raises(UsageError, match="the stream has tokens from"):
        write_shard(tmp_path / "a.bin", np.array([1, token]))
    with pytest.raises(UsageError, match="cannot write"):
        write_shard(tmp_path / "absent" / "a.bin", np.array([1]))
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_is_the_users_to_mend(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        write_shard(tmp_path / "folder", np.array([1]))
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_the_same_ids_are_read_from_every_kind_of_file(tmp_path):
    ids = np.random.default_rng(0).integers(0, 1 << 16, 1000)
    write_shard(tmp_path / "a.bin", ids)
    for dtype in (np.uint16, np.int32, np.int64, ">u4"):
        np.save(tmp_path / "a.npy", ids.astype(dtype))
        assert np.array_equal(read_tokens(tmp_path / "a.npy"), ids)
    (tmp_path / "a.tokens").write_text(
        " ".join(map(str, ids[:500])) + "\n" + "\n".join(map(str, ids[500:]))
    )
    for kind in ("bin", "npy", "tokens"):
        got = read_tokens(tmp_path / f"a.{kind}", 700)
        assert got.dtype == np.uint16
        assert np.array_equal(got, ids[:700])
    assert np.array_equal(read_tokens(str(tmp_path / "a.*")), np.tile(ids, 3))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), int), "an array of shape and dtype"),
        (np.zeros(3), "an array of shape and dtype"),
        (np.array([1, 1 << 32]), "has tokens from 1 to 4294967296"),
        (np.array([-1, 2]), "has tokens from -1 to 2"),
        (np.array([{"a": 1}]), "is not a readable .npy"),
    ],
)
def test_arrays_that_are_no_tokens_are_refused(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UsageError, match=re.escape(message)):
        read_tokens(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["1 2 x", "1 2.5", "\xe9", "1 99999999999999999999", "1 -7"])
def test_lists_that_are_no_tokens_are_refused(text, tmp_path):
    (tmp_path / "a.tokens").write_text(text)
    with pytest.raises(UsageError, match=r"a\.tokens"):
        read_tokens(tmp_path / "a.tokens")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(UsageError, match="is not a readable"):
        read_tokens(tmp_path / "b.npy")
