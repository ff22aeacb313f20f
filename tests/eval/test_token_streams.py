"""Documents, side-car byte counts, round trips, and the tables by document and by position."""

import math

import numpy as np
import pytest

from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import CorruptError, UsageError
from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.roundtrip import text_round_trip, token_round_trip
from golfpack.eval.sidecar import find_sidecars, read_byte_counts


@pytest.mark.parametrize(
    ("tokens", "bounds"),
    [
        ([1, 5, 6, 1, 7, 8, 1, 9], [0, 3, 6, 7]),
        ([5, 6, 1, 7, 8], [0, 2, 4]),  # the stream begins within a document
        ([5, 6, 7], [0, 2]),
        ([1, 5, 6, 1], [0, 3]),  # a BOS that is only ever a target
        ([1, 1, 1, 4], [0, 1, 2, 3]),
        ([1, 4], [0, 1]),
    ],
)
def test_every_target_belongs_to_one_document(tokens, bounds):
    found = document_bounds(np.array(tokens), 1)
    assert found.tolist() == bounds
    assert found[-1] == len(tokens) - 1
    assert (np.diff(found) > 0).all()


def test_without_a_bos_piece_a_stream_is_one_document():
    assert document_bounds(np.array([3, 1, 4, 1, 5]), -1).tolist() == [0, 4]


def test_side_cars_count_the_bytes(tmp_path):
    tokens = np.array([1, 7, 9, 1, 7, 8])
    write_shard(tmp_path / "x_val_0.bin", tokens)
    write_shard(tmp_path / "x_val_bytes_0.bin", np.array([0, 3, 0, 0]))
    write_shard(tmp_path / "x_val_bytes_1.bin", np.array([5, 2, 9]))
    pattern = str(tmp_path / "x_val_*.bin")
    assert [p.name for p in find_sidecars(pattern)] == ["x_val_bytes_0.bin", "x_val_bytes_1.bin"]
    assert read_byte_counts(pattern, tokens, 1).tolist() == [3, 0, 0, 5, 2]
    assert read_byte_counts(pattern, tokens[:3], 1).tolist() == [3, 0]
    with pytest.raises(UsageError, match="7 or more byte counts for 6 tokens"):
        read_byte_counts(pattern, tokens, 1, whole=True)
    whole = np.append(tokens, 4)
    assert read_byte_counts(pattern, whole, 1, whole=True).tolist() == [3, 0, 0, 5, 2, 9]
    with pytest.raises(UsageError, match="7 byte counts for 8 tokens"):
        read_byte_counts(pattern, np.arange(8), 1)
    with pytest.raises(UsageError, match="no byte-count shard"):
        read_byte_counts(str(tmp_path / "x_val_0.bin"), tokens, 1)
    with pytest.raises(CorruptError, match="3 bytes for a BOS"):
        read_byte_counts(pattern, np.array([2, 1, 2]), 1)


def test_round_trips_show_what_a_tokenizer_loses(tmp_path):
    texts = ["the cat sat on the mat", "a dog ran to the red hat", "we sat there"] * 9
    train_tokenizer(texts, 300, tmp_path / "t.model")
    sp = load_tokenizer(tmp_path / "t.model")
    tokens = encode_documents(sp, [*texts[:3], "caf\u00e9\n  \U0001f600", "the end is cut"])
    bounds = document_bounds(tokens, 1)
    assert vars(token_round_trip(sp, tokens, bounds)) == {"documents": 4, "lossy": 0}
    assert vars(text_round_trip(sp, [*texts[:3], "caf\u00e9\n"])) == {"documents": 4, "lossy": 0}
    broken = tokens.copy()
    broken[2] = sp.unk_id()
    assert vars(token_round_trip(sp, broken, bounds)) == {"documents": 4, "lossy": 1}
    assert vars(token_round_trip(sp, tokens[1:], document_bounds(tokens[1:], 1)))["documents"] == 3


def test_a_normalising_tokenizer_changes_text_but_not_its_own_tokens(shared):
    sp = load_tokenizer(shared / "data/tokenizers/fineweb_1024_bpe.NO_BYTE_FALLBACK.model")
    documents = ["plain words", "two\n\nlines  and   spaces", "\u4e2d\u6587 text"]
    assert text_round_trip(sp, documents).lossy == 2
    tokens = encode_documents(sp, [*documents, "last"])
    assert token_round_trip(sp, tokens, document_bounds(tokens, 1)).lossy == 1  # the unknown ones


def test_tables_by_document_and_by_position():
    calls = []
    log = ScoreLog(5, np.array([1, 2, 0, 4, 4]), lambda *a: calls.append(a))
    log.write(0, np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3]))
    log.write(3, np.array([4.0, 6.0]), np.array([1, 2]))
    sizes = np.array([1, 2, 0, 4, 4])
    one, two, three = log.by_document(np.array([0, 2, 3, 5]), sizes)
    assert (one["tokens"], one["bytes"], one["loss"]) == (2, 3, 1.5)
    assert one["bpb"] == pytest.approx(3 / math.log(2) / 3)
    assert "bpb" not in two
    assert (three["start"], three["loss"]) == (3, 5.0)
    assert log.by_position() == [
        {"context": 1, "tokens": 2, "loss": 2.5},
        {"context": 2, "tokens": 2, "loss": 4.0},
        {"context": 3, "tokens": 1, "loss": 3.0},
    ]
    assert calls[0] == (3, 5, f"loss 2.0000, {6 / math.log(2) / 3:.4f} bpb")
    assert calls[1][:2] == (5, 5)
