"""Every byte of an artifact belongs to a tensor or to the frame, and labels tell what a tensor is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.measure.tensor_bytes import apportioned
from golfpack.measure.tensor_errors import errors, excess_kurtosis
from golfpack.measure.tensors import Known, histogram, tensor_reports
from golfpack.packer.format.codecs import Brotli
from golfpack.packer.format.codestreams import ByteStream, CodeGroup, RansCodes
from golfpack.packer.format.container import assemble
from golfpack.packer.format.loader import Artifact, load, loads
from golfpack.packer.format.steps import F16Steps, f16_steps, log_steps
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import LowRank, PackedTensor, QTensor, Raw
from golfpack.packer.quantize.sensitivity import Sensitivity
from golfpack.packer.recipe import load_recipe, recipe_names
from golfpack.packer.state import run_passes

GOLDEN = sorted((Path(__file__).resolve().parents[1] / "golden").glob("*.golf"))


def codes(rows: int, cols: int, size: float) -> np.ndarray:
    rng = np.random.default_rng(rows)
    return np.rint(size * rng.standard_normal((rows, cols))).astype(np.int32)


def limited(rows: int, cols: int, limit: int) -> np.ndarray:
    return np.clip(codes(rows, cols, limit), -limit, limit)


ONES = {n: np.ones(n) for n in (2, 40, 50, 60)}
COLUMNS = np.arange(24, dtype=np.int32)
CORRECTION = LowRank(
    QTensor(limited(2, 50, 1), f16_steps(ONES[2])), QTensor(limited(2, 24, 7), f16_steps(ONES[2]))
)
TENSORS: dict[str, tuple[PackedTensor, str]] = {
    "log": (QTensor(limited(60, 24, 31), log_steps(ONES[60], np.ones(24))), "int6 log+col"),
    "row": (QTensor(limited(50, 24, 15), f16_steps(ONES[50])), "int5 row"),
    "group": (QTensor(limited(40, 24, 1), f16_steps(np.ones((40, 3)), 8)), "ternary/8"),
    "awq": (QTensor(limited(50, 24, 7), F16Steps(ONES[50].astype("f2"), None, COLUMNS)), "int4 row+col"),
    "lqer": (
        QTensor(limited(50, 24, 63), f16_steps(np.ones((50, 2)), 16), CORRECTION),
        "int7/16+r2",
    ),
    "zeros": (QTensor(np.zeros((40, 3), np.int32), f16_steps(ONES[40])), "ternary row"),
    "kept": (Raw(np.ones(30, "<f2"), "f16"), "f16"),
}  # fmt: skip


def artifact(*groups: CodeGroup) -> Artifact:
    tensors = {n: t for n, (t, _) in TENSORS.items()}
    shapes = {
        n: t.codes.shape if isinstance(t, QTensor) else t.values.shape for n, t in tensors.items()
    }
    roles = dict.fromkeys(tensors, "vector")
    manifest, streams = encode_tensors(tensors, shapes, roles, groups, ByteStream(Brotli()))
    return loads(assemble({"family": "golf", "config": {}} | manifest, streams))


SORTED = CodeGroup(("row", "lqer"), ByteStream(Brotli(), (), "col"), frozenset({"lqer"}))


def assert_adds_up(found: Artifact) -> None:
    rows = tensor_reports(found)
    assert sum(r.bytes for r in rows) + found.container.overhead == found.container.size
    assert all(type(r.bytes) is int and 0 <= r.side_bytes <= r.bytes for r in rows)


@pytest.mark.parametrize(
    "groups",
    [
        [CodeGroup(tuple(TENSORS)[:-1], RansCodes())],
        [CodeGroup(("log", "group"), RansCodes()), SORTED, CodeGroup(("awq",), RansCodes()),
         CodeGroup(("zeros",), ByteStream(Brotli()))],
    ],
)  # fmt: skip
def test_the_bytes_of_tensors_and_frame_are_the_file(groups):
    assert_adds_up(artifact(*groups))


@pytest.mark.parametrize("name", recipe_names())
def test_they_are_under_every_recipe(name, make_state):
    recipe = load_recipe(name)
    state = run_passes(recipe.prepare, make_state(30_000))
    done = run_passes(recipe.round, replace(state, limit=None))
    assert done.blob is not None
    assert_adds_up(loads(done.blob))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_they_are_in_every_format(path):
    assert_adds_up(load(path))


PARTS = st.lists(st.floats(0, 1e9), min_size=1, max_size=40).filter(lambda p: sum(p) > 0)


@given(total=st.integers(0, 1 << 40), parts=PARTS)
def test_apportioning_loses_nothing_and_is_fair(total, parts):
    named = {str(i): part for i, part in enumerate(parts)}
    out = apportioned(total, named)
    assert sum(out.values()) == total
    for name, part in named.items():
        assert abs(out[name] - total * part / sum(parts)) <= 1.001


def test_bytes_come_from_the_streams_that_hold_them():
    names = tuple(TENSORS)[:-1]
    found = artifact(*(CodeGroup((n,), RansCodes()) for n in names))
    rows = {r.name: r for r in tensor_reports(found)}
    for i, name in enumerate(names):
        alone = len(found.container.streams[f"codes.{i}"])
        assert abs(rows[name].bytes - rows[name].side_bytes - alone) <= 1
    # Sorting adds the order of rows to the side bytes of the tensor that was sorted.
    rest = tuple(n for n in names if n not in SORTED.names)
    plain, ordered = (
        {
            r.name: r.side_bytes
            for r in tensor_reports(artifact(CodeGroup(rest, RansCodes()), group))
        }
        for group in (CodeGroup(SORTED.names, SORTED.stream), SORTED)
    )
    assert ordered["lqer"] > plain["lqer"] + 40
    assert ordered["row"] == plain["row"]


def test_labels_tell_what_a_tensor_is():
    found = artifact(CodeGroup(tuple(TENSORS)[:-1], RansCodes()))
    assert {r.name: r.scheme for r in tensor_reports(found)} == {
        name: label for name, (_, label) in TENSORS.items()
    }


def test_figures_of_codes():
    codes = np.array([[-90, -1, 0, 1], [1, 0, 2, 70]], np.int32)
    tensor = QTensor(codes, F16Steps(np.array([0.5, 2.0], "f2"), None, np.array([0, 16, 0, -16])))
    manifest, streams = encode_tensors(
        {"t": tensor}, {"t": (2, 4)}, {"t": "mlp_in"}, [CodeGroup(("t",), RansCodes())],
        ByteStream(Brotli()),
    )  # fmt: skip
    found = loads(assemble({"family": "golf", "config": {}} | manifest, streams))
    (row,) = tensor_reports(found, Known({"t": 3}, limits={"t": 90}, fallbacks={"t": "because"}))
    assert (row.block, row.fallback, row.zeros, row.ones) == (3, "because", 0.25, 0.375)
    assert (row.clipped, row.step_min, row.step_max) == (0.125, 0.25, 4.0)
    assert row.histogram is not None
    assert (row.histogram.first, len(row.histogram.counts), sum(row.histogram.counts)) == (
        -64,
        129,
        8,
    )
    assert [row.histogram.counts[i] for i in (0, 63, 64, 65, 66, 128)] == [1, 1, 2, 2, 1, 1]
    assert histogram(np.zeros((0, 4), np.int32)).counts == []
    # The codes are known from the file alone, the limit is not.
    (alone,) = tensor_reports(found)
    assert (alone.ones, alone.clipped, alone.rel_err, alone.kurtosis) == (0.375, None, None, None)


@pytest.mark.parametrize("covariance", [False, True])
def test_errors_against_the_definitions(covariance):
    rng = np.random.default_rng(4)
    rows, cols = 5, 4
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    w[3] = 0
    q = w + 0.1 * rng.standard_normal((rows, cols)).astype(np.float32)
    x = rng.standard_normal((50, cols))
    x[:, 2] = 0
    h, g = x.T @ x / 50, rng.standard_normal((60, rows))
    cov = g.T @ g / 60
    weight = cov.diagonal().copy()
    known = Sensitivity(h, weight, None, True, cov if covariance else None)
    found, e = errors(q, w, known), (q - w).astype(np.float64)
    assert found.hessian_err == pytest.approx(np.trace(e @ h @ e.T) / np.trace(w @ h @ w.T))
    assert found.trace_h == pytest.approx(np.trace(h))
    assert found.dead_columns == 1
    expected = np.trace((cov if covariance else np.diag(weight)) @ e @ h @ e.T) / 2
    assert found.kl == pytest.approx(expected) == pytest.approx(known.kl(q - w))
    ratio = [np.linalg.norm(e[r]) / np.linalg.norm(w[r]) if r != 3 else 0 for r in range(rows)]
    assert (found.worst_row, found.worst_row_err) == (np.argmax(ratio), pytest.approx(max(ratio)))
    blind = errors(q, w, replace(known, measured=False))
    assert (blind.kl, blind.hessian_err, blind.rel_err) == (None, None, found.rel_err)


def test_kurtosis_of_known_distributions():
    rng = np.random.default_rng(5)
    assert excess_kurtosis(rng.standard_normal((400, 500))) == pytest.approx(0, abs=0.05)
    assert excess_kurtosis(3 + rng.laplace(size=(400, 500))) == pytest.approx(3, abs=0.2)
    assert excess_kurtosis(np.ones((3, 4))) is None


def test_kl_is_claimed_only_where_gradients_were_measured(make_state):
    recipe = load_recipe("rd")
    done = run_passes(recipe.round, replace(run_passes(recipe.prepare, make_state()), dial=0.05))
    assert done.blob is not None
    known = Known({}, done.floats, done.sensitivity, in_nats=True)
    rows = tensor_reports(loads(done.blob), known)
    assert sum(r.kl_share or 0 for r in rows) == pytest.approx(1)
    for row in tensor_reports(loads(done.blob), replace(known, in_nats=False)):
        assert row.predicted_kl is row.kl_share is None
        assert (row.hessian_err is None) == (row.role == "vector")
