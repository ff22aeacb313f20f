"""What a SentencePiece .model says of its pieces, read from the file itself: no library needed.

A `.model` is a protobuf message, ModelProto (google/sentencepiece, `sentencepiece_model.proto`): its
field 1, repeated, is a piece (1 its text, 3 its kind), its field 2 the trainer's options (46 the text of
BOS). Nothing else is looked at: bytes per token and documents need no more.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from golfpack.errors import UsageError

SPACE = "▁"  # SentencePiece's stand-in for a space

# Kinds of pieces, as the format numbers them; a piece that tells none is ordinary text.
_TEXT, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6
_PIECE, _TRAINER, _BOS_PIECE = 1, 2, 46


class PieceList(Protocol):
    """What a list of pieces tells of each: the part of SentencePiece's processor that counts bytes."""

    def vocab_size(self) -> int: ...
    def IdToPiece(self, token: int, /) -> str: ...
    def IsByte(self, token: int, /) -> bool: ...
    def IsControl(self, token: int, /) -> bool: ...
    def IsUnknown(self, token: int, /) -> bool: ...
    def IsUnused(self, token: int, /) -> bool: ...


def is_boundary(sp: PieceList, token: int) -> bool:
    """Whether a piece is no text of its own: control, unknown and unused ones."""
    return sp.IsControl(token) or sp.IsUnknown(token) or sp.IsUnused(token)


def word_starts(sp: PieceList) -> np.ndarray:
    """(pieces,) bool, whether each starts with a space; control, unknown and unused ones do not."""
    ids = range(sp.vocab_size())
    return np.array(
        [sp.IdToPiece(i).startswith(SPACE) and not is_boundary(sp, i) for i in ids], bool
    )


class Pieces:
    """The pieces of a SentencePiece model: `Tokenizer` but for encoding and decoding."""

    def __init__(self, data: bytes) -> None:
        """Read a whole .model file.

        Raises:
            UsageError: it is none, or truncated.
        """
        bos = "<s>"
        self._pieces: list[tuple[str, int]] = []
        try:
            for number, value in message_fields(data):
                if number == _PIECE:
                    piece = dict(message_fields(value))
                    self._pieces.append((str(piece[1], "utf-8"), int(piece.get(3, _TEXT))))  # type: ignore[arg-type]  # int: a TypeError, below
                elif number == _TRAINER:
                    bos = str(dict(message_fields(value)).get(_BOS_PIECE, b"<s>"), "utf-8")  # type: ignore[arg-type]
        except (IndexError, KeyError, TypeError, ValueError) as e:
            raise UsageError(
                "this is not a SentencePiece model", "give the .model file of the tokens"
            ) from e
        self._bos = next((i for i, p in enumerate(self._pieces) if p == (bos, _CONTROL)), -1)

    def vocab_size(self) -> int:
        """How many pieces there are."""
        return len(self._pieces)

    def bos_id(self) -> int:
        """The piece that begins documents; -1 where there is none."""
        return self._bos

    def IdToPiece(self, token: int, /) -> str:
        return self._pieces[token][0]

    def IsByte(self, token: int, /) -> bool:
        return self._pieces[token][1] == _BYTE

    def IsControl(self, token: int, /) -> bool:
        return self._pieces[token][1] == _CONTROL

    def IsUnknown(self, token: int, /) -> bool:
        return self._pieces[token][1] == _UNKNOWN

    def IsUnused(self, token: int, /) -> bool:
        return self._pieces[token][1] == _UNUSED


def message_fields(data: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a protobuf message; texts, messages and floats as bytes.

    Raises:
        IndexError, KeyError, ValueError, TypeError: this is no message.
    """
    if isinstance(data, int):
        raise TypeError("a number where a message belongs")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value, at = _varint(data, at) if key & 7 in (0, 2) else ({1: 8, 5: 4}[key & 7], at)
        if key & 7:
            size = value
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("truncated")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte from the lowest on, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
