"""The byte table's traps, and the audit that catches a table or a stream that is wrong."""

import dataclasses
import io
import math

import numpy as np
import pytest
import sentencepiece

from golfpack.data.shards import read_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import CorruptError, ExitCode, UsageError
from golfpack.eval.bytes import ByteTable, audit, loss_and_bpb

TEXT = ["the cat sat on the mat", "a dog and the cat ran to the red hat", "we sat there"] * 20
BOS, UNK = 1, 3


@pytest.fixture(scope="module")
def sp(tmp_path_factory):
    """Byte fallback, no dummy prefix: as golfpack trains them."""
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    train_tokenizer(TEXT, 300, path)
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def unk_sp():
    """No byte fallback, and a dummy prefix: unknown characters become unk."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT), model_writer=model, model_type="bpe", vocab_size=40,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.getvalue())
    return processor


def table_of(sp):
    return ByteTable.from_tokenizer(sp, sp.vocab_size())


def test_a_leading_space_counts_only_after_a_piece_that_is_not_a_boundary(sp):
    the, cat = sp.PieceToId("▁the"), sp.PieceToId("▁cat")
    assert UNK not in (the, cat)
    counts = table_of(sp).count(np.array([BOS, the, cat, BOS, cat, UNK, the]))
    assert counts.tolist() == [3, 4, 0, 3, 0, 3]
    assert counts.dtype == np.int64


def test_byte_pieces_count_one_each_and_are_no_boundary(sp):
    tokens = np.array([BOS, *sp.Encode("é"), sp.PieceToId("▁cat")])
    assert [sp.IdToPiece(i) for i in tokens[1:3].tolist()] == ["<0xC3>", "<0xA9>"]
    assert table_of(sp).count(tokens).tolist() == [1, 1, 4]


def test_wide_characters_count_their_utf8_bytes():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["你好 世界"] * 9), model_writer=model, model_type="bpe",
        vocab_size=9, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    chinese = sentencepiece.SentencePieceProcessor()
    chinese.LoadFromSerializedProto(model.getvalue())
    tokens = np.array([chinese.bos_id(), *chinese.Encode("你好 世界")])
    assert table_of(chinese).count(tokens).sum() == len("你好 世界".encode())


def test_the_audit_agrees_with_the_text(sp):
    documents = [*TEXT[:3], "caf\u00e9 \U0001f600\u4e2d\n\n  x ", " starts with a space", ""]
    tokens = encode_documents(sp, documents)
    result = audit(sp, table_of(sp), tokens)
    assert result.documents == len(documents)
    assert result.decoded_bytes == sum(len(d.encode()) for d in documents)
    assert result.uncounted_spaces == 1
    assert result.table_bytes == result.decoded_bytes - 1
    assert result.unk_tokens == 0


def test_the_audit_holds_wherever_the_stream_is_cut(sp):
    tokens = encode_documents(sp, ["a \U0001f600\u4e2d\u00e9", "\u4e2d\u4e2d the cat"])
    table = table_of(sp)
    for start in range(len(tokens) - 1):
        for stop in range(start + 2, len(tokens) + 1):
            part = tokens[start:stop]
            result = audit(sp, table, part)
            assert result.table_bytes == table.count(part).sum()
            assert result.decoded_bytes == result.table_bytes


def test_unknown_pieces_count_nothing_and_are_reported(unk_sp):
    tokens = encode_documents(unk_sp, ["the \u4e2d cat", "sat \u4e2d\u00e9"])
    result = audit(unk_sp, table_of(unk_sp), tokens)
    assert result.unk_tokens == 2  # one run of unknown characters is one piece
    # "the ", then " cat" without the space that follows the unknown piece, then "sat ".
    assert result.table_bytes == 4 + 3 + 4
    assert result.uncounted_spaces == 3  # after the unk, and SentencePiece's own before each text


def test_a_wrong_table_or_stream_is_corrupt(sp):
    table, tokens = table_of(sp), encode_documents(sp, TEXT)
    twice = dataclasses.replace(table, base=table.base + table.leading_space)
    with pytest.raises(CorruptError, match="the byte table counts") as caught:
        audit(sp, twice, tokens)
    assert caught.value.exit_code == ExitCode.CORRUPT
    broken = np.array([BOS, sp.PieceToId("<0xC3>"), *sp.Encode("cat")])
    with pytest.raises(CorruptError):
        audit(sp, table, broken)


def test_other_vocabularies_are_usage_errors(sp):
    with pytest.raises(UsageError, match="300 pieces, the model 1024 outputs"):
        ByteTable.from_tokenizer(sp, 1024)
    with pytest.raises(UsageError, match="token 300 at position 2"):
        table_of(sp).count(np.array([1, 2, 300, 4], np.uint16))


def test_loss_and_bpb_are_summed_in_float64():
    nll = np.full(1 << 20, 0.1, np.float32)
    loss, bpb = loss_and_bpb(nll, np.full(1 << 20, 2))
    assert loss == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert bpb == pytest.approx(loss / 2 / math.log(2), rel=1e-12)
    with pytest.raises(UsageError, match="no bytes"):
        loss_and_bpb(nll[:1], np.array([0]))


@pytest.mark.parametrize(
    ("shard", "model", "size", "scored_bytes", "unk"),
    [
        ("fineweb10B_sp1024_val_first262k", "fineweb_1024_bpe", 1024, 159_910, 0),
        ("books_sp1024nb_val", "fineweb_1024_bpe.NO_BYTE_FALLBACK", 1024, 180_729, 68),
    ],
)
def test_reference_byte_counts(shared, shard, model, size, scored_bytes, unk):
    sp = load_tokenizer(shared / f"data/tokenizers/{model}.model")
    tokens = read_shard(shared / f"data/shards/{shard}.bin", 65_537)
    result = audit(sp, ByteTable.from_tokenizer(sp, size), tokens)
    assert (result.table_bytes, result.unk_tokens) == (scored_bytes, unk)
