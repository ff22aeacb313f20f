"""Tokenizers: load, train, encode documents into a token stream."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece

from golfpack.base.files import write_atomically
from golfpack.data import alph_header, hf_tokenizer, llama2c_tokenizer, tiktoken_ranks
from golfpack.data.alph_tokenizer import read_alph_tokenizer
from golfpack.data.pieces import PieceList
from golfpack.data.shards import as_tokens
from golfpack.errors import UsageError

# Memory for one training sentence, in bytes; longer lines would be skipped without a word.
_MAX_LINE_BYTES = 1 << 16


class Tokenizer(PieceList, Protocol):
    """What a tokenizer must offer: the part of SentencePiece's processor that golfpack uses.

    `bos_id` and `unk_id` are -1 where there is no such piece. `Decode` of `Encode` gives back the text,
    but for what the tokenizer loses.
    """

    def Encode(self, text: str, /) -> list[int]: ...
    def Decode(self, tokens: list[int], /) -> str: ...
    def bos_id(self) -> int: ...
    def unk_id(self) -> int: ...


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a SentencePiece model, llama2.c's, a tokenizer.json, GPT-2's ranks, an ALPH checkpoint's.

    Raises:
        UsageError: the file is missing or is none of them.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no tokenizer {path}", "give a SentencePiece .model file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    return read_tokenizer(data, path)


def read_tokenizer(data: bytes, path: Path) -> Tokenizer:
    """The tokenizer in a file's bytes; `path` is where they came from, for messages.

    Raises:
        UsageError: they are none that `load_tokenizer` reads.
    """
    sp = sentencepiece.SentencePieceProcessor()
    try:
        if hf_tokenizer.looks_like(data):
            return hf_tokenizer.HfTokenizer(data, path)
        if tiktoken_ranks.looks_like(data):
            return hf_tokenizer.HfTokenizer(tiktoken_ranks.tokenizer_json(data, path), path)
        if alph_header.looks_like(data):
            return read_alph_tokenizer(data, path)
        if llama2c_tokenizer.looks_like(data):
            data = llama2c_tokenizer.sentencepiece_model(data, path)
        loaded = sp.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise UsageError(
            f"{path} is not a SentencePiece model",
            "give a .model file or a tokenizer.json",
        ) from error
    if not loaded or sp.vocab_size() == 0:
        raise UsageError(f"{path} is an empty SentencePiece model", "train the tokenizer again")
    return sp


# A tokenizer's usual names in a model's folder, in the order of preference.
_USUAL_NAMES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")


def beside(checkpoint: Path) -> Path | None:
    """The tokenizer that comes with a checkpoint: inside it (ALPH), or in its folder under a usual name.

    Raises:
        UsageError: its folder has several .model files, none of them of a usual name.
    """
    if checkpoint.is_file():
        with checkpoint.open("rb") as file:
            if alph_header.is_binary(file.read(4)):
                return checkpoint
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for name in _USUAL_NAMES:
        if (folder / name).is_file():
            return folder / name
    models = sorted(folder.glob("*.model"))
    if len(models) > 1:
        raise UsageError(
            f"{folder} has {len(models)} tokenizers: {', '.join(m.name for m in models)}",
            "say which: --tokenizer FILE",
        )
    return models[0] if models else None


def shipped_bytes(path: Path) -> bytes:
    """What an artifact keeps of a tokenizer's file: all that `read_tokenizer` needs, and no more.

    A tokenizer.json goes without its white space, an ALPH checkpoint without everything else; any other
    file as it is.

    Raises:
        UsageError: as `load_tokenizer`.
    """
    load_tokenizer(path)
    data = path.read_bytes()
    if hf_tokenizer.looks_like(data):
        return _compact(json.loads(data))
    if not tiktoken_ranks.looks_like(data) and alph_header.looks_like(data):
        header, _ = alph_header.read_header(data, path)
        found = alph_header.sub_object(header, "tokenizerArtifacts", path) or header
        return _compact({key: found[key] for key in ("type", "vocab", "merges")})
    return data


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def train_tokenizer(documents: Iterable[str], vocab_size: int, out_path: str | Path) -> None:
    """Train a byte-fallback BPE tokenizer, as the challenge's are, and write it.

    Unlike the challenge's, it does not normalise: decoding gives the text back. Pieces never hold
    a space after their first character, which the challenge's byte table relies on. Deterministic:
    one thread, no sampling.

    Args:
        documents: training text.
        vocab_size: number of pieces, 4 control and 256 byte pieces included.
        out_path: the `.model` file to write.

    Raises:
        UsageError: the text is too little, or too varied, for that many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_lines(documents),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            character_coverage=0.999,
            split_digits=True,
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(
            f"cannot train a tokenizer of {vocab_size} pieces: {_reason(error)}", _advice(error)
        ) from error
    write_atomically(Path(out_path), model.getvalue())


def _lines(documents: Iterable[str]) -> Iterator[str]:
    """Lines of at most `_MAX_LINE_BYTES` bytes; a character takes four at most."""
    size = _MAX_LINE_BYTES // 4
    for document in documents:
        for line in document.split("\n"):
            yield from (line[i : i + size] for i in range(0, len(line), size))


def _reason(error: RuntimeError) -> str:
    """SentencePiece's message without its C++ source line and its advice on its own options."""
    message = str(error).rsplit("] ", 1)[-1].split(" Increase vocab_size")[0]
    return message.strip().rstrip(".") or "no text was given"


def _advice(error: RuntimeError) -> str:
    needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
    if needed is None:
        return "give more text, or another vocabulary size"
    return f"use a vocabulary of at least {needed[1]} pieces, or text with fewer characters"


def encode_documents(sp: Tokenizer, documents: Iterable[str]) -> np.ndarray:
    """Encode documents into one stream, with BOS before each, as the challenge's shards.

    Returns:
        tokens (n,) uint16, or uint32 where one is beyond 65,535.

    Raises:
        UsageError: the tokenizer has no BOS.
    """
    if sp.bos_id() < 0:
        raise UsageError("the tokenizer has no BOS piece", "use one that was trained with a bos_id")
    bos = [sp.bos_id()]
    parts = [np.array(bos + sp.Encode(d), dtype=np.uint32) for d in documents]
    return as_tokens(np.concatenate(parts) if parts else np.empty(0, np.uint32), "the text")
