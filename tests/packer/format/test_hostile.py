"""Hostile files, every digest right and the content wrong: each lie is one CorruptError."""

import copy
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_sample import BYTES, HEAD, SIDE, one_group, small_parts

from golfpack.errors import CorruptError
from golfpack.packer.format.codecs import CODECS, Brotli, Lzma, make_codec
from golfpack.packer.format.codestreams import ByteStream, CodeGroup, RansCodes
from golfpack.packer.format.container import HEADER, MAGIC, VERSION, assemble, parse
from golfpack.packer.format.loader import loads
from golfpack.packer.format.rans.payload import VECTORS
from golfpack.packer.format.steps import LogSteps, f16_steps
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import QTensor


def tensor(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda m: next(t for t in m["tensors"] if t["name"] == name)


def change(find: Callable, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: find(m).update(values)


def drop(find: Callable, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda m: find(m).pop(key)


def top(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest


A, B, RAW = tensor("a.log"), tensor("b.f16"), tensor("g.f16")
LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no family": drop(top, "family"),
    "family of the wrong type": change(top, family=3),
    "config of the wrong type": change(top, config=[1]),
    "no tensors": drop(top, "tensors"),
    "tensors is a number": change(top, tensors=7),
    "tensors is text": change(top, tensors="abc"),
    "a tensor is a number": lambda m: m["tensors"].append(3),
    "a tensor without a name": drop(A, "name"),
    "a tensor of neither kind": drop(A, "rows"),
    "a tensor of both kinds": change(A, raw="f16"),
    "two tensors of one name": change(A, name="b.f16"),
    "negative shape": change(A, shape=[-6, 5]),
    "fractional shape": change(A, shape=[6.0, 5]),
    "boolean shape": change(A, shape=[True, 5]),
    "shape is text": change(A, shape="65"),
    "shape is a number": change(A, shape=30),
    "shape is an object": change(RAW, shape={}),
    "shape too large": change(A, shape=[6, 6]),
    "shape too small": change(A, shape=[6, 4]),
    "shape of the same size": change(A, shape=[5, 6]),
    "huge shape": change(A, shape=[1 << 31, 1 << 31]),
    "large but allowed shape": change(A, shape=[1 << 16, 1 << 12]),
    "many rows of nothing": change(A, shape=[1 << 32, 0]),
    "nothing in many columns": change(A, shape=[0, 1 << 32]),
    "a number too large to convert": change(A, shape=[10**4000, 1]),
    "too many dimensions": change(A, shape=[1 << 32] * 20_000),
    "huge raw shape": change(RAW, shape=[1 << 30]),
    "width 3": change(A, width=3),
    "width 2 for 1": change(A, width=2),
    "width is text": change(A, width="1"),
    "width is a list": change(A, width=[1]),
    "no width": drop(A, "width"),
    "steps of no kind": change(A, rows="f32"),
    "steps grain is a fraction": change(A, rows=0.5),
    "steps grain is true": change(A, rows=True),
    "steps grain 0": change(A, rows=0),
    "steps grain that overflows float32": change(A, rows=4000),
    "steps as version 3 has them": change(A, rows=[0, 1]),
    "steps that are not there": change(B, rows=1),
    "columns in float16": change(A, cols="f16"),
    "columns in float16 beside such rows": change(B, cols="f16"),
    "columns of no kind": change(A, cols=None),
    "raw type unknown": change(RAW, raw="f64"),
    "raw type is a list": change(RAW, raw=["f16"]),
    "unknown codec": lambda m: m["codes"]["codec"].update(id="gzip"),
    "codec is a list": lambda m: m["codes"]["codec"].update(id=["zlib"]),
    "codec with unknown options": lambda m: m["codes"]["codec"].update(speed=1),
    "codec with a wrong option": lambda m: m["side"].update(codec={"id": "lzma", "preset": "x"}),
    "codec with an option out of range": lambda m: m["side"]["codec"].update(quality=99),
    "unknown filter": lambda m: m["codes"].update(filters=["delta"]),
    "filter with stride 0": lambda m: m["codes"].update(filters=[{"id": "shuffle", "stride": 0}]),
    "filters is a number": lambda m: m["codes"].update(filters=3),
    "unknown order": lambda m: m["codes"].update(order="spiral"),
    "another number of states": change(A, trellis=4),
    "states that are no number": change(A, trellis=8.0),
    "fine codes without states": change(A, fine=14),
    "another bound of fine codes": change(A, trellis=8, fine=15),
    "a bound of fine codes that is no number": change(A, trellis=8, fine=14.0),
    "states under a byte codec": change(A, trellis=8),
    "no code settings": drop(top, "codes"),
    "code settings are text": change(top, codes="zlib"),
    "no side settings": drop(top, "side"),
}


def refused(blob: bytes, says: str | None = None) -> None:
    """`loads` must refuse quickly, with little memory and without a warning of numpy's."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError, match=says) as e:
            loads(blob)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert len(e.value.message) < 500


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lie", LIES)
def test_a_lying_manifest_is_corrupt(lie):
    manifest, streams = small_parts()
    LIES[lie](manifest)
    refused(assemble(manifest, streams))


@pytest.mark.parametrize("lie", ["large but allowed shape", "shape too large", "shape too small"])
def test_a_lying_manifest_is_corrupt_under_the_code_coder_too(lie):
    manifest, streams = small_parts("rans")
    LIES[lie](manifest)
    refused(assemble(manifest, streams))


# Of version 3, whose log steps are bytes over a base.
OLD = parse((Path(__file__).parents[2] / "golden" / "v3-trellis.golf").read_bytes())
EMBEDDING = tensor("tok_emb.weight")
OLD_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "steps base out of range": change(EMBEDDING, rows=[1 << 20, 1]),
    "steps base is a fraction": change(EMBEDDING, rows=[0.5, 1]),
    "steps grain 0": change(EMBEDDING, cols=[0, 0]),
    "steps grain that overflows float32": change(EMBEDDING, cols=[0, 2000]),
    "steps of three numbers": change(EMBEDDING, rows=[0, 1, 2]),
    "steps as version 4 has them": change(EMBEDDING, rows=8),
    "no columns": drop(EMBEDDING, "cols"),
}


@pytest.mark.parametrize("lie", OLD_LIES)
def test_a_lying_manifest_of_version_3_is_corrupt(lie):
    manifest = copy.deepcopy(OLD.manifest)
    assert loads(assemble(manifest, OLD.streams, 3)).tensors
    OLD_LIES[lie](manifest)
    refused(assemble(manifest, OLD.streams, 3))


@pytest.mark.parametrize("name", ["rows", "cols"])
@pytest.mark.parametrize("data", [b"", b"\0", Lzma(6).encode(b""), Lzma(6).encode(bytes(10_000))])
def test_a_foreign_stream_of_version_3_is_corrupt(name, data):
    refused(assemble(OLD.manifest, {**OLD.streams, name: data}, 3))


ROWS, GROUPED, CORRECTED = tensor("b.f16"), tensor("j.groups"), tensor("l.corrected")


def correction(manifest: dict[str, Any]) -> dict[str, Any]:
    return CORRECTED(manifest)["correction"]


def factor(manifest: dict[str, Any]) -> dict[str, Any]:
    return correction(manifest)["b"]


GROUP_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "group 0": change(GROUPED, group=0),
    "negative group": change(GROUPED, group=-3),
    "group of another size": change(GROUPED, group=2),
    "group beyond the columns": change(GROUPED, group=8),
    "group as wide as memory": change(GROUPED, group=1 << 40),
    "boolean group": change(ROWS, group=True),
    "fractional group": change(GROUPED, group=3.0),
    "group of log steps": change(A, group=5),
    "no group": drop(GROUPED, "group"),
    "group of a factor beyond its columns": change(factor, group=9),
    "columns beside float16 rows left out": drop(tensor("k.columns"), "cols"),
    "columns claimed beside float16 rows": change(ROWS, cols=1),
    "rank 0": change(correction, rank=0),
    "rank of another size": change(correction, rank=3),
    "rank out of range": change(correction, rank=1 << 20),
    "boolean rank": change(correction, rank=True),
    "rank too large to convert": change(correction, rank=10**4000),
    "no rank": drop(correction, "rank"),
    "a factor too few": drop(correction, "a"),
    "a factor without steps": drop(factor, "rows"),
    "a factor without width": drop(factor, "width"),
    "a factor that is a number": change(correction, b=3),
    "correction is a list": change(CORRECTED, correction=[1]),
    "no correction": drop(CORRECTED, "correction"),
    "correction of a tensor without one": change(
        ROWS, correction={"rank": 2, "a": {"rows": "f16"}, "b": {"rows": "f16"}}
    ),
    "stream of another group": change(A, stream=1),
    "stream out of range": change(A, stream=4),
    "negative stream": change(A, stream=-1),
    "stream is text": change(A, stream="0"),
    "boolean stream": change(ROWS, stream=True),
    "no stream": drop(A, "stream"),
    "one config for several streams": lambda m: m.update(codes=m["codes"][0]),
    "a config too few": lambda m: m["codes"].pop(),
    "a config that is text": lambda m: m["codes"].__setitem__(0, "rans"),
    "no configs": change(top, codes=[]),
    "sorted rows under rans": change(A, sorted=True),
    "rows said to be sorted": change(ROWS, sorted=True),
    "rows not said to be sorted": drop(GROUPED, "sorted"),
    "rows sorted or not": change(GROUPED, sorted=1),
    "rows said not to be sorted": change(ROWS, sorted=False),
    "rows said not to be sorted under rans": change(A, sorted=None),
    "a factor said not to be sorted": change(factor, sorted=False),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lie", GROUP_LIES)
def test_a_lying_manifest_of_code_groups_is_corrupt(lie):
    manifest, streams = small_parts("groups")
    GROUP_LIES[lie](manifest)
    refused(assemble(manifest, streams))


@pytest.mark.parametrize("order", [[0, 1, 2, 2], [0, 1, 2, 4], [65535, 0, 1, 2]])
def test_rows_in_no_possible_order_are_corrupt(order):
    tensors = {"t": QTensor(np.arange(12, dtype=np.int32).reshape(4, 3), f16_steps(np.ones(4)))}
    group = CodeGroup(("t",), BYTES, frozenset({"t"}))
    manifest, streams = encode_tensors(tensors, {"t": (4, 3)}, {"t": "head"}, [group], SIDE)
    assert loads(assemble(HEAD | manifest, streams)).tensors
    streams["perms"] = SIDE.encode(np.array(order, "<u2").tobytes())
    refused(assemble(HEAD | manifest, streams))


def test_a_correction_counts_towards_the_limits():
    # 2^22 rows of nothing: only the factors of a correction make it large.
    rows = 1 << 22
    tensors = {"t": QTensor(np.zeros((rows, 0), np.int32), LogSteps(np.zeros(rows, np.int32)))}
    groups = one_group(tensors, BYTES)
    manifest, streams = encode_tensors(tensors, {"t": (rows, 0)}, {"t": "head"}, groups, SIDE)
    factors = {"rows": "f16", "width": 1}
    manifest["tensors"][0]["correction"] = {"rank": 256, "a": factors, "b": factors}
    refused(assemble(HEAD | manifest, streams))


CODE_STREAMS = [RansCodes(), *(ByteStream(make_codec(c)) for c in sorted(CODECS))]


@pytest.mark.parametrize("codes", CODE_STREAMS, ids=["rans", *sorted(CODECS)])
def test_many_codes_from_few_bytes_are_not_believed(codes):
    # The rows are all there (zeros pack well), so only the code stream can give the lie away.
    rows = 1 << 14
    tensors = {"t": QTensor(np.ones((rows, 1), np.int32), LogSteps(np.zeros(rows, np.int32)))}
    manifest, streams = encode_tensors(
        tensors, {"t": (rows, 1)}, {"t": "head"}, one_group(tensors, codes), SIDE
    )
    manifest["tensors"][0]["shape"] = [rows, 1 << 14]
    refused(assemble(HEAD | manifest, streams))


STREAMS = [
    *(("bytes", name) for name in ("rows", "steps", "codes", "raw")),
    *(("groups", name) for name in ("perms", "codes.0", "codes.1", "codes.2", "codes.3")),
]


@pytest.mark.parametrize(("coding", "name"), STREAMS)
@pytest.mark.parametrize("data", [b"", b"\0", b"x" * 50, Brotli(5).encode(bytes(200_000_000))])
def test_a_foreign_stream_is_corrupt(coding, name, data):
    manifest, streams = small_parts(coding)
    refused(assemble(manifest, {**streams, name: data}))
    refused(assemble(manifest, {n: d for n, d in streams.items() if n != name}))


@pytest.mark.parametrize(
    ("coding", "name"),
    [("bytes", "perms"), ("rans", "codes.0"), ("groups", "codes"), ("rans", "x")],
)
def test_a_stream_that_no_tensor_needs_is_corrupt(coding, name):
    manifest, streams = small_parts(coding)
    refused(assemble(manifest, {**streams, name: b""}), f"needs stream '{name}'")


@pytest.mark.parametrize("coding", ["bytes", "rans"])
def test_columns_of_no_rows_take_no_memory(coding):
    manifest, streams = small_parts(coding)
    fields = {"shape": [0, 1 << 30], "role": "head", "rows": "f16", "width": 1}
    manifest["tensors"] += [{"name": f"none.{i}", **fields} for i in range(50)]
    tracemalloc.start()
    try:
        weights = loads(assemble(manifest, streams)).weights()
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert weights["none.49"].shape == (0, 1 << 30)


def test_many_steps_of_nothing_take_little_memory():
    # Vectors without weights: what a reader makes of each step is all that they cost.
    rows = 1 << 19
    tensors = {
        "t": QTensor(
            np.zeros((rows, 0), np.int32), LogSteps(np.arange(rows, dtype=np.int32) // 1200)
        )
    }
    groups = one_group(tensors, RansCodes())
    manifest, streams = encode_tensors(tensors, {"t": (rows, 0)}, {"t": "head"}, groups, SIDE)
    blob = assemble(HEAD | manifest, streams)
    tracemalloc.start()
    try:
        loads(blob)
        assert tracemalloc.get_traced_memory()[1] < 40 * rows
    finally:
        tracemalloc.stop()


def test_steps_under_a_flag_of_codes_are_corrupt():
    manifest, streams = small_parts("rans")
    flagged = bytes([streams["steps"][0] | VECTORS]) + streams["steps"][1:]
    refused(assemble(manifest, {**streams, "steps": flagged}), "lanes")


@pytest.mark.parametrize("value", [0x0000, 0x7C00, 0xFE00, 0xBC00])
def test_steps_that_are_no_steps_are_corrupt(value):
    # zero, infinite, not a number, negative: the weights would be garbage
    steps = f16_steps(np.array([1.0]))
    steps.row_f16.view(np.uint16)[0] = value
    tensors = {"t": QTensor(np.ones((1, 3), np.int32), steps)}
    manifest, streams = encode_tensors(
        tensors, {"t": (1, 3)}, {"t": "head"}, one_group(tensors, BYTES), SIDE
    )
    refused(assemble(HEAD | manifest, streams), "tensor 't' has a step")


def framed(
    manifest_text: bytes, *, packed_size: int | None = None, size: int | None = None
) -> bytes:
    """A file with this manifest and no streams."""
    packed = Lzma(6).encode(manifest_text)
    packed_size = len(packed) if packed_size is None else packed_size
    size = len(manifest_text) if size is None else size
    blob = HEADER.pack(MAGIC, VERSION, packed_size, size) + packed
    return blob + hashlib.sha256(blob).digest()


FRAMES = {
    "a manifest that is a list": framed(b"[]"),
    "a manifest that is no JSON": framed(b"{"),
    "a manifest that is no text": framed(b"\xff\xfe"),
    "no list of streams": framed(b"{}"),
    "streams is an object": framed(b'{"streams":{"a":1}}'),
    "a stream of negative length": framed(b'{"streams":[["a",-1]]}'),
    "a stream of boolean length": framed(b'{"streams":[["a",true]]}'),
    "a stream beyond the file": framed(b'{"streams":[["a",1000]]}'),
    "a stream of a terabyte": framed(b'{"streams":[["a",1000000000000]]}'),
    "two streams of one name": framed(b'{"streams":[["a",0],["a",0]]}'),
    "a stream with a name that is none": framed(b'{"streams":[[[],0]]}'),
    "nested too deeply": framed(b'{"streams":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a number too long": framed(b'{"streams":[["a",' + b"9" * 9000 + b"]]}"),
    "a manifest bomb": framed(b" " * 100_000_000, size=100),
    "a manifest bomb that says so": framed(b" " * 100_000_000),
    "a manifest longer than the file": framed(b"{}", packed_size=1 << 31),
    "a manifest shorter than it says": framed(b"{}", size=1 << 20),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_lying_frame_is_corrupt(frame):
    refused(FRAMES[frame])
