"""Bytes and speed of golfpack's code coder beside general compressors, on real quantization codes.

    python benchmarks/bench_coder.py X.golf CODES.npz ...

A .golf gives its own codes and steps. An .npz holds, per matrix NAME, `NAME/codes` (rows, cols)
integers and, where the steps are known, `NAME/row_log` and `NAME/col_log` as `CodeMatrix` has them.
Every coder gets all matrices of a file at once; byte coders get int8, in row-major and column-major
order. There -128 stands for a code outside -127..127, which follows its matrix in 4 bytes; a matrix with
over 1 in 64 of those goes as four byte planes. Speeds are codes per second on one core, best of three
for golfpack, one run for the others.
"""

import argparse
import lzma
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import brotli
import numpy as np
import zstandard
from numpy.typing import NDArray

from golfpack.packer.format.loader import load
from golfpack.packer.format.rans.codes import decode_codes, encode_codes
from golfpack.packer.format.rans.context_model import CodeMatrix
from golfpack.packer.format.steps import LogSteps
from golfpack.packer.format.tensors import QTensor

T = TypeVar("T")
Order = Literal["C", "F"]
Codes = list[NDArray[np.int32]]


@dataclass(frozen=True)
class CodeSet:
    """The codes of one artifact and what its decoder knows of them."""

    codes: Codes
    matrices: list[CodeMatrix]

    @property
    def count(self) -> int:
        """Codes in all."""
        return sum(q.size for q in self.codes)


@dataclass(frozen=True)
class Row:
    """One line of the table; speeds in codes per second, None where not measured."""

    coder: str
    size: float
    encode: float | None = None
    decode: float | None = None


def load_npz(path: Path) -> CodeSet:
    """Read the .npz format of this file's docstring."""
    with np.load(path) as arrays:
        names = sorted(key.removesuffix("/codes") for key in arrays if key.endswith("/codes"))
        codes = [np.ascontiguousarray(arrays[f"{name}/codes"], np.int32) for name in names]
        matrices = []
        for name, q in zip(names, codes, strict=True):
            rows, cols = q.shape
            row_log = arrays.get(f"{name}/row_log", np.zeros(rows, np.int32))
            col_log = arrays.get(f"{name}/col_log", np.zeros(cols, np.int32))
            matrices.append(CodeMatrix((rows, cols), row_log, col_log))
    return CodeSet(codes, matrices)


def load_golf(path: Path) -> CodeSet:
    """An artifact's quantized tensors. Float16 steps tell the coder nothing: their logs are zero."""
    tensors = [t for _, t in load(path).tensors.values() if isinstance(t, QTensor)]
    matrices = []
    for t in tensors:
        row_log, col_log = (np.zeros(n, np.int32) for n in t.codes.shape)
        if isinstance(t.steps, LogSteps):
            row_log = t.steps.row_log
            col_log = col_log if t.steps.col_log is None else t.steps.col_log
        matrices.append(CodeMatrix(t.codes.shape, row_log, col_log))
    return CodeSet([t.codes for t in tensors], matrices)


LOADERS: Mapping[str, Callable[[Path], CodeSet]] = {".npz": load_npz, ".golf": load_golf}


def golfpack_row(codes: CodeSet) -> Row:
    """This project's coder: side information and all."""
    encode, payload = _best_time(lambda: encode_codes(codes.codes, codes.matrices))
    decode, decoded = _best_time(lambda: decode_codes(payload, codes.matrices))
    if not all(np.array_equal(a, b) for a, b in zip(decoded, codes.codes, strict=True)):
        raise SystemExit("golfpack: the codes did not survive")
    return Row("golfpack", len(payload), codes.count / encode, codes.count / decode)


def entropy_row(codes: CodeSet) -> Row:
    """Order-0 entropy with a free table per matrix: no coder, a yardstick."""
    bits = 0.0
    for q in codes.codes:
        counts = np.unique(q, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / q.size)).sum())
    return Row("order-0 entropy per matrix", bits / 8)


def constriction_row(codes: CodeSet) -> Row | None:
    """Constriction's ANS, one categorical model a matrix, its table at 2 bytes a symbol."""
    if find_spec("constriction") is None:
        return None
    import constriction  # pyright: ignore[reportMissingImports]

    coder = constriction.stream.stack.AnsCoder()
    tables = 0
    start = time.perf_counter()
    for q in reversed(codes.codes):
        values, symbols, counts = np.unique(q, return_inverse=True, return_counts=True)
        if len(values) > 1:
            model = constriction.stream.model.Categorical(counts / q.size, perfect=False)
            coder.encode_reverse(symbols.reshape(-1).astype(np.int32), model)
        tables += 2 * len(values)
    seconds = time.perf_counter() - start
    size = 4 * len(coder.get_compressed()) + tables
    return Row("constriction ANS per matrix", size, codes.count / seconds)


def byte_rows(codes: CodeSet) -> list[Row]:
    """General compressors, in both orders."""
    rows = []
    for order, layout in ORDERS:
        data = _as_bytes(codes.codes, layout)
        for name, encode, decode in BYTE_CODERS:
            began = time.perf_counter()
            packed = encode(data)
            between = time.perf_counter()
            if decode(packed) != data:
                raise SystemExit(f"{name}: the bytes did not survive")
            ended = time.perf_counter()
            speeds = codes.count / (between - began), codes.count / (ended - between)
            rows.append(Row(f"{name}, {order}-major", len(packed), *speeds))
        if shutil.which("lrzip"):
            rows.append(Row(f"lrzip -z -L9, {order}-major", _lrzip_size(data)))
    return rows


ORDERS: tuple[tuple[str, Order], ...] = (("row", "C"), ("col", "F"))
BYTE_CODERS: tuple[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    ("brotli-11", lambda b: brotli.compress(b, quality=11, lgwin=24), brotli.decompress),
    ("zstd-22", zstandard.ZstdCompressor(level=22).compress, zstandard.decompress),
    ("lzma-9", lambda b: lzma.compress(b, preset=9), lzma.decompress),
    ("zlib-9", lambda b: zlib.compress(b, 9), zlib.decompress),
)


def _as_bytes(codes: Codes, order: Order) -> bytes:
    """Matrices in the form that suits byte coders best; see the top of this file."""
    parts = []
    for q in codes:
        flat = q.flatten(order)
        outside = np.abs(flat.astype(np.int64)) > 127
        if np.count_nonzero(outside) * 64 > flat.size:
            parts.append(flat.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes())
        else:
            parts.append(np.where(outside, -128, flat).astype(np.int8).tobytes())
            parts.append(flat[outside].astype("<i4").tobytes())
    return b"".join(parts)


def _lrzip_size(data: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "codes"), Path(folder, "codes.lrz")
        plain.write_bytes(data)
        command = ["lrzip", "-z", "-L9", "-q", "-o", str(packed), str(plain)]
        subprocess.run(command, check=True, capture_output=True)
        return packed.stat().st_size


def _best_time(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the best of three runs after one that compiles, and the result."""
    result = work()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def _print_table(path: Path, codes: CodeSet, rows: list[Row]) -> None:
    best = min(row.size for row in rows if row.coder.startswith("brotli-11"))
    print(f"\n{path.name}: {len(codes.codes)} matrices, {codes.count:,} codes")
    print(
        f"{'coder':<28}{'bytes':>12}{'bits/code':>11}{'vs brotli':>11}{'enc MB/s':>10}{'dec MB/s':>10}"
    )
    for row in rows:
        speeds = [f"{s / 1e6:10.1f}" if s else f"{'-':>10}" for s in (row.encode, row.decode)]
        bits, against = 8 * row.size / max(codes.count, 1), 100 * (row.size / best - 1)
        print(f"{row.coder:<28}{row.size:>12,.0f}{bits:>11.4f}{against:>+10.2f}%{''.join(speeds)}")


def main() -> None:
    """Print one table a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=", ".join(LOADERS))
    for path in parser.parse_args().files:
        if path.suffix not in LOADERS:
            parser.error(f"{path}: not one of {', '.join(LOADERS)}")
        codes = LOADERS[path.suffix](path)
        rows = [golfpack_row(codes), entropy_row(codes), *byte_rows(codes)]
        ans = constriction_row(codes)
        _print_table(path, codes, rows + ([ans] if ans else []))


if __name__ == "__main__":
    main()
