"""llama2.c's `tokenizer.bin`, turned into the SentencePiece model it was exported from.

Format (karpathy/llama2.c, `tokenizer.py`, `export`): int32, the longest piece in bytes; then per piece
float32 score, int32 length, the bytes. Pieces spell a space as a space; 0 is unknown, 1 and 2 begin
and end a text, 3 to 258 are single bytes. The way back needs three messages of SentencePiece's
`sentencepiece_model.proto`, written here by hand: protobuf is no dependency. Text is encoded as `run.c`
does: a space is put before it and nothing in it is normalised.
"""

import struct
from pathlib import Path

from golfpack.errors import UsageError

_SPACE = "▁"  # SentencePiece's stand-in for a space
_UNKNOWN, _BOS, _EOS, _FIRST_BYTE, _LAST_BYTE = 0, 1, 2, 3, 258
# SentencePiece.Type, and TrainerSpec.ModelType.
_NORMAL, _TYPE_UNKNOWN, _CONTROL, _BYTE, _BPE = 1, 2, 3, 6, 2
_LONGEST = 1 << 16


def looks_like(data: bytes) -> bool:
    """Whether a file begins like a llama2.c tokenizer; a SentencePiece model never does."""
    return len(data) > 12 and 0 < struct.unpack_from("<i", data)[0] < _LONGEST


def sentencepiece_model(data: bytes, path: Path) -> bytes:
    """The serialised SentencePiece model of a llama2.c tokenizer.

    Args:
        data: the whole file, of which `looks_like` is true.
        path: where it came from, for messages.

    Raises:
        UsageError: truncated, or without the pieces every llama2.c tokenizer begins with.
    """
    pieces = _pieces(data, path)
    if len(pieces) <= _LAST_BYTE or pieces[_FIRST_BYTE][1] != b"<0x00>":
        raise UsageError(
            f"{path} is no llama2.c tokenizer: its {len(pieces)} pieces lack the single bytes",
            "give the tokenizer.bin that llama2.c exported, or a SentencePiece .model file",
        )
    coded = b"".join(_message(1, _piece(i, *piece)) for i, piece in enumerate(pieces))
    # model_type, vocab_size, byte_fallback; unk_id, bos_id, eos_id
    trainer = _number(3, _BPE) + _number(4, len(pieces)) + _number(35, 1)
    trainer += _number(40, _UNKNOWN) + _number(41, _BOS) + _number(42, _EOS)
    # name, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    normaliser = _message(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return coded + _message(2, trainer) + _message(3, normaliser)


def _pieces(data: bytes, path: Path) -> list[tuple[float, bytes]]:
    pieces, at = [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at) if at + 8 <= len(data) else (0.0, -1)
        at += 8 + length
        if length < 0 or at > len(data):
            raise UsageError(
                f"{path} is a truncated llama2.c tokenizer, or none at all",
                "give the tokenizer.bin that llama2.c exported, or a SentencePiece .model file",
            )
        pieces.append((score, data[at - length : at]))
    return pieces


def _piece(index: int, score: float, spelling: bytes) -> bytes:
    kind, text = _NORMAL, spelling.decode("utf-8", "replace").replace(" ", _SPACE)
    if index == _UNKNOWN:
        kind = _TYPE_UNKNOWN
    elif index in (_BOS, _EOS):
        kind, text = _CONTROL, text.strip()
    elif _FIRST_BYTE <= index <= _LAST_BYTE:
        kind = _BYTE
    return _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _message(field: int, payload: bytes) -> bytes:
    """A length-delimited field (protobuf encoding, wire type 2)."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    """A varint field (wire type 0)."""
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
