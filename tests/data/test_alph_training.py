"""ALPH's tokenizer is learnt as its trainer does."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from golfpack.data.alph_training import train_alph_tokenizer, write_alph_tokenizer
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError


def learnt_slowly(text: str, size: int) -> list[tuple[str, str]]:
    """Merges by counting every pair anew each time, the first of equals first."""
    pieces, merges = list(text), []
    for _ in range(size - len(set(text))):
        counts = Counter(pairwise(pieces))  # keeps the order of first sight
        (left, right), most = max(counts.items(), key=lambda item: item[1])
        assert most > 1
        merges.append((left, right))
        out, i = [], 0
        while i < len(pieces):
            joined = pieces[i : i + 2] == [left, right]
            out.append(left + right if joined else pieces[i])
            i += 1 + joined
        pieces = out
    return merges


@pytest.mark.parametrize("letters", ["ab", "abcdef ", "aé𝄞ﬀ "])
def test_merges_are_those_of_plain_counting(letters: str) -> None:
    rng = np.random.default_rng(len(letters))
    text = "".join(rng.choice(list(letters), 900, p=rng.dirichlet(np.ones(len(letters)))))
    size = len(set(text)) + 25
    found = train_alph_tokenizer(text, size)
    assert [(found.vocab[a], found.vocab[b]) for a, b in found.merges] == learnt_slowly(text, size)
    assert found.vocab_size() == size
    assert found.Decode(found.Encode(text)) == text


def test_characters_come_in_the_order_of_their_utf16() -> None:
    """A surrogate pair sorts before U+FB00, whose code point is smaller."""
    assert train_alph_tokenizer("bﬀ𝄞a", 4).vocab == ("a", "b", "𝄞", "ﬀ")


def test_it_is_written_as_checkpoints_carry_it(tmp_path: Path) -> None:
    trained = train_alph_tokenizer("the cat sat on the mat, the cat sat", 19)
    write_alph_tokenizer(trained, tmp_path / "t.json")
    read = load_tokenizer(tmp_path / "t.json")
    assert read == trained
    assert read.Decode(read.Encode("the cat Z sat")) == "the cat  sat"  # Z is dropped
    assert trained.encode("the cat Z sat").bytes.sum() == 13


@pytest.mark.parametrize(
    ("size", "named"), [(3, "does not hold the text's 5"), (99, "tells 7 tokens, not 99")]
)
def test_a_text_that_does_not_do_is_refused(size: int, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        train_alph_tokenizer("abcabc de"[:8], size)
