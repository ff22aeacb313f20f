"""The file format under attack: every truncation, every flip and every lie is one CorruptError."""

import hashlib
import itertools
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import CorruptError, UsageError
from golfpack.packer.artifact import HEADER, MAGIC, VERSION, assemble, parse
from golfpack.packer.coding.codecs import CODECS, Brotli, Zlib, make_codec
from golfpack.packer.coding.filters import Shuffle
from golfpack.packer.ir import PackedTensor, QTensor, Raw
from golfpack.packer.loader import is_artifact, load, loads
from golfpack.packer.rawfloat import raw_from_float32
from golfpack.packer.steps import LogSteps, f16_steps, log_steps
from golfpack.packer.streams import ByteStream, CodeStream, RansCodes, encode_tensors

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def small_tensors() -> tuple[dict[str, PackedTensor], dict[str, tuple[int, ...]]]:
    """One tensor of every kind a file can hold, and their shapes."""
    rng = np.random.default_rng(0)

    def codes(rows: int, cols: int, size: float) -> np.ndarray:
        return np.rint(size * rng.standard_normal((rows, cols))).astype(np.int32)

    row, col = np.exp(rng.standard_normal(6)), np.exp(rng.standard_normal(5))
    tensors: dict[str, PackedTensor] = {
        "a.log": QTensor(codes(6, 5, 3), log_steps(row, col)),
        "b.f16": QTensor(codes(4, 3, 9), f16_steps(np.array([0.1, 0.2, 0.3, 0.4]))),
        "c.two bytes": QTensor(codes(3, 7, 900), log_steps(row[:3], None, row_grain=4)),
        "d.four bytes": QTensor(codes(1, 2, 1e6), f16_steps(np.array([1e-3]))),
        "e.scalar": Raw(np.float32([[1.5]]).reshape(()), "f32"),
        "f.bf16": Raw(raw_from_float32(rng.standard_normal((2, 3)).astype("f4"), "bf16"), "bf16"),
        "g.f16": Raw(rng.standard_normal(4).astype("<f2"), "f16"),
        "h.empty": QTensor(np.zeros((0, 4), np.int32), LogSteps(np.zeros(0, np.int32))),
        "i.rank 3": QTensor(codes(6, 2, 2), log_steps(row, col[:2])),
    }
    shapes = {
        n: t.codes.shape if isinstance(t, QTensor) else t.values.shape for n, t in tensors.items()
    }
    return tensors, {**shapes, "i.rank 3": (2, 3, 2)}


BYTES = ByteStream(Zlib(), (Shuffle(2),), "col")
SIDE = ByteStream(Brotli())
HEAD = {"family": "golf", "config": {"dim": 4, "nested": {"b": [1, 2], "a": "é"}}}


def small_parts(codes: CodeStream = BYTES) -> tuple[dict[str, Any], dict[str, bytes]]:
    tensors, shapes = small_tensors()
    manifest, streams = encode_tensors(
        tensors, shapes, dict.fromkeys(shapes, "vector"), codes, SIDE
    )
    return HEAD | manifest, streams


def small_blob(codes: CodeStream = BYTES) -> bytes:
    return assemble(*small_parts(codes))


@pytest.mark.parametrize("codes", [BYTES, ByteStream(Brotli()), RansCodes()])
def test_every_kind_of_tensor_comes_back_bit_for_bit(codes):
    tensors, shapes = small_tensors()
    artifact = loads(small_blob(codes))
    assert list(artifact.tensors) == list(tensors)
    assert (artifact.family, artifact.config) == ("golf", HEAD["config"])
    for name, w in artifact.weights().items():
        assert w.shape == shapes[name]
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w, tensors[name].dequantize().reshape(shapes[name]))
    assert artifact.container.overhead + sum(map(len, artifact.container.streams.values())) == len(
        small_blob(codes)
    )


def test_equal_content_gives_equal_bytes_whatever_the_order_of_keys():
    manifest, streams = small_parts()

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: turned(v) for k, v in reversed(list(value.items()))}
        return [turned(v) for v in value] if isinstance(value, list) else value

    assert list(turned(manifest)) != list(manifest)
    assert assemble(turned(manifest), streams) == assemble(manifest, streams) == small_blob()


@pytest.mark.parametrize("codes", [BYTES, RansCodes()])
def test_every_truncation_is_corrupt(codes):
    blob = small_blob(codes)
    for n in range(len(blob)):
        with pytest.raises(CorruptError):
            loads(blob[:n])
    for tail in (b"\0", blob):
        with pytest.raises(CorruptError):
            loads(blob + tail)


@pytest.mark.parametrize("codes", [BYTES, RansCodes()])
def test_every_flipped_byte_is_corrupt(codes):
    blob = small_blob(codes)
    for at, mask in itertools.product(range(len(blob)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(blob)
        damaged[at] ^= mask
        with pytest.raises(CorruptError) as e:
            loads(bytes(damaged))
        assert e.value.message


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_noise_is_corrupt(noise, with_magic):
    with pytest.raises(CorruptError):
        loads((MAGIC + b"\1\0\0\0" if with_magic else b"") + noise)


# --- hostile files: every digest right, the content wrong -------------------------------------------


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
    "steps base out of range": change(A, rows=[1 << 20, 1]),
    "steps base is a fraction": change(A, rows=[0.5, 1]),
    "steps grain 0": change(A, rows=[0, 0]),
    "steps grain that overflows float32": change(A, rows=[0, 4000]),
    "steps of three numbers": change(A, rows=[0, 1, 2]),
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
    "no code settings": drop(top, "codes"),
    "code settings are text": change(top, codes="zlib"),
    "no side settings": drop(top, "side"),
}


def refused(blob: bytes) -> None:
    """`loads` must refuse quickly, with little memory and without a warning of numpy's."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError) as e:
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
    manifest, streams = small_parts(RansCodes())
    LIES[lie](manifest)
    refused(assemble(manifest, streams))


CODE_STREAMS = [RansCodes(), *(ByteStream(make_codec(c)) for c in sorted(CODECS))]


@pytest.mark.parametrize("codes", CODE_STREAMS, ids=["rans", *sorted(CODECS)])
def test_many_codes_from_few_bytes_are_not_believed(codes):
    # The rows are all there (zeros pack well), so only the code stream can give the lie away.
    rows = 1 << 14
    tensors = {"t": QTensor(np.ones((rows, 1), np.int32), LogSteps(np.zeros(rows, np.int32)))}
    manifest, streams = encode_tensors(tensors, {"t": (rows, 1)}, {"t": "head"}, codes, SIDE)
    manifest["tensors"][0]["shape"] = [rows, 1 << 14]
    refused(assemble(HEAD | manifest, streams))


@pytest.mark.parametrize("name", ["rows", "cols", "codes", "raw"])
@pytest.mark.parametrize("data", [b"", b"\0", b"x" * 50, Brotli(5).encode(bytes(200_000_000))])
def test_a_foreign_stream_is_corrupt(name, data):
    manifest, streams = small_parts()
    refused(assemble(manifest, {**streams, name: data}))
    refused(assemble(manifest, {n: d for n, d in streams.items() if n != name}))


@pytest.mark.parametrize("value", [0x0000, 0x7C00, 0xFE00, 0xBC00])
def test_steps_that_are_no_steps_are_corrupt(value):
    # zero, infinite, not a number, negative: the weights would be garbage
    steps = f16_steps(np.array([1.0]))
    steps.row_f16.view(np.uint16)[0] = value
    tensors = {"t": QTensor(np.ones((1, 3), np.int32), steps)}
    manifest, streams = encode_tensors(tensors, {"t": (1, 3)}, {"t": "head"}, BYTES, SIDE)
    refused(assemble(HEAD | manifest, streams))


def framed(
    manifest_text: bytes, *, packed_size: int | None = None, size: int | None = None
) -> bytes:
    """A file with this manifest and no streams."""
    packed = Brotli(5).encode(manifest_text)
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


def test_messages_say_what_is_wrong(tmp_path):
    blob = small_blob()
    with pytest.raises(CorruptError, match=r"has 1,?\d* bytes|truncated"):
        parse(blob[:-17])
    with pytest.raises(CorruptError, match="appended"):
        parse(blob + b"x")
    with pytest.raises(CorruptError, match="version 2"):
        parse(blob[:4] + b"\2" + blob[5:])
    raw = small_parts()[1]["raw"]
    with pytest.raises(CorruptError, match="stream 'raw'"):
        parse(blob.replace(raw, bytes(len(raw))))
    path = tmp_path / "x.golf"
    path.write_bytes(blob)
    assert is_artifact(path)
    assert not is_artifact(tmp_path / "none")
    assert load(path).container.sha256 == hashlib.sha256(blob).hexdigest()
    for missing in (tmp_path / "none.golf", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            load(missing)


# --- golden files ----------------------------------------------------------------------------------

# Written once by golfpack 0.1.0 and never again: (sha256 of the file, sha256 of its weights).
GOLDENS = {
    "v1-bytes.golf": (
        "92fd72054953d834f5f4d803178126be0f97a18732efd89a795bd41cadc060a3",
        "0c3c1ad058ef1d49abbb872fcc1cb4074356887760a8018e9d32a4f87b3b8258",
    ),
    # Recipe rd on the tests' tiny model, 12,000 bytes: rANS codes, log steps of rows and columns.
    "v1-rans.golf": (
        "414ccc8d98e89e08005f9fea77b8efbb3c943d9b5484eb4676fa594610d94f76",
        "231714022ceae51bab19573bc29042019b7cc88dece9d7cc1ca6077409a5cdce",
    ),
}


def weights_digest(weights: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, w in weights.items():
        digest.update(json.dumps([name, list(w.shape)]).encode())
        digest.update(w.astype("<f4").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_files_decode_for_ever(name):
    artifact = load(GOLDEN / name)
    assert artifact.container.sha256 == GOLDENS[name][0]
    assert weights_digest(artifact.weights()) == GOLDENS[name][1]


def test_every_golden_file_is_listed():
    assert {p.name for p in GOLDEN.glob("*.golf")} == set(GOLDENS)


@pytest.fixture(params=["flush denormals", "float64 by default", "three threads"])
def float_environment(request):
    """Other settings of torch's than the usual, put back afterwards."""
    before = torch.get_default_dtype(), torch.get_num_threads()
    match request.param:
        case "flush denormals":
            if not torch.set_flush_denormal(True):
                pytest.skip("this processor cannot flush denormals")
        case "float64 by default":
            torch.set_default_dtype(torch.float64)
        case "three threads":
            torch.set_num_threads(3)
    yield
    torch.set_flush_denormal(False)
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("float_environment")
@pytest.mark.parametrize("name", GOLDENS)
def test_golden_files_decode_alike_in_any_float_environment(name):
    assert weights_digest(load(GOLDEN / name).weights()) == GOLDENS[name][1]


@pytest.mark.usefixtures("float_environment")
@pytest.mark.parametrize("codes", [BYTES, RansCodes()])
def test_every_kind_of_tensor_decodes_alike_in_any_float_environment(codes):
    tensors, shapes = small_tensors()
    # The smallest float16 step is a denormal; as a float32 it is not.
    tensors["j.smallest step"] = QTensor(np.ones((1, 3), np.int32), f16_steps(np.array([0.0])))
    shapes["j.smallest step"] = (1, 3)
    roles = dict.fromkeys(shapes, "vector")
    manifest, streams = encode_tensors(tensors, shapes, roles, codes, SIDE)
    weights = loads(assemble(HEAD | manifest, streams)).weights()
    assert weights_digest(weights) == ANY_ENVIRONMENT


# sha256 of the weights above, from a processor that keeps denormals.
ANY_ENVIRONMENT = "66e6ec9164c5d48e239065dc44582b9b062f3ca2b38c1a7437895a3a7171f4bc"


_BARE = """
import sys
for name in ("torch", "scipy", "numba", "typer", "rich", "safetensors", "sentencepiece"):
    sys.modules[name] = None  # an import of it now raises ImportError
from golfpack.packer.loader import load
for path in sys.argv[1:]:
    weights = load(path).weights()
    print(len(weights), sum(w.size for w in weights.values()))
"""


def test_the_loader_needs_numpy_and_the_codecs_only(tmp_path):
    (tmp_path / "rans.golf").write_bytes(small_blob(RansCodes()))
    paths = [*sorted(GOLDEN.glob("*.golf")), tmp_path / "rans.golf"]
    run = subprocess.run(
        [sys.executable, "-c", _BARE, *map(str, paths)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(paths)


def test_make_codec_is_what_the_manifest_is_read_with():
    manifest, _ = small_parts()
    assert make_codec(json.loads(json.dumps(manifest["codes"]["codec"]))) == BYTES.codec
