"""The pass that writes the artifact's bytes from the quantised tensors."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from golfpack.packer.artifact import assemble
from golfpack.packer.coding.codecs import make_codec
from golfpack.packer.state import PackState, Pass, need
from golfpack.packer.streams import ByteStream, CodeStream, RansCodes, encode_tensors


@dataclass(frozen=True)
class Encode(Pass):
    """Code every stream and assemble the file.

    Attributes:
        codec: for the codes: "rans" (golfpack's own coder), a codec id, or a table with options.
        filters: for the codes, before a byte codec.
        order: "row" or "col": how a byte codec reads each code matrix.
        side_codec: for steps and kept floats.
    """

    name: ClassVar[str] = "encode"
    codec: str | dict[str, Any] = "rans"
    filters: tuple[str | dict[str, Any], ...] = ()
    order: Literal["row", "col"] = "row"
    side_codec: str | dict[str, Any] = "brotli"

    def __post_init__(self) -> None:
        self.code_stream()
        make_codec(self.side_codec)

    def requires(self, state: PackState) -> None:
        need(state, "tensors", self.name, "round")

    def run(self, state: PackState) -> PackState:
        state.notify("encode", 0, 0, str(self.codec))
        spec = state.spec
        manifest, streams = encode_tensors(
            state.tensors,
            {t.name: t.shape for t in spec.tensors},
            {t.name: t.role for t in spec.tensors},
            self.code_stream(),
            ByteStream(make_codec(self.side_codec)),
        )
        head = {"family": spec.family, "config": spec.config}
        return replace(state, blob=assemble(head | manifest, streams))

    def code_stream(self) -> CodeStream:
        """How codes are coded. Raises UsageError for an unknown codec, filter or order."""
        if self.codec == "rans":
            return RansCodes()
        return ByteStream.from_config(
            {"codec": self.codec, "filters": self.filters, "order": self.order}
        )
