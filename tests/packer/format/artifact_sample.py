"""A small artifact with one tensor of every kind a file can hold, under several codings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from golfpack.packer.format.codecs import Brotli, Lzma, Zlib, Zstd
from golfpack.packer.format.codestreams import ByteStream, CodeGroup, RansCodes
from golfpack.packer.format.container import assemble
from golfpack.packer.format.filters import Shuffle
from golfpack.packer.format.rans.context_model import CodeMatrix, ScaleModel, fine_codes
from golfpack.packer.format.rans.fit import fit_scales
from golfpack.packer.format.rawfloat import raw_from_float32
from golfpack.packer.format.steps import F16Steps, LogSteps, f16_steps, log_steps
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import LowRank, PackedTensor, QTensor, Raw, States
from golfpack.packer.format.trellis import FINE, path_order, quantizers

BYTES = ByteStream(Zlib(), (Shuffle(2),), "col")
SIDE = ByteStream(Brotli())
HEAD = {"family": "golf", "config": {"dim": 4, "nested": {"b": [1, 2], "a": "é"}}}


def small_tensors() -> tuple[dict[str, PackedTensor], dict[str, tuple[int, ...]]]:
    """The tensors and their shapes."""
    rng = np.random.default_rng(0)

    def codes(rows: int, cols: int, size: float) -> np.ndarray:
        return np.rint(size * rng.standard_normal((rows, cols))).astype(np.int32)

    def grouped(rows: int, groups: int) -> np.ndarray:
        return np.exp(rng.standard_normal((rows, groups)))

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
        "j.groups": QTensor(codes(4, 7, 3), f16_steps(grouped(4, 3), 3)),
        "k.columns": QTensor(
            codes(5, 4, 9), F16Steps(row[:5].astype("f2"), None, np.array([3, -8, 0, 4]))
        ),
    }
    a = QTensor(codes(2, 5, 1), f16_steps(np.array([0.01, 0.02])))
    b = QTensor(codes(2, 8, 4), f16_steps(grouped(2, 2), 4))
    groups = F16Steps(grouped(5, 3).astype("f2"), 3, np.arange(-4, 4))
    tensors["l.corrected"] = QTensor(codes(5, 8, 1), groups, LowRank(a, b))
    shapes = {
        n: t.codes.shape if isinstance(t, QTensor) else t.values.shape for n, t in tensors.items()
    }
    return tensors, {**shapes, "i.rank 3": (2, 3, 2)}


def with_states(t: QTensor, fine_from: int = FINE) -> QTensor:
    """A tensor with the same codes, but that they have states, and no zeros where there can be none."""
    states = States(fit_scales(t.codes, t.known), fine_from)
    matrix = QTensor(t.codes, t.steps, states=states).known
    return QTensor(without_barred(t.codes, matrix, states.scales), t.steps, states=states)


def without_barred(codes: np.ndarray, matrix: CodeMatrix, scales: ScaleModel) -> np.ndarray:
    """The codes with -1 for each zero that its quantizer does not hold."""
    codes, order, fine = codes.copy(), path_order(matrix.col_log), fine_codes(matrix, scales)
    for i in order:  # what stands before a column says which quantizer it has
        barred = (quantizers(codes, order, fine)[:, i] == 1) & fine[:, i] & (codes[:, i] == 0)
        codes[barred, i] = -1
    return codes


def quantized(tensors: Mapping[str, PackedTensor]) -> tuple[str, ...]:
    """Names of those that have codes."""
    return tuple(n for n, t in tensors.items() if isinstance(t, QTensor))


def one_group(
    tensors: Mapping[str, PackedTensor], stream: ByteStream | RansCodes
) -> list[CodeGroup]:
    """All codes in one stream."""
    return [CodeGroup(quantized(tensors), stream)]


_NAMES = quantized(small_tensors()[0])
# Names of codings -> groups of `small_tensors`.
CODINGS: dict[str, list[CodeGroup]] = {
    "bytes": [CodeGroup(_NAMES, BYTES)],
    "brotli": [CodeGroup(_NAMES, ByteStream(Brotli()))],
    "rans": [CodeGroup(_NAMES, RansCodes())],
    "groups": [
        CodeGroup(("a.log", "d.four bytes", "k.columns"), RansCodes()),
        CodeGroup(("b.f16", "j.groups"), ByteStream(Zstd(), (), "col"), frozenset({"j.groups"})),
        CodeGroup(("h.empty",), ByteStream(Brotli())),
        CodeGroup(
            ("c.two bytes", "i.rank 3", "l.corrected"),
            ByteStream(Lzma(), (Shuffle(3),)),
            frozenset({"i.rank 3", "l.corrected"}),
        ),
    ],
}


def small_parts(coding: str = "bytes") -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and streams of the sample."""
    tensors, shapes = small_tensors()
    roles = dict.fromkeys(shapes, "vector")
    manifest, streams = encode_tensors(tensors, shapes, roles, CODINGS[coding], SIDE)
    return HEAD | manifest, streams


def small_blob(coding: str = "bytes") -> bytes:
    """The sample as a file."""
    return assemble(*small_parts(coding))
