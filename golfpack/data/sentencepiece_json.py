"""A SentencePiece BPE model as a `tokenizer.json` of the `tokenizers` library: the same ids for a text.

SentencePiece merges the pair of neighbours whose union is the piece of the highest score, again and
again; `tokenizers` merges by rank in a list of pairs. So every way to cut a piece into two pieces is a
pair, ranked by the piece's score. The model file is protobuf (`sentencepiece_model.proto`), whose few
fields that matter are read by hand: protobuf is no dependency.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.data.pieces import SPACE, message_fields
from golfpack.errors import UsageError

# SentencePiece.Type and TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL, _BYTE, _BPE = 1, 2, 3, 6, 2
# Fields of ModelProto, SentencePiece, TrainerSpec, NormalizerSpec.
_PIECES, _TRAINER, _NORMALISER = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
# transformers' name -> the trainer's field of its id, and the id where that is left out.
_SPECIAL = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2)}
_CHARSMAP, _DUMMY_PREFIX, _REMOVESPACES = 2, 3, 4


@dataclass(frozen=True)
class HubTokenizer:
    """A tokenizer as transformers reads it.

    Attributes:
        tokenizer_json: the file of that name.
        special: "bos_token", "eos_token" and "unk_token" -> their pieces, those that there are.
    """

    tokenizer_json: str
    special: dict[str, str]


def hub_tokenizer(data: bytes, path: Path) -> HubTokenizer:
    """The tokenizer.json of a SentencePiece model.

    Args:
        data: the whole `.model` file.
        path: where it came from, for messages.

    Raises:
        UsageError: no such model, or one whose ids `tokenizers` would not give.
    """
    try:
        model = _fields(data)
        pieces = [_piece(_fields(p)) for p in model.get(_PIECES, [])]
        trainer = _fields(model.get(_TRAINER, [b""])[-1])
        normaliser = _fields(model.get(_NORMALISER, [b""])[-1])
    except (ValueError, IndexError, KeyError, struct.error, TypeError) as error:
        raise UsageError(
            f"{path} is not a SentencePiece model", "give a .model file or a tokenizer.json"
        ) from error
    prefix = bool(_last(normaliser, _DUMMY_PREFIX, 1))
    _check(pieces, trainer, normaliser, path)
    special = {
        name: pieces[at][0]
        for name, (key, usual) in _SPECIAL.items()
        if (at := _signed(_last(trainer, key, usual))) in range(len(pieces))
    }
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for i, (text, _, kind) in enumerate(pieces)
            if kind in (_UNKNOWN, _CONTROL)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": SPACE}] if prefix else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _begins_with(special.get("bos_token"), vocab),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": special.get("unk_token"),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bool(_last(trainer, _BYTE_FALLBACK, 0)),
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(pieces, vocab),
        },
    }  # fmt: skip
    return HubTokenizer(json.dumps(found, ensure_ascii=False, indent=1), special)


def _begins_with(bos: str | None, vocab: dict[str, int]) -> dict[str, Any] | None:
    """The post-processor that puts `bos` before a text, as Llama's tokenizers do."""
    if bos is None:
        return None
    text = {"Sequence": {"id": "A", "type_id": 0}}
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, start, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}},
    }


def _merges(pieces: list[tuple[str, float, int]], vocab: dict[str, int]) -> list[list[str]]:
    """Every pair of pieces that is a piece, those of higher scores first."""
    pairs = [
        (-score, i, vocab[text[:cut]], text[:cut], text[cut:])
        for i, (text, score, kind) in enumerate(pieces)
        if kind == _NORMAL
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    return [[left, right] for _, _, _, left, right in sorted(pairs)]


def _check(
    pieces: list[tuple[str, float, int]],
    trainer: dict[int, list[Any]],
    normaliser: dict[int, list[Any]],
    path: Path,
) -> None:
    """Raise UsageError for what is not carried over exactly."""
    if not pieces:
        raise UsageError(f"{path} is an empty SentencePiece model", "train the tokenizer again")
    kinds = {kind for _, _, kind in pieces}
    wrong = None
    if _last(trainer, _MODEL_TYPE, 1) != _BPE:
        wrong = "is no BPE model"
    elif _last(normaliser, _CHARSMAP, b""):
        wrong = "normalises text (nmt_nfkc or the like)"
    elif _last(normaliser, _REMOVESPACES, 1):
        wrong = "removes spaces"
    elif kinds - {_NORMAL, _UNKNOWN, _CONTROL, _BYTE}:
        wrong = "has pieces that users defined, or unused ones"
    if wrong is not None:
        raise UsageError(
            f"{path} {wrong}, which tokenizer.json cannot say the same way",
            "give the model's tokenizer.json, or --like the checkpoint's folder",
        )


def _piece(fields: dict[int, list[Any]]) -> tuple[str, float, int]:
    """(text, score, type)."""
    (score,) = struct.unpack("<f", _last(fields, 2, b"\0\0\0\0"))
    return _last(fields, 1, b"").decode(), score, _last(fields, 3, _NORMAL)


def _last(fields: dict[int, list[Any]], key: int, default: Any) -> Any:
    return fields[key][-1] if key in fields else default


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> dict[int, list[Any]]:
    """Field number -> its values, of a protobuf message; errors as `message_fields`."""
    found: dict[int, list[Any]] = {}
    for key, value in message_fields(data):
        found.setdefault(key, []).append(value)
    return found
