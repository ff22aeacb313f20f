"""tokenizer.json: ids, text and bytes of byte-level BPE and of SentencePiece's pieces."""

import json

import numpy as np
import pytest

from golfpack.data.pieces import word_starts
from golfpack.data.tokenizer import encode_documents, load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, audit

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "The quick brown fox — über 12 €, naïve.\n\n  def f(x):\n\treturn x",
    " 日本語 text, 🙂 and more",
    "x",
]


def byte_level():
    """GPT-2's kind."""
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    t.train_from_iterator(["the cat sat on the mat, the dog did not. " * 30], trainer)
    return t


def pieces():
    """Llama's kind: a space is U+2581, unknown characters are spelled in bytes."""
    spelled = [f"<0x{b:02X}>" for b in range(256)]
    vocab = {p: i for i, p in enumerate(["<unk>", "<s>", "</s>", *spelled])}
    for text in ("▁", "t", "h", "e", "x", "▁t", "▁th", "▁the"):
        vocab[text] = len(vocab)
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    model = tokenizers.models.BPE(
        vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    t = tokenizers.Tokenizer(model)
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    d = tokenizers.decoders
    t.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()])
    return t


@pytest.fixture(params=[byte_level, pieces])
def saved(request, tmp_path):
    """(the library's tokenizer, its file)."""
    t = request.param()
    t.save(str(tmp_path / "tokenizer.json"))
    return t, tmp_path / "tokenizer.json"


def test_ids_and_text_are_the_librarys_own(saved):
    theirs, path = saved
    ours = load_tokenizer(path)
    assert ours.vocab_size() == theirs.get_vocab_size()
    for text in TEXTS:
        ids = ours.Encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.Decode(ids) == text


def test_every_byte_of_text_is_counted_once(saved):
    _, path = saved
    ours = load_tokenizer(path)
    table = ByteTable.from_tokenizer(ours, ours.vocab_size())
    stream = encode_documents(ours, TEXTS)
    assert int((stream == ours.bos_id()).sum()) == len(TEXTS)
    report = audit(ours, table, stream)
    total = sum(len(t.encode()) for t in TEXTS)
    # SentencePiece's table leaves out the space behind a document's start.
    assert report.table_bytes + report.uncounted_spaces == report.decoded_bytes == total
    cut = stream[: len(stream) // 2]  # within a character, as like as not
    assert audit(ours, table, cut).table_bytes == int(table.count(cut).sum())


def test_a_models_padded_outputs_stand_for_no_tokens(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    size = ours.vocab_size()
    outputs = -(-size // 64) * 64
    table = ByteTable.from_tokenizer(ours, outputs)
    assert table.warnings == (
        f"{outputs - size} of the model's {outputs} outputs are taken for padding",
    )
    tokens = encode_documents(ours, TEXTS)
    assert (table.count(tokens) == ByteTable.from_tokenizer(ours, size).count(tokens)).all()
    with pytest.raises(UsageError, match=f"token {size} at position 1 is outside the vocabulary"):
        table.count(np.array([0, size]))
    for wrong in (size - 1, outputs + 1, outputs + 128):
        with pytest.raises(UsageError, match=f"has {size} pieces, the model {wrong} outputs"):
            ByteTable.from_tokenizer(ours, wrong)


def test_words_start_where_a_space_does(saved):
    _, path = saved
    ours = load_tokenizer(path)
    starts = np.flatnonzero(word_starts(ours))
    assert starts.size
    assert all(ours.Decode([ours.Encode("x")[0], int(i)])[1:2] == " " for i in starts)


WORD_PIECE = {"type": "WordPiece", "prefix": "##", "cleanup": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "decoder": None}, "decodes by nothing"),
        (
            lambda c: {**c, "decoder": WORD_PIECE},
            "WordPiece",
        ),
        (lambda c: {**c, "model": {"type": "none of them"}}, "is not a readable tokenizer.json"),
    ],
)
def test_other_tokenizers_are_refused(change, message, tmp_path):
    config = change(json.loads(byte_level().to_str()))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        load_tokenizer(path)
