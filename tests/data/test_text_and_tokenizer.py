"""Documents from files, and tokenizers trained, loaded and applied."""

import json

import numpy as np
import pytest

from golfpack.data.shards import read_shard
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import UsageError

SENTENCES = [
    f"The {a} {n} {v} over {c} lazy dogs.\n\n  It was {a}."
    for a in ("quick", "slow", "brown")
    for n in ("fox", "train", "river")
    for v in ("jumps", "runs", "flows")
    for c in (12, 7, 300)
]


def test_documents_of_text_and_jsonl_files(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes(
        b"\n\n\none\r\ntwo\n\nstill one\n \n\t\n  three\n\n\n\n\n\n"
        b"four\n<|endoftext|>\nfive <|endoftext|>"
    )
    lines = tmp_path / "b.jsonl"
    lines.write_text(
        '\ufeff{"text": "x\\n\\n\\ny", "id": 1}\n\n{"text": " "}\n{"text": "z\u2028"}\n'
    )
    documents = list(read_documents([text, lines]))
    assert documents == ["one\ntwo\n\nstill one", "  three", "four", "five ", "x\n\n\ny", "z\u2028"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": 1}', "line 2"),
        ("a.jsonl", b'{"text": 1}', "line 1"),
        ("a.jsonl", b"[1", "line 1"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a\\ud800"}', "line 2: half of a surrogate pair"),
    ],
)
def test_bad_text_files(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        list(read_documents([tmp_path / name]))
    with pytest.raises(UsageError, match="there is no file"):
        list(read_documents([tmp_path / "absent.txt"]))


def test_a_trained_tokenizer_is_deterministic_lossless_and_marks_documents(tmp_path):
    paths = [tmp_path / "a.model", tmp_path / "b.model"]
    for path in paths:
        train_tokenizer(iter(SENTENCES), 320, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    sp = load_tokenizer(paths[0])
    assert (sp.pad_id(), sp.bos_id(), sp.eos_id(), sp.unk_id()) == (0, 1, 2, 3)
    documents = [*SENTENCES[:3], " two  spaces\n\ttab, caf\u00e9 \U0001f600 \u4e2d", ""]
    tokens = encode_documents(sp, documents)
    assert tokens.dtype == np.uint16
    starts = np.flatnonzero(tokens == 1).tolist()
    assert (starts[0], len(starts)) == (0, len(documents))
    parts = np.split(tokens, starts[1:])
    assert [sp.Decode(p[1:].tolist()) for p in parts] == documents
    assert encode_documents(sp, []).shape == (0,)


def test_tokenizers_that_cannot_be_used(tmp_path):
    with pytest.raises(UsageError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / "absent.model")
    for data in (b"", json.dumps({"a": 1}).encode(), b"\x80\x02garbage"):
        (tmp_path / "bad.model").write_bytes(data)
        with pytest.raises(UsageError, match="SentencePiece model"):
            load_tokenizer(tmp_path / "bad.model")
    for vocab_size, documents in ((40_000, SENTENCES), (100, SENTENCES), (300, [])):
        with pytest.raises(UsageError, match=f"cannot train a tokenizer of {vocab_size}") as caught:
            train_tokenizer(documents, vocab_size, tmp_path / "x.model")
        assert ".cc" not in caught.value.message
    assert not (tmp_path / "x.model").exists()


def test_the_hint_says_how_large_a_vocabulary_must_be(tmp_path):
    with pytest.raises(UsageError) as caught:
        train_tokenizer(SENTENCES, 270, tmp_path / "x.model")
    needed = int("".join(filter(str.isdigit, caught.value.hint or "0")))
    assert needed > 270
    train_tokenizer(SENTENCES, needed, tmp_path / "x.model")


def test_encoding_reproduces_the_challenges_shard(shared):
    sp = load_tokenizer(shared / "data/tokenizers/fineweb_1024_bpe.model")
    shard = read_shard(shared / "data/shards/fineweb10B_sp1024_val_first262k.bin", 20_000)
    documents = read_documents([shared / "data/text/fineweb_val_head.jsonl"])
    tokens = encode_documents(sp, [d for d, _ in zip(documents, range(50), strict=False)])
    assert len(tokens) > 20_000
    np.testing.assert_array_equal(tokens[:20_000], shard)
