"""The per-tensor table: its columns, named and explained once for terminal, docs and the HTML page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands import this file, and nothing heavy, to print --help
    from golfpack.measure.tensors import TensorReport

# Values that look wrong and are not, by column: what makes them odd, and the line that explains them
# wherever one is shown.
ODD: "dict[str, tuple[Callable[[float], bool], str]]" = {
    "rel_err": (
        lambda v: v > 1,
        "rel_err above 1 (SQNR below 0): at few bits error feedback moves errors to where inputs have "
        "no power. The weights end far off, what the layer computes does not: H err is what inputs see.",
    ),
    "bits_over_rd": (
        lambda v: v < 0,
        "over R(D) below 0: the bound is that of independent rows, each Gaussian with one variance. The "
        "coder knows more of real weights: columns of different sizes, heavier tails.",
    ),
    "bits_over_two_sided": (
        lambda v: v < 0,
        "two-sided below 0: the bound is that of Gaussian weights whose variances are a row's times a "
        "column's. The coder knows more of real weights.",
    ),
}
# This many tensors stand out as those that lost most.
WORST = 5


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: of the field of `TensorReport` (and of `Group`) that it shows.
        header: short, for the table's first line.
        explain: what it means, one line.
        format: a format specification for the value, or "x" for a shape such as 64x128.
        importance: where the table is too wide for the terminal, low ones are left out first.
        left: whether its cells are aligned to the left, as text is.
    """

    name: str
    header: str
    explain: str
    format: str
    importance: int
    left: bool = False

    def text(self, row: Any) -> str:
        """The cell of a row; "-" where there is no value."""
        value = getattr(row, self.name)
        if value is None:
            return "-"
        return "x".join(map(str, value)) if self.format == "x" else format(value, self.format)


COLUMNS: dict[str, Column] = {
    c.name: c
    for c in (
        Column("name", "tensor", "name of the tensor in the checkpoint", "", 99, left=True),
        Column("role", "role", "what the tensor does in the network", "", 60, left=True),
        Column("block", "block", "index of its block; - outside of blocks", "d", 20),
        Column("shape", "shape", "its dimensions, outputs first", "x", 50),
        Column("scheme", "scheme", "code width in use and kind of steps", "", 70, left=True),
        Column("step_min", "step from", "its smallest quantization step", ".2g", 22),
        Column("step_max", "to", "its largest quantization step", ".2g", 21),
        Column("bytes", "bytes", "share of the file, side information included", ",d", 98),
        Column("side_bytes", "side", "bytes of it that are steps and row order", ",d", 25),
        Column("bpw", "bpw", "bits per weight: 8 bytes / weights", ".2f", 90),
        Column("entropy", "entropy", "of its codes at order 0, bits per weight", ".2f", 30),
        Column("bits_over_rd", "over R(D)", "bpw above Shannon's bound (scalar: 0.25)", ".2f", 15),
        Column(
            "bits_over_two_sided", "two-sided", "the same where errors of rows add up", ".2f", 14
        ),
        Column("rel_err", "rel_err", "|W - Wq| / |W|, Frobenius norms", ".4f", 80),
        Column("sqnr_db", "SQNR dB", "signal to quantization noise", ".1f", 75),
        Column("hessian_err", "H err", "tr(E H E^T) / tr(W H W^T), as inputs see it", ".2g", 55),
        Column("kl_share", "KL share", "of the expected KL that all tensors cause", ".1%", 85),
        Column("predicted_kl", "KL", "expected KL it causes, nats per token", ".2g", 24),
        Column("zeros", "zeros", "fraction of codes that are 0", ".1%", 65),
        Column("ones", "+-1s", "fraction of codes that are 1 or -1", ".1%", 40),
        Column("clipped", "clipped", "fraction of codes at the scheme's limit", ".2%", 35),
        Column("kurtosis", "kurtosis", "excess, of the float weights; Gaussian: 0", ".1f", 28),
        Column("trace_h", "tr H", "power of its inputs per token", ".3g", 18),
        Column("dead_columns", "dead", "inputs that calibration never saw active", "d", 19),
        Column("worst_row", "row", "the row with the largest relative error", "d", 16),
        Column("worst_row_err", "its err", "|w - wq| / |w| of that row", ".3f", 17),
        Column("fallback", "fallback", "what was done in place of the recipe", "", 10, left=True),
        Column("tensors", "tensors", "how many tensors", "d", 57),
        Column("params", "params", "how many weights", ",d", 58),
    )
}
# Tables by the kind of their rows. `golfpack inspect --columns` chooses others.
TENSOR_COLUMNS = (
    "name", "role", "shape", "scheme", "bytes", "bpw", "zeros", "rel_err", "sqnr_db", "kl_share",
)  # fmt: skip
GROUP_COLUMNS = ("tensors", "params", "bytes", "bpw", "rel_err", "sqnr_db", "kl_share")
GROUPINGS = ("role", "block")
# What a group has of its worst tensor, and what the line below a table calls it.
OF_THE_WORST = {"rel_err": "rel_err", "sqnr_db": "SQNR"}


@dataclass(frozen=True)
class Group:
    """Tensors of one role or of one block.

    Attributes:
        role, block: what they share; the other is None.
        tensors, params, bytes: sums over them.
        bpw: bits per weight of all of them.
        rel_err, sqnr_db: of the worst tensor; None where no error is known.
        predicted_kl, kl_share: sums over them; None where none is known.
    """

    role: str | None
    block: int | None
    tensors: int
    params: int
    bytes: int
    bpw: float
    rel_err: float | None
    sqnr_db: float | None
    predicted_kl: float | None
    kl_share: float | None

    @property
    def name(self) -> str:
        """What to sort by."""
        return self.role or ("" if self.block is None else f"{self.block:06d}")


def grouped(rows: "Sequence[TensorReport]", by: str) -> list[Group]:
    """Groups in the order of their first tensors; `by` is one of GROUPINGS."""
    keys = dict.fromkeys(getattr(r, by) for r in rows)
    return [_group([r for r in rows if getattr(r, by) == key], by) for key in keys]


def _group(rows: "Sequence[TensorReport]", by: str) -> Group:
    params, size = sum(prod(r.shape) for r in rows), sum(r.bytes for r in rows)
    return Group(
        role=rows[0].role if by == "role" else None,
        block=rows[0].block if by == "block" else None,
        tensors=len(rows),
        params=params,
        bytes=size,
        bpw=8 * size / max(params, 1),
        rel_err=_over(max, [r.rel_err for r in rows]),
        sqnr_db=_over(min, [r.sqnr_db for r in rows]),
        predicted_kl=_over(sum, [r.predicted_kl for r in rows]),
        kl_share=_over(sum, [r.kl_share for r in rows]),
    )


def _over(
    combine: Callable[[Sequence[float]], float], values: Sequence[float | None]
) -> float | None:
    known = [v for v in values if v is not None]
    return combine(known) if known else None


def column_names(known: Sequence[str]) -> dict[str, str]:
    """Everything that means a column, in small letters -> its name: the name itself, its heading."""
    columns = [COLUMNS[name] for name in known]
    return {c.header.casefold(): c.name for c in columns} | {c.name: c.name for c in columns}


def ordered(rows: Sequence[Any], by: str | None) -> list[Any]:
    """Rows by a column: figures from the most to the least, text from A to Z, what is unknown last.

    None leaves them as they are.
    """
    if by is None:
        return list(rows)
    known = [r for r in rows if getattr(r, by) is not None]
    unknown = [r for r in rows if getattr(r, by) is None]
    return sorted(known, key=lambda r: getattr(r, by), reverse=not COLUMNS[by].left) + unknown


def oddities(rows: Sequence[Any], names: Sequence[str]) -> list[str]:
    """What explains values that look wrong, of those columns of the rows that are shown."""
    # SQNR is rel_err in other words.
    shown = {"rel_err" if n == "sqnr_db" else n for n in names}
    return [
        says
        for name, (odd, says) in ODD.items()
        if name in shown and any(odd(v) for r in rows if (v := getattr(r, name, None)) is not None)
    ]


def worst(rows: "Sequence[TensorReport]") -> frozenset[str]:
    """Names of the tensors that lost most: by expected KL, or by relative error where none is known."""
    by = "kl_share" if any(r.kl_share for r in rows) else "rel_err"
    lost = [r for r in rows if getattr(r, by)]
    return frozenset(r.name for r in sorted(lost, key=lambda r: -getattr(r, by))[:WORST])
