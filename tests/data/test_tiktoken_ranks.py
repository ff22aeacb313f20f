"""tiktoken's ranks: the same ids as the merges they stand for, GPT-2's alone."""

import base64
import json

import pytest

from golfpack.data import tiktoken_ranks
from golfpack.data.hf_tokenizer import BYTE_CHARACTERS
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError

tokenizers = pytest.importorskip("tokenizers")

TEXT = "The cats sat, they're 3 über-cats!\n\n  12 €\t"


def library_tokenizer():
    """Byte-level BPE of GPT-2's kind whose ids are ranks, its end last."""
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=264, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    t.train_from_iterator(["the cat sat on the mat; they're hers. " * 30], trainer)
    t.add_special_tokens(["<|endoftext|>"])
    return t


def ranks_of(t):
    byte_of = {c: b for b, c in BYTE_CHARACTERS.items()}
    vocab = json.loads(t.to_str())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    lines = [
        base64.b64encode(bytes(byte_of[c] for c in token)) + f" {i}\n".encode()
        for i, token in enumerate(tokens)
    ]
    return b"".join(lines)


@pytest.fixture
def as_if_gpt2(monkeypatch):
    monkeypatch.setattr(tiktoken_ranks, "_GPT2_COUNT", 264)
    monkeypatch.setattr(tiktoken_ranks, "_GPT2_FIRST", {0: b"!"})


@pytest.mark.usefixtures("as_if_gpt2")
def test_ranks_encode_as_the_merges_they_stand_for(tmp_path):
    theirs = library_tokenizer()
    path = tmp_path / "r.tiktoken"
    path.write_bytes(ranks_of(theirs))
    ours = load_tokenizer(path)
    assert ours.vocab_size() == 265
    assert ours.bos_id() == 264
    assert ours.IsControl(264)
    assert ours.Encode(TEXT) == theirs.encode(TEXT).ids
    assert ours.Decode(ours.Encode(TEXT)) == TEXT


def test_other_ranks_are_refused(tmp_path):
    path = tmp_path / "r.tiktoken"
    path.write_bytes(ranks_of(library_tokenizer()))
    with pytest.raises(UsageError, match="264 ranks that are not GPT-2's"):
        load_tokenizer(path)


@pytest.mark.usefixtures("as_if_gpt2")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:5], b"?? 5\n", *lines[6:]], "line 6: not a token in base64"),
        (lambda lines: [*lines, lines[-1]], "line 265: not a token in base64 and a rank of its own"),
        (lambda lines: lines[:-2] + lines[-1:], "lacks a rank below 263"),
        (lambda lines: [*lines[:-1], b"emVicmFz 263\n"], "rank 263 is no merge of two tokens"),
    ],
)  # fmt: skip
def test_damaged_ranks_say_what_is_wrong(change, message, tmp_path):
    path = tmp_path / "r.tiktoken"
    path.write_bytes(b"".join(change(ranks_of(library_tokenizer()).splitlines(keepends=True))))
    with pytest.raises(UsageError, match=message):
        load_tokenizer(path)
