"""The ALPH tokenizer: merges in order, and no byte of the original text uncounted."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, audit

CHARACTERS = [" ", "a", "c", "e", "h", "s", "t", "é"]
MERGES = [["t", "h"], ["th", "e"], ["the", " "], ["a", "t"], [" ", " "], ["a", "a"], ["at", " "]]


def artifacts(**changes):
    vocab = CHARACTERS + [left + right for left, right in MERGES]
    merges = [[vocab.index(left), vocab.index(right)] for left, right in MERGES]
    return {"type": "bpe", "vocabSize": 15, "vocab": vocab, "merges": merges, **changes}


TOKENIZER = AlphTokenizer.from_artifacts(artifacts(), "test")


def pieces(text):
    return [TOKENIZER.vocab[i] for i in TOKENIZER.encode(text).tokens]


def test_merges_apply_in_order_from_left_to_right():
    assert pieces("the cat") == ["the ", "c", "at"]
    assert pieces("that ") == ["th", "at "]
    assert pieces("aaaaa") == ["aa", "aa", "a"]
    assert pieces("the  c") == ["the ", " ", "c"]  # "the " was learned before two spaces


def test_dropped_characters_are_reported_and_their_bytes_counted():
    encoded = TOKENIZER.encode("the cat Z sat")
    # What is left reads "the cat  sat", so that the spaces around the Z are neighbours.
    assert TOKENIZER.Decode(encoded.tokens.tolist()) == "the cat  sat"
    assert encoded.tokens.dtype == np.uint16
    assert encoded.dropped == {"Z": 1}
    assert pieces("the cat Z sat") == ["the ", "c", "at", "  ", "s", "at"]
    assert encoded.bytes.tolist() == [4, 1, 2, 3, 1, 2]  # the two spaces have the byte of the Z
    assert int(encoded.bytes.sum()) == 13


def test_bytes_are_those_of_utf8_and_leading_ones_belong_to_the_first_token():
    encoded = TOKENIZER.encode("€Zéa€")
    assert pieces("€Zéa€") == ["é", "a"]
    assert encoded.bytes.tolist() == [3 + 1 + 2, 1 + 3]
    assert encoded.dropped == {"€": 2, "Z": 1}


def one_merge_at_a_time(text):
    """The definition: each merge, in order, over the whole text."""
    tokens = [c for c in text if c in CHARACTERS]
    for left, right in MERGES:
        i = 0
        while i + 1 < len(tokens):
            if tokens[i] == left and tokens[i + 1] == right:
                tokens[i : i + 2] = [left + right]
            i += 1
    return tokens


@given(
    st.text(alphabet="athe ésc€Z", max_size=40).filter(lambda t: any(c in t for c in CHARACTERS))
)
def test_any_text_round_trips_but_for_what_was_dropped(text):
    encoded = TOKENIZER.encode(text)
    assert pieces(text) == one_merge_at_a_time(text)
    kept = "".join(c for c in text if c in CHARACTERS)
    assert TOKENIZER.Decode(encoded.tokens.tolist()) == kept
    assert len(kept) + sum(encoded.dropped.values()) == len(text)
    assert len(encoded.bytes) == len(encoded.tokens)
    assert int(encoded.bytes.sum()) == len(text.encode())
    assert (encoded.bytes > 0).all()


def test_the_byte_table_counts_what_the_tokens_spell():
    """All but the dropped bytes: for those the counts of `encode` go beside the tokens."""
    text = "the cat Z sat at the hat"
    encoded = TOKENIZER.encode(text)
    table = ByteTable.from_tokenizer(TOKENIZER, 15)
    counts = table.count(encoded.tokens)
    audited = audit(TOKENIZER, table, encoded.tokens)
    assert audited.table_bytes == audited.decoded_bytes == len(text) - 1 - 4  # "Z", and "the "
    assert np.flatnonzero(encoded.bytes[1:] - counts).tolist() == [2]
    assert encoded.bytes[3] - counts[2] == 1
    with pytest.raises(UsageError, match="the tokenizer has 15 pieces, the model 16 outputs"):
        ByteTable.from_tokenizer(TOKENIZER, 16)


def test_text_without_any_known_character_is_refused():
    for text in ("ZZ", ""):
        with pytest.raises(UsageError, match="no character of the text is in the tokenizer's"):
            TOKENIZER.encode(text)


def test_tokenizers_load_from_their_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(artifacts()), encoding="utf-8")
    assert load_tokenizer(path) == TOKENIZER
    assert TOKENIZER.vocab_size() == 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is not a SentencePiece model"),
        ("{", "its JSON cannot be read"),
        ({"type": "char"}, "holds no BPE tokenizer"),
        ({"vocab": ["a", 7]}, "holds no BPE tokenizer"),
        ({"merges": [[1, 2, 3]]}, "holds no BPE tokenizer"),
        ({"merges": [[1, True]]}, "holds no BPE tokenizer"),
        ({"vocab": ["a"]}, "1 tokens with 7 merges are no vocabulary"),
        ({"vocab": ["a"] * 65_537, "merges": []}, "65537 tokens with 0 merges"),
        ({"vocab": ["a", "b", "ac"], "merges": [[0, 1]]}, "token 2 is 'ac', which is not what"),
        ({"vocab": ["a", "b", "ab"], "merges": [[0, 2]]}, "its merge of 0 and 2"),
        ({"vocab": ["a", "b", "ab"], "merges": [[0, -2]]}, "its merge of 0 and -2"),
        ({"vocab": ["a", "bb", "abb"], "merges": [[0, 1]]}, "without a merge is not one character"),
    ],
)
def test_damaged_tokenizers_say_what_is_wrong(text, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(text if isinstance(text, str) else json.dumps(artifacts(**text)))
    with pytest.raises(UsageError, match=re.escape(message)):
        load_tokenizer(path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / "absent.json")
