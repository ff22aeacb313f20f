"""Any tensors under any coding come back; how `encode` groups, sorts and chooses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from artifact_sample import BYTES, SIDE, one_group, quantized, small_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.packer.autocode import Coding, candidates, choose_coding
from golfpack.packer.format.codecs import CODECS, Brotli, make_codec
from golfpack.packer.format.codestreams import (
    ByteStream,
    CodeGroup,
    RansCodes,
    encode_group,
    sortable,
)
from golfpack.packer.format.container import VERSION
from golfpack.packer.format.filters import Shuffle
from golfpack.packer.format.loader import Artifact, loads
from golfpack.packer.format.steps import BaselineEncoder, LogSteps, StepField, f16_steps
from golfpack.packer.format.streams import decode_tensors, encode_tensors
from golfpack.packer.format.tensors import LowRank, PackedTensor, QTensor, Raw
from golfpack.packer.passes.encode import Encode
from golfpack.packer.passes.policy import Policy
from golfpack.packer.passes.quantize import Clip, Round, Sense, Steps
from golfpack.packer.state import PackState, run_passes

# --- any tensors, any coding -----------------------------------------------------------------------


@st.composite
def step_fields(draw: st.DrawFn, rows: int, cols: int) -> StepField:
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def logs(n: int) -> np.ndarray:
        return (draw(st.integers(-99, 99)) + 3 * rng.integers(0, 80, n)).astype(np.int32)

    col = logs(cols) if draw(st.booleans()) else None
    if draw(st.booleans()):
        return LogSteps(logs(rows), col)
    group = draw(st.none() | st.integers(1, 9))
    shape = rows if group is None else (rows, -(-cols // group))
    return replace(f16_steps(np.exp(3 * rng.standard_normal(shape)), group), col_log=col)


@st.composite
def matrices(draw: st.DrawFn, rows: int, cols: int) -> QTensor:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    size = draw(st.sampled_from([0.0, 0.4, 3.0, 300.0, 1e5]))
    codes = np.rint(size * rng.standard_normal((rows, cols))).astype(np.int32)
    return QTensor(codes, draw(step_fields(rows, cols)))


@st.composite
def packed(draw: st.DrawFn) -> PackedTensor:
    rows, cols = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    if draw(st.integers(0, 3)) == 0:
        return Raw(np.arange(rows * cols, dtype="<f4").reshape(rows, cols), "f32")
    t = draw(matrices(rows, cols))
    if not draw(st.booleans()):
        return t
    rank = draw(st.integers(1, 4))
    return replace(t, correction=LowRank(draw(matrices(rank, rows)), draw(matrices(rank, cols))))


@st.composite
def codings(draw: st.DrawFn, tensors: dict[str, PackedTensor]) -> list[CodeGroup]:
    """A random coding of random groups, with rows sorted in some tensors of byte streams."""
    names = quantized(tensors)
    chosen = [draw(st.integers(0, 2)) for _ in names]
    groups = []
    for at in sorted(set(chosen)):
        mine = tuple(n for n, c in zip(names, chosen, strict=True) if c == at)
        stream, sort = RansCodes(), frozenset[str]()
        if draw(st.integers(0, 3)):
            filters = draw(st.sampled_from([(), (Shuffle(2),), (Shuffle(3), Shuffle(4))]))
            codec = make_codec(draw(st.sampled_from(sorted(CODECS))))
            stream = ByteStream(codec, filters, draw(st.sampled_from(["row", "col"])))
            sort = frozenset(n for n in mine if draw(st.booleans()))
        groups.append(CodeGroup(mine, stream, sort))
    return groups


def assert_same(a: PackedTensor, b: PackedTensor) -> None:
    assert type(a) is type(b)
    np.testing.assert_array_equal(a.dequantize(), b.dequantize())
    if isinstance(a, QTensor) and isinstance(b, QTensor):
        np.testing.assert_array_equal(a.codes, b.codes)
        assert type(a.steps) is type(b.steps)
        for x, y in ((a.steps.row, b.steps.row), (a.steps.col_log, b.steps.col_log)):
            np.testing.assert_array_equal(x, y)
        assert (a.correction is None) == (b.correction is None)
        if a.correction is not None and b.correction is not None:
            assert_same(a.correction.a, b.correction.a)
            assert_same(a.correction.b, b.correction.b)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_what_is_encoded_comes_back(data):
    found = data.draw(st.lists(packed(), max_size=5))
    tensors = {f"t{i}": t for i, t in enumerate(found)}
    shapes = {
        n: t.codes.shape if isinstance(t, QTensor) else t.values.shape for n, t in tensors.items()
    }
    groups = data.draw(codings(tensors))
    manifest, streams = encode_tensors(tensors, shapes, dict.fromkeys(tensors, "x"), groups, SIDE)
    decoded = decode_tensors(manifest, streams, VERSION)
    assert list(decoded) == list(tensors)
    for name, (entry, t) in decoded.items():
        assert entry.shape == shapes[name]
        assert_same(t, tensors[name])


def test_how_codes_are_rounded_is_not_stored():
    steps = f16_steps(np.ones(3))
    known = replace(steps, encoder=BaselineEncoder(np.ones(3, "f4"), np.ones(3, "f4")))
    files = []
    for field in (steps, known):
        t = {"t": QTensor(np.ones((3, 2), np.int32), field)}
        files.append(encode_tensors(t, {"t": (3, 2)}, {"t": "head"}, one_group(t, BYTES), SIDE))
    assert files[0] == files[1]


def test_sorted_rows_compress_better_where_rows_resemble_each_other():
    rng = np.random.default_rng(0)
    kinds = np.rint(9 * rng.standard_normal((8, 64)))
    codes = (kinds[rng.integers(0, 8, 512)] + (rng.random((512, 64)) < 0.02)).astype(np.int32)
    tensors = {"t": QTensor(codes, f16_steps(np.ones(512)))}
    stream = ByteStream(Brotli(), (), "col")
    plain = encode_group(CodeGroup(("t",), stream), tensors)
    ordered = encode_group(CodeGroup(("t",), stream, frozenset({"t"})), tensors)
    assert len(ordered.data) < 0.5 * len(plain.data)
    assert sorted(ordered.orders["t"]) == list(range(512))


# --- the pass --------------------------------------------------------------------------------------

SDCLIP = (
    {"roles": ["vector"], "scheme": "keep", "dtype": "f16"},
    {"scheme": "int", "bits": 6, "clip": {"id": "sd", "k": 12.0}},
)


@pytest.fixture(scope="module")
def rounded(make_state) -> PackState:
    return run_passes([Policy(SDCLIP), Sense(), Clip(), Steps(), Round()], make_state())


def encoded(state: PackState, **options: Any) -> tuple[PackState, Artifact]:
    done = run_passes([Encode(**options)], state)
    assert done.blob is not None
    artifact = loads(done.blob)
    for name, (_, t) in artifact.tensors.items():
        expected = state.tensors[name].dequantize()
        np.testing.assert_array_equal(t.dequantize().ravel(), expected.ravel())
    return done, artifact


@pytest.mark.parametrize("options", [{"codec": "rans"}, {"codec": "lzma", "order": "col"}], ids=str)
def test_a_stream_per_role(rounded, options):
    _, artifact = encoded(rounded, group_by="role", **options)
    roles = {}
    for entry, t in artifact.tensors.values():
        if isinstance(t, QTensor):
            roles.setdefault(entry.code_stream, set()).add(entry.role)
    streams = {s for s in artifact.container.streams if s.startswith("codes")}
    assert streams == set(roles) == {f"codes.{i}" for i in range(len(roles))}
    assert all(len(r) == 1 for r in roles.values())
    assert len(set.union(*roles.values())) == len(roles)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (False, set()),
        (("embed", "mlp_in"), {"embed", "mlp_in"}),
        (True, {"embed", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out"}),
    ],
)
def test_rows_are_sorted_in_the_roles_that_are_named(rounded, sort, expected):
    _, artifact = encoded(rounded, codec="zstd", sort=sort)
    found = {e.role for e, _ in artifact.tensors.values() if "sorted" in e.fields}
    assert found == expected
    assert ("perms" in artifact.container.streams) == bool(expected)


@pytest.mark.parametrize("codec", ["rans", "auto"])
@pytest.mark.parametrize(
    "options",
    [{"filters": ("shuffle",)}, {"order": "col"}, {"sort": True}, {"sort": ("embed",)}],
    ids=str,
)
def test_options_that_would_do_nothing_are_refused(codec, options):
    with pytest.raises(
        UsageError, match=f"encode.{next(iter(options))} does nothing with codec '{codec}'"
    ):
        Encode(codec=codec, **options)


def test_matrices_too_tall_to_sort_keep_their_order():
    tensors = {
        n: QTensor(np.zeros((rows, 1), np.int32), f16_steps(np.ones(rows)))
        for n, rows in (("one", 1), ("some", 3), ("most", 1 << 14), ("more", (1 << 14) + 1))
    }
    assert sortable(tensors) == {"some", "most"}


def test_auto_is_no_larger_than_any_candidate(rounded):
    done, artifact = encoded(rounded, codec="auto")
    assert done.coding is not None
    assert done.coding.complete
    assert done.warnings == ()
    size = sum(len(s) for n, s in artifact.container.streams.items() if n in ("codes", "perms"))
    tried = [stream for stream, sort in candidates() if not sort]
    assert len(set(tried)) == len(tried) > 16
    tensors = {n: t for n, t in rounded.tensors.items() if isinstance(t, QTensor)}
    for stream in tried[::5]:
        assert size <= len(encode_group(CodeGroup(tuple(tensors), stream), tensors).data)


def test_auto_prefers_a_sorted_byte_stream_where_rows_repeat():
    rng = np.random.default_rng(0)
    kinds = np.rint(30 * rng.standard_normal((4, 96))).astype(np.int32)
    tensors = {"t": QTensor(kinds[rng.integers(0, 4, 400)], f16_steps(np.ones(400)))}
    coding = choose_coding([("t",)], tensors, SIDE, 1e9, threads=1)
    assert isinstance(coding.groups[0].stream, ByteStream)
    assert coding.complete


def test_auto_out_of_time_takes_the_first_and_says_so(rounded):
    done, artifact = encoded(rounded, codec="auto", time_limit=0.0)
    assert artifact.container.manifest["codes"] == RansCodes().config()
    assert done.coding is not None
    assert not done.coding.complete
    assert "time_limit" in done.warnings[0]
    # A later round that reuses the choice says so as well.
    again, _ = encoded(replace(rounded, coding=done.coding), codec="auto", time_limit=0.0)
    assert again.warnings == done.warnings


def test_a_choice_is_made_once_and_reused(rounded):
    names = tuple(n for n, t in rounded.tensors.items() if isinstance(t, QTensor))
    chosen = Coding((CodeGroup(names, ByteStream(make_codec("zlib"), (), "col")),), SIDE)
    done, artifact = encoded(replace(rounded, coding=chosen), codec="auto")
    assert done.coding == chosen
    assert artifact.container.manifest["codes"]["codec"]["id"] == "zlib"
    # A coding of other tensors is not one for these.
    other = Coding((CodeGroup(names[1:], RansCodes()),), SIDE)
    done, _ = encoded(replace(rounded, coding=other), codec="zstd")
    assert done.coding is not None
    assert done.coding.covers(names)


def test_the_choice_does_not_depend_on_threads():
    tensors = {n: t for n, t in small_tensors()[0].items() if isinstance(t, QTensor)}
    groups = [("a.log", "b.f16"), ("l.corrected",)]
    one, two = (choose_coding(groups, tensors, SIDE, 1e9, threads=n) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "brotli", "sort": ("mlp",)},
        {"codec": "auto", "time_limit": -1.0},
        {"codec": "auto", "time_limit": float("nan")},
        {"codec": {"id": "auto"}},
    ],
)
def test_options_that_make_no_sense_are_the_users_mistake(options):
    with pytest.raises(UsageError):
        Encode(**options)


def test_nothing_quantized_has_no_code_streams():
    raw = {"t": Raw(np.ones(3, "<f4"), "f32")}
    manifest, streams = encode_tensors(raw, {"t": (3,)}, {"t": "vector"}, [], SIDE)
    assert set(streams) == {"raw"}
    assert_same(decode_tensors(manifest, streams, VERSION)["t"][1], raw["t"])
