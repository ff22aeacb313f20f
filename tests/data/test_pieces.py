"""The pieces of a .model, read from the file itself, are SentencePiece's own."""

import numpy as np
import pytest
import sentencepiece

from golfpack.data.pieces import Pieces
from golfpack.data.tokenizer import load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable

TEXT = ["the cat sat on the mat, é was ü\n" * 40, "0123456789 <s> </s> ▁ x" * 40]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "t.model"
    train_tokenizer(TEXT, 300, path)
    return path


def test_each_piece_is_as_sentencepiece_says(model):
    assert_same(model)


def test_each_piece_of_the_challenges_tokenizers_is_as_sentencepiece_says(shared):
    found = sorted((shared / "data" / "tokenizers").glob("*.model"))
    assert found
    for path in found:
        assert_same(path)


def test_another_name_for_bos_is_found(tmp_path):
    path = tmp_path / "t.model"
    with path.open("wb") as out:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(TEXT), model_writer=out, vocab_size=60, model_type="bpe",
            bos_piece="<start>", bos_id=2, eos_id=1, unk_id=0, minloglevel=2,
        )  # fmt: skip
    assert Pieces(path.read_bytes()).bos_id() == 2
    assert_same(path)


def assert_same(path):
    ours, theirs = Pieces(path.read_bytes()), load_tokenizer(path)
    assert ours.vocab_size() == theirs.vocab_size()
    assert ours.bos_id() == theirs.bos_id()
    for name in ("IdToPiece", "IsByte", "IsControl", "IsUnknown", "IsUnused"):
        for i in range(ours.vocab_size()):
            assert getattr(ours, name)(i) == getattr(theirs, name)(i), (name, i)
    a, b = (ByteTable.from_tokenizer(t, t.vocab_size()) for t in (ours, theirs))
    for part in ("base", "leading_space", "boundary"):
        assert np.array_equal(getattr(a, part), getattr(b, part))


def test_what_is_no_model_is_refused(model):
    data = model.read_bytes()
    for bad in (data[:-3], b"GOLF" + data, b"\x0a\x02\x08\x01", b"{}", b"\x0a\xff\xff\xff\xff\x7f"):
        with pytest.raises(UsageError, match="not a SentencePiece model"):
            Pieces(bad)
