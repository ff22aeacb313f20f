"""The pass that writes the artifact's bytes from the quantized tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from golfpack.base.convert import require
from golfpack.packer.autocode import Coding, choose_coding
from golfpack.packer.format.attached import tokenizer_parts
from golfpack.packer.format.codecs import make_codec
from golfpack.packer.format.codestreams import (
    ByteStream,
    CodeGroup,
    CodeStream,
    RansCodes,
    sortable,
)
from golfpack.packer.format.container import assemble
from golfpack.packer.format.streams import encode_tensors
from golfpack.packer.format.tensors import QTensor
from golfpack.packer.state import PackState, Pass, Stage, need
from golfpack.spec import ROLES, ModelSpec, check_roles


@dataclass(frozen=True)
class Encode(Pass):
    """Code every stream and assemble the file.

    Attributes:
        codec: for the codes: "rans" (golfpack's own coder), a codec id, a table with options, or
            "auto": the smallest of rans and every byte codec under both orders, with and without
            byte shuffle and sort, per stream. `filters`, `order` and `sort` go with one byte codec only.
        filters: for the codes, before a byte codec.
        order: "row" or "col": how a byte codec reads each code matrix.
        sort: store the rows of each matrix in an order of similarity (record of 2026-04-27): all
            matrices, or those of a list of roles; up to 16,384 rows each.
        group_by: "role" codes all tensors of a role as a stream of their own.
        side_codec: for steps, kept floats and the order of sorted rows.
        time_limit: seconds after which "auto" tries nothing more, and a warning says so. What it
            chose in the first round of the search stays for all rounds.
    """

    name: ClassVar[str] = "encode"
    stage: ClassVar[Stage] = "write"
    codec: str | dict[str, Any] = "rans"
    filters: tuple[str | dict[str, Any], ...] = ()
    order: Literal["row", "col"] = "row"
    sort: bool | tuple[str, ...] = False
    group_by: Literal["none", "role"] = "none"
    side_codec: str | dict[str, Any] = "brotli"
    time_limit: float = 120.0

    def __post_init__(self) -> None:
        if self.codec != "auto":
            self.code_stream()
        make_codec(self.side_codec)
        check_roles(self._sorted_roles(), "encode.sort")
        if self.codec in ("rans", "auto"):
            for option, given in (
                ("filters", self.filters),
                ("order", self.order == "col"),
                ("sort", self.sort),
            ):
                what = f"encode.{option} does nothing with codec {self.codec!r}"
                require(not given, what, f"leave out {option}, or name one byte codec")
        what = f"encode.time_limit is {self.time_limit}"
        require(self.time_limit >= 0, what, "give seconds, 0 or more")

    def requires(self, state: PackState) -> None:
        need(state, "tensors", self.name, "round")

    def run(self, state: PackState) -> PackState:
        state.notify("encode", 0, 0, str(self.codec))
        quantized = {n: t for n, t in state.tensors.items() if isinstance(t, QTensor)}
        coding = state.coding
        if coding is None or not coding.covers(quantized):
            coding = self._coding(state, quantized, ByteStream(make_codec(self.side_codec)))
        if not coding.complete:
            state = state.warn(
                f"encode.time_limit: {self.time_limit:g} s were too short to try every coding, so the "
                "choice depends on this machine's speed"
            )
        return encoded(replace(state, coding=coding))

    def _coding(
        self, state: PackState, quantized: Mapping[str, QTensor], side: ByteStream
    ) -> Coding:
        groups = _grouped(list(quantized), state.spec, self.group_by)
        if self.codec == "auto":
            return choose_coding(
                groups,
                quantized,
                side,
                self.time_limit,
                state.threads,
                lambda done, total, note: state.notify("auto", done, total, note),
            )
        stream, roles = self.code_stream(), self._sorted_roles()
        sort = sortable({n: t for n, t in quantized.items() if state.spec[n].role in roles})
        return Coding(tuple(CodeGroup(names, stream, sort & set(names)) for names in groups), side)

    def _sorted_roles(self) -> tuple[str, ...]:
        if isinstance(self.sort, bool):
            return ROLES if self.sort else ()
        return self.sort

    def code_stream(self) -> CodeStream:
        """How codes are coded. Raises UsageError for an unknown codec, filter or order."""
        if self.codec == "rans":
            return RansCodes()
        return ByteStream.from_config(
            {"codec": self.codec, "filters": self.filters, "order": self.order}
        )


def encoded(state: PackState) -> PackState:
    """The state with the file of its tensors, coded as `encode` chose to: `state.coding`."""
    spec, coding = state.spec, state.coding
    assert coding is not None
    manifest, streams = encode_tensors(
        state.tensors,
        {t.name: t.shape for t in spec.tensors},
        {t.name: t.role for t in spec.tensors},
        coding.groups,
        coding.side,
        state.threads,
    )
    entry, own_stream = tokenizer_parts(state.tokenizer)
    head: dict[str, Any] = {"family": spec.family, "config": spec.stored_config, **entry}
    if spec.source:
        head["source"] = dict(spec.source)
    return replace(state, blob=assemble(head | manifest, streams | own_stream))


def _grouped(names: Sequence[str], spec: ModelSpec, by: str) -> tuple[tuple[str, ...], ...]:
    """Tensors that share a code stream, in the order of their first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spec[name].role if by == "role" else "all", []).append(name)
    return tuple(tuple(group) for group in groups.values())
