"""Shapes of models by name: blocks and their width, and a table of hashed tokens beside them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.train.run import training_of

# What layers x width says; everything else of a model is `--set model.NAME=VALUE`.
_MEASURES = frozenset({"num_layers", "dim", "num_heads", "num_kv_heads", "mlp_hidden"})
# Channels of a head, about; 64 from a width of 512 on, as in the challenge's baseline.
_HEAD_DIM, _WIDE_HEAD_DIM, _WIDE = 32, 64, 512
_LEAST_HEADS = 4
_WORDS = re.compile(r"([0-9]{1,3})x([0-9]{1,5})(?:\+([0-9]{1,8})x([0-9]{1,5})(x3)?)?")


@dataclass(frozen=True, order=True)
class Shape:
    """Blocks and their width, and a table of hashed tokens, if any.

    Attributes:
        dim: channels of the residual stream.
        layers: blocks.
        rows, width: of the table, in which each token and the one before it find a row that is added to
            the embedding (projected where it is narrower); 0 and 0: none.
        triples: whether each token and the two before it find another row there.
    """

    dim: int
    layers: int
    rows: int = 0
    width: int = 0
    triples: bool = False

    @property
    def name(self) -> str:
        """As it is typed: 6x256, 4x128+16384x64 or, with triples, 4x128+65536x64x3."""
        table = f"+{self.rows}x{self.width}{'x3' if self.triples else ''}" if self.rows else ""
        return f"{self.layers}x{self.dim}{table}"

    @property
    def plain(self) -> "Shape":
        """The same without a table."""
        return Shape(self.dim, self.layers)

    @property
    def table(self) -> tuple[int, int, bool]:
        """The table alone: rows, width and whether triples find rows, too."""
        return self.rows, self.width, self.triples


def read_shape(text: str) -> Shape:
    """The shape that a name such as "6x256" stands for. Raises UsageError for what is none."""
    match = _WORDS.fullmatch(text.strip())
    found = None if match is None else [int(n) for n in match.groups()[:4] if n is not None]
    if match is None or found is None or not all(found):
        raise UsageError(
            f"{text!r} is no shape",
            "layers x width, and rows x width of a table of token pairs, x3 with triples: 6x256, "
            "4x128+16384x64 or 4x128+65536x64x3",
        )
    return Shape(found[1], found[0], *found[2:], triples=match[5] is not None)


def options_of(family: Family, shape: Shape) -> dict[str, Any]:
    """The options of a model of this shape, in the proportions of the family's own.

    Raises:
        UsageError: the width does not divide into heads, or the family has other measures, or no table.
    """
    training = training_of(family)
    own = training.shape
    if not own or own.keys() - _MEASURES:
        raise UsageError(
            f"a layers x width shape does not say all of a {family.name} model",
            "use a family whose models have one width: golf, llama, gpt2 or alph",
        )
    sharing = own["num_heads"] // own.get("num_kv_heads", own["num_heads"])
    heads = _heads(shape.dim, sharing)
    found = {
        "num_layers": shape.layers, "dim": shape.dim, "num_heads": heads,
        "mlp_hidden": own["mlp_hidden"] * shape.dim // own["dim"],
    }  # fmt: skip
    if shape.rows and training.token_table is None:
        raise UsageError(
            f"{shape.name}: {family.name} models have no table of token pairs",
            f"use {shape.plain.name}, or the family golf",
        )
    if shape.rows and training.token_table is not None:
        table = shape.rows, shape.width, shape.triples
        found |= zip(training.token_table, table, strict=True)
    return found | ({"num_kv_heads": heads // sharing} if "num_kv_heads" in own else {})


def _heads(dim: int, sharing: int) -> int:
    """How many heads a width has: even ones in size and, where they share KV heads, in number."""
    wanted = _HEAD_DIM if dim < _WIDE else _WIDE_HEAD_DIM
    known = [h for h in range(_LEAST_HEADS, dim, sharing) if dim % (2 * h) == 0]
    if dim % 16 or not known:
        raise UsageError(f"a width of {dim} does not divide into heads", "use a multiple of 16")
    return min(known, key=lambda h: abs(log(dim / h / wanted)))


def refuse_measures(family: Family, settings: Mapping[str, Any]) -> None:
    """Raise UsageError where `--set model.` says what shapes say."""
    said = _MEASURES | set(training_of(family).token_table or ())
    if told := sorted(settings.keys() & said):
        raise UsageError(f"--set model.{told[0]} is what a shape says", "name it there")
