"""`tokenizer.json` of the `tokenizers` library, with the bytes of text behind every token.

Two kinds are read, told by the decoder in the file: byte-level BPE (GPT-2 and its kin), whose tokens are
bytes written as printable characters (Radford et al. 2019; openai/gpt-2, `encoder.py`,
`bytes_to_unicode`), and SentencePiece's pieces, with spaces as U+2581 and bytes as <0xNN>. Of any other
the bytes that a token stands for are not known, and it is refused.
"""

import json
import re
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError

# What starts a document, in the order of preference.
_STARTS = ("<|begin_of_text|>", "<s>", "<bos>", "<|endoftext|>", "<|end_of_text|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


def looks_like(data: bytes) -> bool:
    """Whether a file may be a tokenizer.json."""
    head = data[:4096].lstrip()
    return head.startswith(b"{") and b'"version"' in head and b'"added_tokens"' in head


class HfTokenizer:
    """A tokenizer.json behind the interface of `data.tokenizer`.

    Attributes:
        byte_level: whether tokens are bytes, spaces among them, and no pieces of SentencePiece.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        """Raises: UsageError: the library is missing, the file is damaged, or of another kind."""
        try:
            import tokenizers
        except ImportError as error:
            raise UsageError(
                f"{path} is a tokenizer.json, which needs the tokenizers library",
                "pip install tokenizers",
            ) from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
            config = json.loads(data)
        except Exception as error:  # the library raises bare Exceptions
            raise UsageError(f"{path} is not a readable tokenizer.json: {error}") from error
        self.byte_level = "ByteLevel" in _kinds(config.get("decoder"))
        if not self.byte_level and not {"Metaspace", "Replace"} & _kinds(config.get("decoder")):
            raise UsageError(
                f"{path} decodes by {', '.join(sorted(_kinds(config.get('decoder')))) or 'nothing'}: "
                "the bytes of its tokens are not known",
                "byte-level BPE and SentencePiece's pieces are read",
            )
        special = {t["id"] for t in config["added_tokens"] if t.get("special")}
        self._special = frozenset(special)
        self._unknown = _unknown(config)
        self._unused = frozenset(i for i in range(self.vocab_size()) if self._piece(i) is None)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of text that a token of a byte-level tokenizer stands for."""
        piece = self._piece(token) or ""
        if token in self._added():
            return piece.encode()
        return bytes(_BYTE_OF[c] for c in piece)

    def _added(self) -> dict[int, Any]:
        return self._tokenizer.get_added_tokens_decoder()

    def _piece(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)

    # What follows is SentencePiece's interface.

    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def Encode(self, text: str, /) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def Decode(self, tokens: list[int], /) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def IdToPiece(self, token: int, /) -> str:
        """The piece; of a byte-level token that starts with a space, with SentencePiece's mark."""
        piece = self._piece(token) or ""
        if self.byte_level and token not in self._added() and self.token_bytes(token)[:1] == b" ":
            return _SPACE + piece[1:]
        return piece

    def bos_id(self) -> int:
        found = (self._tokenizer.token_to_id(name) for name in _STARTS)
        return next((i for i in found if i is not None), -1)

    def unk_id(self) -> int:
        return self._unknown

    def IsByte(self, token: int, /) -> bool:
        return not self.byte_level and _BYTE.fullmatch(self._piece(token) or "") is not None

    def IsControl(self, token: int, /) -> bool:
        return token in self._special and token != self._unknown

    def IsUnknown(self, token: int, /) -> bool:
        return token == self._unknown

    def IsUnused(self, token: int, /) -> bool:
        return token in self._unused


def _kinds(decoder: Any) -> set[str]:
    """The types of a decoder and of those it is a sequence of."""
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get("decoders") or []
    return {str(decoder.get("type"))}.union(*(_kinds(d) for d in inner))


def _unknown(config: dict[str, Any]) -> int:
    """The id of the unknown token, or -1."""
    model = config.get("model") or {}
    name, vocab = model.get("unk_token"), model.get("vocab") or {}
    if isinstance(model.get("unk_id"), int):
        return model["unk_id"]
    return int(vocab[name]) if isinstance(vocab, dict) and name in vocab else -1


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character -> byte: printable bytes are themselves, the rest are from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTE_OF = _byte_alphabet()
# The printable character of each byte.
BYTE_CHARACTERS = {byte: character for character, byte in _BYTE_OF.items()}
