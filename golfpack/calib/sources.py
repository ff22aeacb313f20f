"""Calibration tokens: a stretch of a shard or of text, or text that the model writes itself."""

import glob
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from golfpack.data.shards import read_tokens
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import Tokenizer, encode_documents
from golfpack.errors import UsageError
from golfpack.models.base import generate

BOS = 1
# Sampling a little sharper than the model calibrates as well as real text (record of 2026-03-25).
SELF_TEMPERATURE = 0.8

_VALIDATION = re.compile(r"(?:^|[^a-z])val(?:id|idation)?(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class CalibTokens:
    """Sequences to calibrate on.

    Attributes:
        sequences: (n, length) int64.
        source: for the report: a path, or "self-generated".
    """

    sequences: np.ndarray
    source: str

    @property
    def sha256(self) -> str:
        """Of the token ids as little-endian uint32."""
        return hashlib.sha256(self.sequences.astype("<u4").tobytes()).hexdigest()

    def split(self, held_out: int) -> tuple["CalibTokens", "CalibTokens"]:
        """The first sequences to calibrate on, and the last `held_out` to measure on."""
        cut = len(self.sequences) - held_out
        return (
            CalibTokens(self.sequences[:cut], self.source),
            CalibTokens(self.sequences[cut:], self.source),
        )


def from_data(
    path: str,
    tokenizer: Tokenizer | None,
    vocab_size: int,
    count: int,
    length: int,
) -> CalibTokens:
    """`count` sequences of `length` tokens, evenly spread over a token shard or a text file.

    Raises:
        UsageError: validation data, unreadable, too short, or tokens beyond the vocabulary.
    """
    for file in (path, *glob.glob(path)):
        if _VALIDATION.search(Path(file).name):
            raise UsageError(
                f"{file} looks like validation data, which a build must never see",
                "calibrate on training data, or leave --calib out: the model then writes its own",
            )
    if path.endswith((".txt", ".jsonl")):
        if tokenizer is None:
            raise UsageError(
                f"text needs a tokenizer to calibrate on {path}", "add --tokenizer FILE.model"
            )
        tokens = encode_documents(tokenizer, read_documents([path]))
    else:
        tokens = read_tokens(path)
    if len(tokens) < count * length:
        raise UsageError(
            f"{path} has {len(tokens):,} tokens; calibration asks for {count * length:,}",
            "give a longer one, or ask for fewer with --calib-tokens",
        )
    if int(tokens.max()) >= vocab_size:
        raise UsageError(
            f"{path} has token {int(tokens.max())}, the model's vocabulary ends at {vocab_size - 1}",
            "use tokens made with the model's own tokenizer",
        )
    starts = np.linspace(0, len(tokens) - length, count).astype(np.int64)
    sequences = np.stack([tokens[s : s + length] for s in starts]).astype(np.int64)
    return CalibTokens(sequences, path)


def self_generated(model: nn.Module, count: int, length: int, seed: int) -> CalibTokens:
    """`count` sequences of `length` tokens sampled from the model, each from BOS on."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        tokens = generate(
            model, count, length, bos=BOS, temperature=SELF_TEMPERATURE, generator=generator
        )
    return CalibTokens(tokens.cpu().numpy(), "self-generated")
