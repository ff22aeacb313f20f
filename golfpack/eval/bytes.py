"""Bytes per token, the denominator of bits per byte, and the audit that it is right.

The table is the challenge's (openai/parameter-golf, `build_sentencepiece_luts`): a piece counts
its UTF-8 bytes, a byte piece one, and the boundary pieces (control, unknown, unused) none. The
space a piece starts with counts, except after a boundary piece. A table that is wrong by a few per
cent makes every figure wrong by as much, so `audit` compares it with decoded text.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from golfpack.data.hf_tokenizer import HfTokenizer
from golfpack.data.pieces import SPACE, PieceList, is_boundary, word_starts
from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import CorruptError, UsageError

# Outputs beyond the tokenizer's pieces: up to the next multiple of 128, or what large vocabularies keep
# free for later (Qwen 2: 271 of 151,936).
_MOST_PADDING, _MOST_SHARE = 128, 1 / 256


@dataclass(frozen=True)
class ByteTable:
    """What each token id contributes to the byte count.

    Attributes:
        base: (V,) int64, bytes of the piece without a leading space.
        leading_space: (V,) bool, whether the piece starts with a space.
        boundary: (V,) bool, control, unknown and unused pieces: a space after them is not counted.
        warnings: what is to be said of the tokenizer.
    """

    base: np.ndarray
    leading_space: np.ndarray
    boundary: np.ndarray
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_tokenizer(cls, sp: Tokenizer, vocab_size: int) -> "ByteTable":
        """Build the table of a tokenizer for a model with `vocab_size` outputs.

        A byte-level tokenizer may have fewer pieces, if the model's outputs are padded: to a multiple
        of 64, as trainers do for speed. The others never occur, or `count` raises.

        Raises:
            UsageError: the tokenizer has another number of pieces than the model has outputs.
        """
        if isinstance(sp, HfTokenizer) and sp.byte_level:
            return cls._of_bytes(sp, vocab_size)
        return cls.of_pieces(sp, vocab_size)

    @classmethod
    def of_pieces(cls, sp: PieceList, vocab_size: int) -> "ByteTable":
        """The table of pieces that mark the spaces they start with; errors as `from_tokenizer`."""
        _check_pieces(sp.vocab_size(), vocab_size)
        boundary = np.array([is_boundary(sp, i) for i in range(sp.vocab_size())], bool)
        base = np.zeros(len(boundary), np.int64)
        for i in np.flatnonzero(~boundary).tolist():
            piece = sp.IdToPiece(i)
            base[i] = 1 if sp.IsByte(i) else len(piece.removeprefix(SPACE).encode())
        return cls(base, word_starts(sp), boundary)

    @classmethod
    def _of_bytes(cls, sp: HfTokenizer, vocab_size: int) -> "ByteTable":
        """Of a byte-level tokenizer, where a token's space is one of its bytes, wherever it stands."""
        pieces, padding = sp.vocab_size(), vocab_size - sp.vocab_size()
        most = max(_MOST_PADDING, _MOST_SHARE * vocab_size)
        padded = 0 < padding < most and vocab_size % 64 == 0
        if not padded:
            _check_pieces(pieces, vocab_size)
        boundary = np.array([is_boundary(sp, i) for i in range(pieces)], bool)
        base = np.array([0 if b else len(sp.token_bytes(i)) for i, b in enumerate(boundary)])
        note = f"{padding} of the model's {vocab_size:,} outputs are taken for padding"
        warnings = (note,) if padding else ()
        return cls(base.astype(np.int64), np.zeros(pieces, bool), boundary, warnings)

    def count(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes of each target `tokens[1:]` given the token before it.

        Returns:
            (len(tokens) - 1,) int64.

        Raises:
            UsageError: a token is outside the vocabulary.
        """
        if tokens.size and int(tokens.max()) >= len(self.base):
            at = int((tokens >= len(self.base)).argmax())
            raise UsageError(
                f"token {int(tokens[at])} at position {at} is outside the vocabulary of "
                f"{len(self.base)}",
                "the tokens were made with another tokenizer",
            )
        previous, target = tokens[:-1], tokens[1:]
        return self.base[target] + (self.leading_space[target] & ~self.boundary[previous])


def _check_pieces(pieces: int, vocab_size: int) -> None:
    if pieces != vocab_size:
        raise UsageError(
            f"the tokenizer has {pieces} pieces, the model {vocab_size} outputs",
            "give the tokenizer the model was trained with",
        )


@dataclass(frozen=True)
class ByteAudit:
    """The table's byte count of a stream against the text SentencePiece decodes it to.

    Attributes:
        table_bytes: bytes of all targets by the table: the denominator of bits per byte.
        decoded_bytes: UTF-8 bytes of the decoded text, counted independently of the table.
        uncounted_spaces: spaces after a boundary piece, which the table leaves out by design;
            `decoded_bytes == table_bytes + uncounted_spaces`.
        unk_tokens: targets that are unknown pieces: text was lost, and counts no bytes.
        documents: BOS tokens among the targets and the first token.
    """

    table_bytes: int
    decoded_bytes: int
    uncounted_spaces: int
    unk_tokens: int
    documents: int


def audit(sp: Tokenizer, table: ByteTable, tokens: np.ndarray) -> ByteAudit:
    """Check the table against decoded text on the very tokens that are scored.

    Raises:
        CorruptError: the two counts differ and no rule of the table explains it.
    """
    counts = table.count(tokens)
    decoded = spaces = 0
    anchor = _anchor(sp, table)
    for start, stop in _stretches(table.boundary[tokens]):
        length = _decoded_bytes(sp, tokens, start, stop, anchor)
        uncounted = int(table.boundary[tokens[start - 1]] and table.leading_space[tokens[start]])
        expected = int(counts[start - 1 : stop - 1].sum()) + uncounted
        if length != expected:
            raise CorruptError(
                f"the byte table counts {expected} bytes for targets {start - 1}..{stop - 2}, "
                f"whose text has {length}",
                "bits per byte would be wrong: the tokenizer has pieces the challenge's byte table "
                "does not cover, or the tokens are not text of this tokenizer",
            )
        decoded += length
        spaces += uncounted
    return ByteAudit(
        table_bytes=int(counts.sum()),
        decoded_bytes=decoded,
        uncounted_spaces=spaces,
        unk_tokens=int((tokens[1:] == sp.unk_id()).sum()),
        documents=int((tokens == sp.bos_id()).sum()),
    )


def _stretches(boundary: np.ndarray) -> Iterator[tuple[int, int]]:
    """Maximal runs [start, stop) of targets (positions >= 1) that are not boundary pieces."""
    edges = np.concatenate(([True], boundary[1:], [True]))
    ends = np.flatnonzero(edges)
    for before, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if stop > before + 1:
            yield before + 1, stop


def _anchor(sp: Tokenizer, table: ByteTable) -> int:
    """A piece to put before a stretch, because decoding drops a space at the very beginning."""
    for i in np.flatnonzero(~table.boundary & ~table.leading_space).tolist():
        if not sp.IsByte(i):
            return i
    raise UsageError("the tokenizer has no piece without a leading space", "use another tokenizer")


def _decoded_bytes(
    sp: Tokenizer,
    tokens: np.ndarray,
    start: int,
    stop: int,
    anchor: int,
) -> int:
    """UTF-8 bytes of the text of tokens[start:stop].

    The stream may begin or end inside a character that is spelled in byte pieces; such bytes do not
    decode, and count one each.
    """
    ids = tokens[start:stop].tolist()
    if isinstance(sp, HfTokenizer) and sp.byte_level:
        data, text = b"".join(map(sp.token_bytes, ids)), sp.Decode(ids)
        return len(data) if data.decode(errors="replace") == text else len(text.encode())
    head = _byte_values(sp, ids[:3])
    first = _continuation_bytes(head) if start == 1 and sp.IsByte(int(tokens[0])) else 0
    last = _unfinished_bytes(_byte_values(sp, ids[:-4:-1])) if stop == len(tokens) else 0
    text = sp.Decode([anchor, *ids[first : len(ids) - last]])
    return first + last + len(text.encode()) - len(sp.IdToPiece(anchor).encode())


def _byte_values(sp: Tokenizer, ids: list[int]) -> list[int]:
    """Values of the byte pieces that `ids` begins with."""
    values = []
    for i in ids:
        if not sp.IsByte(i):
            break
        values.append(int(sp.IdToPiece(i)[3:5], 16))  # spelled <0xE2>
    return values


def _continuation_bytes(values: list[int]) -> int:
    """How many bytes at the beginning continue a character that began before."""
    n = 0
    while n < len(values) and values[n] & 0xC0 == 0x80:
        n += 1
    return n


def _unfinished_bytes(backwards: list[int]) -> int:
    """How many bytes at the end (given last first) begin a character that does not end."""
    for n, value in enumerate(backwards, start=1):
        if value & 0xC0 != 0x80:
            width = 4 if value >= 0xF0 else 3 if value >= 0xE0 else 2 if value >= 0xC0 else 1
            return n if width > n else 0
    return 0


def loss_and_bpb(nll: np.ndarray, target_bytes: np.ndarray) -> tuple[float, float]:
    """Mean loss and bits per byte of scored targets, summed in float64.

    Args:
        nll: negative log-likelihood of each target, nats.
        target_bytes: bytes of each target, from `ByteTable.count`.

    Returns:
        (val_loss in nats per token, val_bpb in bits per byte).

    Raises:
        UsageError: the targets hold no bytes.
    """
    total = float(nll.sum(dtype=np.float64))
    scored_bytes = int(target_bytes.sum())
    if scored_bytes == 0:
        raise UsageError(
            "the scored tokens hold no bytes of text", "score a longer stretch, of real text"
        )
    return total / len(nll), total / math.log(2) / scored_bytes
