"""Calibration tokens: a stretch of a shard or of text, or text that the model writes itself."""

import glob
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import generate

BOS = 1
SELF_GENERATED = "self-generated"
# What a model writes is surer than what people write; a little flatter than its own distribution it
# calibrates about as well as real text (docs/LOG.md). The record of 2026-03-25 has 0.8, which ends with
# a seventh to a third more KL.
SELF_TEMPERATURE = 1.2
# How many tokens a model writes side by side: what they need in KV caches.
WRITTEN_AT_ONCE = 65_536
# How often training sees a token of real text before the model writes some.
REPEATS = 8

_VALIDATION = re.compile(r"(?:^|[^a-z])val(?:id|idation)?(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class CalibTokens:
    """Sequences to calibrate on.

    Attributes:
        sequences: (n, length) int64.
        source: for the report: a path, or "self-generated".
        starts: (n,) where they stand in `stream`; None of text that the model wrote.
        stream: (tokens,) all that the source has; None as above.
    """

    sequences: np.ndarray
    source: str
    starts: np.ndarray | None = None
    stream: np.ndarray | None = None

    @property
    def sha256(self) -> str:
        """Of the token ids as little-endian uint32."""
        return hashlib.sha256(self.sequences.astype("<u4").tobytes()).hexdigest()

    def split(self, held_out: int) -> tuple["CalibTokens", "CalibTokens"]:
        """The first sequences to calibrate on, and the last `held_out` to measure on."""
        cut = len(self.sequences) - held_out
        return self._part(slice(cut)), self._part(slice(cut, None))

    def _part(self, which: slice) -> "CalibTokens":
        starts = None if self.starts is None else self.starts[which]
        return CalibTokens(self.sequences[which], self.source, starts, self.stream)


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
    tokens = read_stream(path, tokenizer)
    if len(tokens) < count * length:
        raise UsageError(
            f"{path} has {len(tokens):,} tokens; calibration asks for {count * length:,}, with those "
            "that are held out to measure on",
            "give a longer one, or ask for fewer with --calib-tokens",
        )
    if int(tokens.max()) >= vocab_size:
        raise UsageError(
            f"{path} has token {int(tokens.max())}, the model's vocabulary ends at {vocab_size - 1}",
            "use tokens made with the model's own tokenizer",
        )
    starts = np.linspace(0, len(tokens) - length, count).astype(np.int64)
    sequences = np.stack([tokens[s : s + length] for s in starts]).astype(np.int64)
    return CalibTokens(sequences, path, starts, tokens)


def self_generated(
    model: nn.Module, count: int, length: int, seed: int, temperature: float = SELF_TEMPERATURE
) -> CalibTokens:
    """`count` sequences of `length` tokens sampled from the model, each from BOS on."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, WRITTEN_AT_ONCE // length)
    with torch.no_grad():
        parts = [
            generate(
                model, min(at_once, count - start), length,
                bos=BOS, temperature=temperature, generator=generator,
            )
            for start in range(0, count, at_once)
        ]  # fmt: skip
    return CalibTokens(torch.cat(parts).cpu().numpy(), SELF_GENERATED)


def text_calls(count: int, length: int) -> int:
    """How often `self_generated` calls the model."""
    at_once = max(1, WRITTEN_AT_ONCE // length)
    return -(-count // at_once) * (length - 1)


def training_text(
    used: CalibTokens,
    held_out: CalibTokens,
    tokens: int,
    length: int,
    seed: int,
    write: Callable[[tuple[int, int]], CalibTokens] | None,
    half: bool = False,
) -> tuple[np.ndarray, int]:
    """Text to train on: windows of all that calibration's source has, and what the model writes.

    Windows that are held out to measure on are left out. A model as small as its training text learns
    that by heart. So a window is seen REPEATS times, and for more the model writes text, each token to
    be seen once; but text from a file stays half of the whole, however often that repeats it: it is what
    the model is for.

    Args:
        used, held_out: calibration tokens.
        tokens: how many to train on, about.
        length: of a sequence, if calibration's are so long.
        seed: of the order.
        write: (count, length) -> so much text by the model; None for none, however often others repeat.
        half: half of the whole is written beside text from a file, however little that is.

    Returns:
        (n, length) in the order of training; how many tokens of it the model wrote for this.
    """
    length = min(length, used.sequences.shape[1])
    windows = _windows(used, held_out, length)
    rows = max(1, tokens // length)
    fresh = 0 if write is None else max(0, rows - REPEATS * len(windows))
    if used.source != SELF_GENERATED:
        fresh = rows // 2 if half and write is not None else min(fresh, rows // 2)
    order = np.random.default_rng(seed)
    rounds = [order.permutation(len(windows)) for _ in range(-(-(rows - fresh) // len(windows)))]
    text = windows[np.concatenate(rounds)[: rows - fresh]].astype(np.int64)
    if fresh:
        assert write is not None
        text = np.concatenate([text, write((fresh, length)).sequences])[order.permutation(rows)]
    return text, fresh * length


def _windows(used: CalibTokens, held_out: CalibTokens, length: int) -> np.ndarray:
    """(n, length): one behind the other, of a source's whole stream, or of the sequences it wrote."""
    whole = used.sequences.shape[1] // length * length
    of_used = used.sequences[:, :whole].reshape(-1, length)
    if used.stream is None or held_out.starts is None:
        return of_used
    windows = used.stream[: len(used.stream) // length * length].reshape(-1, length)
    starts, kept_back = np.arange(len(windows)) * length, held_out.sequences.shape[1]
    apart = np.ones(len(windows), bool)
    for start in held_out.starts:
        apart &= (starts + length <= start) | (start + kept_back <= starts)
    # Where a text is hardly longer than what calibration took, that is as much, and its own windows.
    return windows[apart] if apart.sum() > len(of_used) else of_used
