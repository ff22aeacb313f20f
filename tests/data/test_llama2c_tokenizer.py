"""llama2.c tokenizers, read as SentencePiece models, against the merging loop of `run.c`."""

import struct
from itertools import pairwise

import pytest

from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError


@pytest.fixture(scope="module")
def path(shared):
    return shared / "checkpoints" / "stories260K" / "tok512.bin"


def read(path):
    data, at, pieces = path.read_bytes(), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + length], score))
        at += 8 + length
    return pieces


def encode(pieces, text):
    """Merge the best-scoring neighbours until none are left; characters without a piece as bytes."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    tokens = []
    for char in " " + text:
        raw = char.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        pairs = [
            (pieces[ids[joined]][1], -i, ids[joined])
            for i, (a, b) in enumerate(pairwise(tokens))
            if (joined := pieces[a][0] + pieces[b][0]) in ids
        ]
        if not pairs:
            return tokens
        _, at, merged = max(pairs)
        tokens[-at : -at + 2] = [merged]


def test_it_encodes_as_run_c_does(path):
    sp, pieces = load_tokenizer(path), read(path)
    assert (sp.vocab_size(), sp.unk_id(), sp.bos_id(), sp.eos_id()) == (512, 0, 1, 2)
    assert sp.IsByte(3)
    assert sp.IsByte(258)
    assert not sp.IsByte(259)
    for text in (
        "Once upon a time, there was a little girl named Lily.",
        "  two  spaces\nand a line; caf\u00e9, \u4e2d and \U0001f600 as bytes",
        'He said, "I\'m 42!"',
    ):
        assert sp.Encode(text) == encode(pieces, text)
        assert sp.Decode(sp.Encode(text)) == text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[:-1], "truncated"),
        (lambda d: d[:101], "truncated"),
        (lambda d: d[:4] + struct.pack("<fi", 0, 1) + b"a", "lack the single bytes"),
        (lambda d: d[:8] + struct.pack("<i", -9) + d[12:], "truncated"),
    ],
)
def test_damaged_files_say_so(path, tmp_path, change, says):
    broken = tmp_path / "tokenizer.bin"
    broken.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=says):
        load_tokenizer(broken)
