"""tiktoken's files of ranks, read as a tokenizer.json.

A line holds a token's bytes in base64 and its rank, which is its id and its order among the merges
(openai/tiktoken, `load.py`). How text is split before merging is not in the file, and neither are the
special tokens: both are known of GPT-2's ranks alone (`r50k_base`), which are told by their number and
a few of them. Others are refused.
"""

import base64
import binascii
import itertools
import json
import re
from pathlib import Path

from golfpack.data.hf_tokenizer import BYTE_CHARACTERS
from golfpack.errors import UsageError

_LINE = re.compile(rb"([A-Za-z0-9+/]+=*) (\d+)")
END_OF_TEXT = "<|endoftext|>"
# What tells GPT-2's: how many there are, the first byte, the first merge.
_GPT2_COUNT, _GPT2_FIRST = 50_256, {0: b"!", 256: b" t"}


def looks_like(data: bytes) -> bool:
    """Whether a file may be one of ranks."""
    return _LINE.fullmatch(data.split(b"\n", 1)[0].strip()) is not None


def tokenizer_json(data: bytes, path: Path) -> bytes:
    """The tokenizer.json of a file of ranks.

    Raises:
        UsageError: a damaged file, ranks that do not merge, or others than GPT-2's.
    """
    tokens = read_ranks(data, path)
    if len(tokens) != _GPT2_COUNT or any(tokens[i] != t for i, t in _GPT2_FIRST.items()):
        raise UsageError(
            f"{path} holds {len(tokens):,} ranks that are not GPT-2's: the file does not say how text "
            "is split before they merge, nor which special tokens follow",
            "give the tokenizer.json of the same tokenizer",
        )
    return as_tokenizer_json(tokens, path)


def as_tokenizer_json(tokens: list[bytes], path: Path) -> bytes:
    """The tokenizer.json of tokens in the order of their ranks, with GPT-2's splitting and end."""
    pieces = ["".join(BYTE_CHARACTERS[b] for b in token) for token in tokens]
    end = len(tokens)
    return json.dumps({
        "version": "1.0",
        "added_tokens": [{
            "id": end, "content": END_OF_TEXT, "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)} | {END_OF_TEXT: end},
            "merges": _merges(tokens, pieces, path),
        },
    }).encode()  # fmt: skip


def read_ranks(data: bytes, path: Path) -> list[bytes]:
    """Each rank's bytes.

    Raises:
        UsageError: a damaged line, a rank that is missing or there twice, or a byte without a token.
    """
    by_rank: dict[int, bytes] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        try:
            token = base64.b64decode(match[1], validate=True) if match else b""
        except binascii.Error:
            token = b""
        if match is None or not token or int(match[2]) in by_rank:
            raise UsageError(
                f"{path}, line {number}: not a token in base64 and a rank of its own",
                "the file is damaged; copy it again",
            )
        by_rank[int(match[2])] = token
    tokens = [by_rank.get(i, b"") for i in range(len(by_rank))]
    if not all(tokens) or not {bytes([b]) for b in range(256)} <= set(tokens):
        raise UsageError(
            f"{path} lacks a rank below {len(tokens):,}, or a byte",
            "the file is damaged; copy it again",
        )
    return tokens


def _merges(tokens: list[bytes], pieces: list[str], path: Path) -> list[list[str]]:
    """The pair that makes each longer token: its two parts once all lower ranks have merged."""
    rank_of = {token: i for i, token in enumerate(tokens)}
    merges: list[list[str]] = []
    for rank, token in enumerate(tokens):
        if len(token) == 1:
            continue
        parts = _merged([bytes([b]) for b in token], rank_of, rank)
        if len(parts) != 2:
            raise UsageError(
                f"{path}: rank {rank} is no merge of two tokens of lower ranks",
                "the ranks are of another kind of tokenizer",
            )
        merges.append([pieces[rank_of[part]] for part in parts])
    return merges


def _merged(parts: list[bytes], rank_of: dict[bytes, int], below: int) -> list[bytes]:
    """Merge the pair of lowest rank, the leftmost first, as long as one has a rank below `below`."""
    while len(parts) > 2:
        ranks = [rank_of.get(a + b, below) for a, b in itertools.pairwise(parts)]
        at = min(range(len(ranks)), key=ranks.__getitem__)
        if ranks[at] >= below:
            break
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts
