"""The tokens of a run: from shards, arrays, lists or text, split as its preset says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from golfpack.base.progress import Notify
from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.data.alph_training import train_alph_tokenizer, write_alph_tokenizer
from golfpack.data.shards import as_tokens, read_tokens
from golfpack.data.stream import alph_text, check_apart, is_text, read_stream
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import Tokenizer, encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.models.ranks import Group

TOKENIZER_KINDS = ("sentencepiece", "alph")
SEPARATORS = ("bos", "none")
# What `train_vocab` writes into a run's folder.
TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "alph": "tokenizer.json"}


@dataclass(frozen=True)
class DataOptions:
    """What to train on.

    Attributes:
        tokens: token file, or a glob of shards; None with `text`.
        text: .txt or .jsonl files.
        val_tokens: held-out tokens, or text.
        val_fraction: share of the tokens' end that is held out instead (of the text's characters, where
            the tokenizer is ALPH's, whose parts are encoded apart).
        tokenizer: file of the tokens' tokenizer.
        train_vocab: train a tokenizer of that many pieces on the text first.
        tokenizer_kind: sentencepiece, or alph: character BPE, of the text's first 500,000 characters.
        separator: bos: BOS before each document of a text; none: nothing. ALPH's texts are one stream.
    """

    tokens: str | None = None
    text: tuple[Path, ...] = ()
    val_tokens: str | None = None
    val_fraction: float | None = None
    tokenizer: Path | None = None
    train_vocab: int | None = None
    tokenizer_kind: str = "sentencepiece"
    separator: str = "bos"

    def __post_init__(self) -> None:
        if self.tokenizer_kind not in TOKENIZER_KINDS:
            raise UsageError(
                f"unknown tokenizer kind {self.tokenizer_kind!r}", f"kinds: {TOKENIZER_KINDS}"
            )
        if self.separator not in SEPARATORS:
            raise UsageError(f"unknown separator {self.separator!r}", f"known: {SEPARATORS}")
        if self.val_fraction is not None and not 0.0 < self.val_fraction < 1.0:
            raise UsageError(
                f"the validation fraction is {self.val_fraction}", "choose one above 0 and below 1"
            )

    def with_given(self, given: "DataOptions") -> "DataOptions":
        """These options of a preset, with what was given before them; `check` is due then."""
        default, own = DataOptions(), self
        if given.tokens is not None or given.tokenizer is not None:
            own = replace(own, train_vocab=None, tokenizer_kind=default.tokenizer_kind)
        if given.tokens is not None:
            own = replace(own, separator=default.separator)
        if given.val_tokens is not None:
            own = replace(own, val_fraction=None)
        changed = {k: v for k, v in vars(given).items() if v != getattr(default, k)}
        return replace(own, **changed)

    def check(self) -> None:
        """Raise UsageError unless there is one source of tokens, and a tokenizer for text."""
        if (self.tokens is None) == (not self.text):
            raise UsageError("give either --tokens or --text", "--tokens 'shards/*_train_*.bin'")
        if self.train_vocab is not None and self.tokens is not None:
            raise UsageError("--train-vocab needs --text to train on", "leave it out with --tokens")
        if self.train_vocab is not None and self.tokenizer is not None:
            raise UsageError(
                "--tokenizer and --train-vocab are two tokenizers", "give one of them, not both"
            )
        default = DataOptions()
        if self.train_vocab is None and self.tokenizer_kind != default.tokenizer_kind:
            raise UsageError(
                f"--tokenizer-kind {self.tokenizer_kind} is of a tokenizer that is trained",
                "add --train-vocab N, or leave it out: a tokenizer's file tells what it is",
            )
        if self.tokens is not None and self.separator != default.separator:
            raise UsageError(
                f"data.separator={self.separator} is for text, and tokens have what they have",
                "leave it out with --tokens",
            )
        if self.text and self.train_vocab is None and self.tokenizer is None:
            raise UsageError(
                "text needs a tokenizer", "add --tokenizer FILE.model, or --train-vocab 1024"
            )
        if self.val_tokens is not None and self.val_fraction is not None:
            raise UsageError(
                "--val-tokens and --val-fraction are two held-out parts", "give one of them"
            )
        if self.val_tokens is not None:
            for source in self.sources:
                check_apart(self.val_tokens, source, "--val-tokens", "what is trained on")

    @property
    def sources(self) -> list[str]:
        return [self.tokens] if self.tokens is not None else list(map(str, self.text))


class Data(NamedTuple):
    """The tokens of a run.

    Attributes:
        tokens: (N,) uint16, or uint32 where one is beyond 65,535, to train on.
        val_tokens: (M,) of either, held out, or None.
        tokenizer: of both, or None where nobody named it.
        path: its file.
    """

    tokens: np.ndarray
    val_tokens: np.ndarray | None
    tokenizer: Tokenizer | None
    path: Path | None


def read_data(
    options: DataOptions, folder: Path, resume: bool, group: Group, notify: Notify
) -> Data:
    """Read or encode the tokens; the group's first process alone trains a tokenizer.

    Args:
        folder: of the run, which gets the tokenizer.
        resume: take the tokenizer that is there.

    Raises:
        UsageError: unreadable files, or a text that does not do for its tokenizer.
    """
    if not group.writes:
        group.wait()  # for the tokenizer, which is in the folder then
    path = options.tokenizer
    if options.train_vocab is not None:
        path = folder / TOKENIZER_FILES[options.tokenizer_kind]
        if group.writes and not (resume and path.exists()):
            notify("tokenizer", 0, 0, f"{options.train_vocab} pieces")
            _train_tokenizer(options, options.train_vocab, path)
    if group.writes:
        group.wait()
    tokenizer = None if path is None else load_tokenizer(path)
    tokens, held_out = _tokens(options, tokenizer, notify)
    if options.val_tokens is not None:
        held_out = read_stream(options.val_tokens, tokenizer)
    return Data(tokens, held_out, tokenizer, path)


def split_at(count: int, fraction: float) -> int:
    """How many of `count` things in order are trained on, where the last `fraction` is held out."""
    return int((1.0 - fraction) * count)


def _train_tokenizer(options: DataOptions, vocab_size: int, path: Path) -> None:
    if options.tokenizer_kind == "alph":
        text = "".join(map(alph_text, options.text))
        write_alph_tokenizer(train_alph_tokenizer(text, vocab_size), path)
    else:
        train_tokenizer(read_documents(options.text), vocab_size, path)


def _tokens(
    options: DataOptions, tokenizer: Tokenizer | None, notify: Notify
) -> tuple[np.ndarray, np.ndarray | None]:
    """The stream to train on and, where a fraction is held out, its end."""
    fraction = options.val_fraction
    if isinstance(tokenizer, AlphTokenizer) and options.text:
        text = "".join(map(alph_text, options.text))
        notify("tokens", 0, 0, f"{len(text):,} characters")
        cut = len(text) if fraction is None else split_at(len(text), fraction)
        held_out = None if fraction is None else tokenizer.encode(text[cut:]).tokens
        return tokenizer.encode(text[:cut]).tokens, held_out
    if options.tokens is not None:
        if is_text(options.tokens):
            raise UsageError(f"{options.tokens} is text", "give it with --text")
        tokens = read_tokens(options.tokens)
    else:
        assert tokenizer is not None  # `check` saw to it
        documents = list(read_documents(options.text))
        notify("tokens", 0, 0, f"{len(documents):,} documents")
        tokens = _encoded(tokenizer, documents, options.separator)
    if fraction is None:
        return tokens, None
    cut = split_at(tokens.size, fraction)
    return tokens[:cut], tokens[cut:]


def _encoded(tokenizer: Tokenizer, documents: Sequence[str], separator: str) -> np.ndarray:
    if separator == "bos":
        return encode_documents(tokenizer, documents)
    parts = [np.array(tokenizer.Encode(d), np.uint32) for d in documents]
    return as_tokens(np.concatenate(parts), "the text")
