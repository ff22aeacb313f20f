"""Every byte of an artifact belongs to a tensor or to the frame, and labels tell what a tensor is."""

import numpy as np
import pytest

from golfpack.packer.artifact import assemble
from golfpack.packer.codestreams import ByteStream, CodeGroup, RansCodes
from golfpack.packer.coding.codecs import Brotli
from golfpack.packer.ir import LowRank, PackedTensor, QTensor, Raw
from golfpack.packer.loader import Artifact, loads
from golfpack.packer.steps import F16Steps, f16_steps, log_steps
from golfpack.packer.streams import encode_tensors
from golfpack.report.tensors import tensor_reports


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


@pytest.mark.parametrize(
    "groups",
    [
        [CodeGroup(tuple(TENSORS)[:-1], RansCodes())],
        [CodeGroup(("log", "group"), RansCodes()), SORTED, CodeGroup(("awq",), RansCodes()),
         CodeGroup(("zeros",), ByteStream(Brotli()))],
    ],
)  # fmt: skip
def test_the_bytes_of_tensors_and_frame_are_the_file(groups):
    found = artifact(*groups)
    rows = tensor_reports(found)
    size = sum(r.bytes for r in rows) + found.container.overhead
    assert size == found.container.size
    assert all(0 <= r.side_bytes <= r.bytes for r in rows)


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
